"""In which packages a result differs from the lock."""

from __future__ import annotations

import pytest

from pipeline.engine.versions import versions
from pipeline.files.shipped import LOCKS
from pipeline.report.locked import describe_departures

LOCKED = """\
numpy==2.4.6 \\
    --hash=sha256:0
    # via torch==9
open-clip-torch==3.3.0 \\
    --hash=sha256:0
opencv-python-headless==5.0 \\
    --hash=sha256:0
torch==2.15.0 \\
    --hash=sha256:0
"""
EQUAL = {
    "commit": "0123456789",
    "python": "3.11.7",
    "numpy": "2.4.6",
    "open_clip_torch": "3.3.0",
    "torch": "2.15.0+cpu",
    "opencv-python": "5.0",
}


@pytest.mark.parametrize(
    ("changed", "wanted"),
    [
        ({}, ""),
        ({"torch": "2.13.0+cpu"}, "lock-py311.txt: torch 2.13.0+cpu, not 2.15.0"),
        (
            {"numpy": "2.0.0", "open_clip_torch": "missing"},
            "lock-py311.txt: numpy 2.0.0, not 2.4.6; open_clip_torch missing, not 3.3.0",
        ),
        ({"mmcv": "2.1.0"}, "lock-py311.txt: mmcv 2.1.0, which it does not hold"),
        (
            {"onedl-mmcv": "2.3.6", "torch": "2.14.0"},
            "lock-onedl-py311.txt: torch 2.14.0, not 2.15.0",
        ),
        ({"python": "3.14.1"}, "there is no lock of Python 3.14"),
    ],
)
def test_what_differs_from_the_lock_is_named(changed, wanted, tmp_path):
    (tmp_path / "lock-py311.txt").write_text(LOCKED)
    (tmp_path / "lock-onedl-py311.txt").write_text(f"{LOCKED}onedl-mmcv==2.3.6 \\\n")
    assert describe_departures({**EQUAL, **changed}, tmp_path) == wanted


def test_a_record_without_versions_says_so():
    assert describe_departures({}) == "versions are not recorded"


def test_the_locks_hold_every_package_that_manifests_name():
    assert "which it does not hold" not in describe_departures(versions())
    assert LOCKS.is_dir()
