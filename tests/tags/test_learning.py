"""What PIAA learns, as runs and their files show it: begun, done, damaged, chosen again."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.small_runs import Finished, latest, replaced

BANK = "bank.npz"


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


@pytest.fixture
def tag(run_stage, arguments) -> Callable[..., Finished]:
    """Tags the five photographs with PIAA."""
    piaa = "tags=piaa", "tags.min_score=0", "tags.bank_size=4", "stage=tags"
    return lambda *more: run_stage(*replaced(arguments, *piaa), *more)


def manifest(folder: Path) -> dict:
    return json.loads((folder / "manifest.json").read_text())


def test_what_was_learned_before_is_the_latest_again(tag, out):
    tag()
    first = latest(out, "prototypes").resolve()
    tag("tags.temperature=50")
    assert latest(out, "prototypes").resolve() != first
    # The tags of this threshold are new, and what they are made with is not.
    assert tag("tags.alpha=0.7").computed["prototypes"] == 0
    assert latest(out, "prototypes").resolve() == first


def test_what_is_not_complete_is_learned_though_its_files_are_intact(tag, out):
    tag()
    folder = latest(out, "prototypes").resolve()
    learned, about = (folder / BANK).read_bytes(), manifest(folder)
    (folder / "manifest.json").write_text(json.dumps({**about, "complete": False}))
    assert tag().computed["prototypes"] == 5
    assert manifest(folder)["complete"] and (folder / BANK).read_bytes() == learned


def test_learning_that_ends_early_leaves_an_incomplete_folder(tag, out):
    tag()
    folder = latest(out, "prototypes").resolve()
    for path in folder.iterdir():
        path.unlink()
    (folder / BANK).mkdir()  # so that it cannot be written
    finished = tag()
    assert finished.code == 2 and "error: cannot write" in finished.errors, finished
    about = manifest(folder)
    assert (about["complete"], about["images"]) == (False, 5)
    (folder / BANK).rmdir()
    assert tag().computed["prototypes"] == 5


def test_what_images_of_an_older_bank_lack_is_called_by_its_name(tag):
    tag()
    tag("dataset.limit=3", "tags.refit=true")
    assert "2 images: their prototypes changed" in tag("stage=cams").errors
