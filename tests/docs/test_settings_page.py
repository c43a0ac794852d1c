"""docs/settings.md is what the declarations give."""

from __future__ import annotations

import re

import pytest

from tests import REPOSITORY
from tests.processes import run_python

PROGRAM = """
from docs.settings import write_page
from pipeline.stages.config import all_settings
print(write_page(), *(setting.key for setting in all_settings()), sep="\\n", end="")
"""


@pytest.fixture(scope="module")
def written() -> str:
    """The page as the declarations give it, without plug-ins of other tests, and all keys."""
    finished = run_python("-c", PROGRAM, cwd=REPOSITORY)
    assert finished.returncode == 0, finished.stderr
    return finished.stdout


def test_the_page_is_that_of_the_declarations(written):
    text = (REPOSITORY / "docs" / "settings.md").read_text(encoding="utf-8")
    assert written.startswith(f"{text}\n"), "run python -m docs.settings"


def test_the_page_has_every_setting(written):
    page, _, keys = written.rpartition("|\n\n")
    rows = {*re.findall(r"^\| `([\w.]+)` \| ", page, re.MULTILINE)}
    groups = {key.partition(".")[0] for key in rows if "." in key}
    assert len(rows) > 200 and rows == {*keys.split()} - groups
