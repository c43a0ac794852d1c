"""What pages and notes advise about missed and wrong classes."""

from __future__ import annotations

import re

from pipeline.configuration.hydra import compose_config
from pipeline.tags.remedies import ADVICE, REMEDIES, remedies_table
from tests import REPOSITORY

GUIDE = REPOSITORY / "docs" / "photographs.md"


def test_the_guide_has_the_table():
    assert remedies_table() in GUIDE.read_text(encoding="utf-8")


def test_the_table_has_every_remedy_and_the_data_of_every_measured_effect():
    rows = remedies_table().splitlines()
    assert len(rows) == 2 + len(REMEDIES)
    for remedy in REMEDIES:
        assert ("data" in remedy) == ("→" in remedy["effect"]), remedy
        assert all(before < after for before, after in effects(remedy["effect"])), remedy


def effects(text: str) -> list[tuple[float, float]]:
    """Returns the metrics before and after, in percent."""
    return [tuple(map(float, each)) for each in re.findall(r"([\d.]+) → ([\d.]+)", text)]


def test_every_setting_of_a_remedy_exists():
    given = ["dataset=folder", "dataset.root=x", "dataset.classes=[cat]", "clip=demo"]
    keys = {key for remedy in REMEDIES for key in remedy["keys"]}
    composed = compose_config(given)
    for key in keys:
        value = composed
        for part in key.split("."):
            value = value[part]


def test_notes_advise_in_one_sentence():
    notes = {note for remedy in REMEDIES for note in remedy.get("notes", ())}
    assert notes == {"no tags", "same tags", "missing class", "near-synonyms"}
    for note in notes:
        assert ADVICE[note] and "`" not in ADVICE[note] and not ADVICE[note].endswith(".")
