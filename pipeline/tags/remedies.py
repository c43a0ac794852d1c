"""What to do about missed and about wrong classes; remedies.yaml explains its rows."""

from pathlib import Path

import yaml

REMEDIES = yaml.safe_load(Path(__file__).with_name("remedies.yaml").read_text(encoding="utf-8"))

ADVICE = {
    note: ", or ".join(r["remedy"] for r in REMEDIES if note in r.get("notes", ())).replace("`", "")
    for note in ("no tags", "same tags", "missing class", "near-synonyms")
}
"""A remark → what it should advise, without a full stop: "lower tags.min_score, or …"."""


def remedies_table() -> str:
    """Returns the table as Markdown."""
    names = ("symptom", "remedy", "effect", "data")
    rows = [("you see", "do this", "effect", "measured on"), ["---"] * len(names)]
    rows += [[row.get(name, "–") for name in names] for row in REMEDIES]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)
