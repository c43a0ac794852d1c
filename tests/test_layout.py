"""The layout of the package: few entries at its root, small modules, imports in one direction."""

from __future__ import annotations

import re

from tests import REPOSITORY

PACKAGE = REPOSITORY / "pipeline"
MAX_ENTRIES, MAX_LINES = 17, 450


def test_the_root_of_the_package_is_the_figure_of_the_paper():
    entries = [p.name for p in PACKAGE.iterdir() if not p.name.startswith("__")]
    entries.remove("py.typed")  # tells type checkers to read the annotations
    assert len(entries) <= MAX_ENTRIES, sorted(entries)
    assert {"datasets", "clip", "tags", "cams", "masks", "segmenter", "evaluation"} <= {*entries}


def test_a_module_fits_on_a_few_screens():
    sources = {p: p.read_text(encoding="utf-8") for p in PACKAGE.rglob("*.py")}
    assert [p for p, text in sources.items() if len(text.splitlines()) > MAX_LINES] == []


def test_cores_are_counted_in_one_way():
    """That of joblib knows affinity and the quotas of containers; no other does."""
    counting = re.compile(r"[\w.]*cpu_count\b|sched_getaffinity|cpu_affinity")
    sources = [*PACKAGE.rglob("*.py"), *(REPOSITORY / "tools").rglob("*.py")]
    found = {name for p in sources for name in counting.findall(p.read_text(encoding="utf-8"))}
    assert found == {"joblib.cpu_count"}
