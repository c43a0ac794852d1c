"""What pages and notes advise about missed and wrong classes."""

from __future__ import annotations

import re

from pipeline.configuration.hydra import compose_config
from pipeline.stages.config import compose
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
        gains = [after - before for before, after in effects(remedy["effect"])]
        assert not gains or (min(gains) >= 0 and max(gains) > 0), remedy


def effects(text: str) -> list[tuple[float, float]]:
    """Returns the metrics before and after, in percent."""
    return [tuple(map(float, each)) for each in re.findall(r"([\d.]+) → ([\d.]+)", text)]


FOLDER = ["dataset=folder", "dataset.root=x", "dataset.classes=[cat]", "clip=demo"]


def test_remedies_and_their_effects_begin_at_the_settings_of_a_folder():
    (given,) = re.findall(r"^FOLDER = (.*)$", (REPOSITORY / "Makefile").read_text(), re.MULTILINE)
    assert f"`{given.replace(' ', '` and `')}`" in GUIDE.read_text(encoding="utf-8")
    measured, wanted = compose(["dataset=demo", *given.split()]), compose(FOLDER)
    assert measured.compat == wanted.compat
    assert {**measured.tags, "variants": wanted.tags.variants} == wanted.tags
    for text in (r["remedy"] for r in REMEDIES if "`tags.alpha`" in r["remedy"]):
        to = dict(re.findall(r"`tags\.(\w+)` from [\d.]+ to ([\d.]+)", text))
        assert float(to["alpha"]) > float(to.get("min_score", wanted.tags.min_score)), text


def test_every_setting_of_a_remedy_exists():
    keys = {key for remedy in REMEDIES for key in remedy["keys"]}
    composed = compose_config(FOLDER)
    for key in keys:
        value = composed
        for part in key.split("."):
            value = value[part]


def test_notes_advise_in_one_sentence():
    notes = {note for remedy in REMEDIES for note in remedy.get("notes", ())}
    assert notes == {"no tags", "same tags", "missing class", "near-synonyms"}
    for note in notes:
        assert ADVICE[note] and "`" not in ADVICE[note] and not ADVICE[note].endswith(".")
