"""docs/reliability-tables.md: ``make soak`` writes its trials, which nobody edits."""

from __future__ import annotations

import re

from tests import REPOSITORY
from tests.trials import TRIALS_BEGIN

PAGE = REPOSITORY / "docs" / "reliability-tables.md"


def test_make_soak_writes_the_page():
    name = PAGE.relative_to(REPOSITORY)
    assert f"--table {name}\n" in (REPOSITORY / "Makefile").read_text(encoding="utf-8")
    assert PAGE.read_text(encoding="utf-8").count(TRIALS_BEGIN) == 1


def test_the_trials_are_as_they_were_written():
    written = PAGE.read_text(encoding="utf-8").partition(TRIALS_BEGIN)[2]
    sections = re.split("^### .*$", written.partition("### Skipped")[0], flags=re.MULTILINE)
    assert sections.pop(0).strip() == "" and len(sections) == 4
    for section in sections:
        header, rule, *rows = section.strip().splitlines()
        assert header == "| what | tried | what happened |" and rule == "|---|---:|---|"
        cells = [re.split(r"(?<!\\) \| ", row[2:-2]) for row in rows]
        assert all(len(each) == 3 and int(each[1]) > 0 for each in cells)
        trials = [(what.replace("\\|", "|"), outcome) for what, _, outcome in cells]
        assert trials == sorted(set(trials))
