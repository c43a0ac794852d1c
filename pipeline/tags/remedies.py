"""What to do about missed and about wrong classes; remedies.yaml explains its rows."""

from pathlib import Path

import yaml

REMEDIES = yaml.safe_load(Path(__file__).with_name("remedies.yaml").read_text(encoding="utf-8"))


def advice(note: str) -> str:
    """Returns what a remark should advise, without a full stop: "lower tags.min_score, or …"."""
    found = (row["remedy"] for row in REMEDIES if note in row.get("notes", ()))
    return ", or ".join(found).replace("`", "")


def remedies_table() -> str:
    """Returns the table as Markdown."""
    names = ("symptom", "remedy", "effect", "data")
    rows = [("you see", "do this", "effect", "measured on"), ["---"] * len(names)]
    rows += [[row.get(name, "–") for name in names] for row in REMEDIES]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)
