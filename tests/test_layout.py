"""The layout of the package: few entries at its root, small modules, imports in one direction."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests import REPOSITORY

PACKAGE = REPOSITORY / "pipeline"
MAX_ENTRIES, MAX_LINES = 17, 450


def test_the_root_of_the_package_is_the_figure_of_the_paper():
    entries = [p.name for p in PACKAGE.iterdir() if not p.name.startswith("__")]
    entries.remove("py.typed")  # tells type checkers to read the annotations
    assert len(entries) <= MAX_ENTRIES, sorted(entries)
    assert {"datasets", "clip", "tags", "cams", "masks", "segmenter", "evaluation"} <= {*entries}


@pytest.mark.parametrize(
    "path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: path.relative_to(PACKAGE).as_posix()
)
def test_a_module_fits_on_a_few_screens(path: Path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= MAX_LINES


def test_cores_are_counted_in_one_way():
    """That of joblib knows affinity and the quotas of containers; no other does."""
    counting = re.compile(r"[\w.]*cpu_count\b|sched_getaffinity|cpu_affinity")
    sources = [*PACKAGE.rglob("*.py"), *(REPOSITORY / "tools").rglob("*.py")]
    found = {name for p in sources for name in counting.findall(p.read_text(encoding="utf-8"))}
    assert found == {"joblib.cpu_count"}


def test_a_module_imports_only_what_stands_before_it():
    program = Path(sys.executable).with_name("lint-imports")
    finished = subprocess.run([program], cwd=REPOSITORY, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stdout
