"""SIGKILL at random moments of every stage, then the same command again."""

from __future__ import annotations

import itertools
import json
import random
import shutil
import time
from pathlib import Path

import numpy as np
import pytest

from tests.faults.runs import results_of_images, unfinished_files, weights_of
from tests.processes import wait_until
from tests.tiers import large_except

BEFORE = {
    "tags": (),
    "cams": ("tags",),
    "masks": ("tags", "cams"),
    "train": ("tags", "cams", "masks"),
    "predict": ("tags", "cams", "masks"),
    "evaluate": ("tags", "cams", "masks", "predictions"),
    "report": ("tags", "cams", "masks", "predictions"),
}
"""What lies there when a stage is killed."""

MOST_AGAIN = 4 + 1
"""Passes of the backbone that a kill may cost: images whose crops wait for a full batch, and the
one result that waits for the disk."""


def prepare(undisturbed: Path | None, folder: Path, stage: str) -> None:
    """Puts there what the stages before have computed."""
    for name in BEFORE[stage]:
        shutil.copytree(undisturbed / "all" / name, folder / "all" / name, symlinks=True)
    if stage in ("predict", "evaluate", "report"):
        shutil.copytree(undisturbed / "segmenter", folder / "segmenter", symlinks=True)
    if stage == "report" and (undisturbed / "metrics.json").exists():
        shutil.copy(undisturbed / "metrics.json", folder)


def is_begun(folder: Path, stage: str) -> bool:
    """Tells whether a stage is at work."""
    below = {"train": "segmenter/*", "predict": "all/predictions/*"}.get(stage, f"all/{stage}/*")
    if stage in ("evaluate", "report"):
        return (folder / "store.json").exists()
    return any(folder.glob(f"{below}/.holder.json"))


def metrics_of(folder: Path) -> dict:
    path = folder / "metrics.json"
    return json.loads(path.read_text()) if path.exists() else {}


def passes(calls: Path, kind: bytes) -> int:
    return calls.read_bytes().count(kind) if calls.exists() else 0


@pytest.fixture
def undisturbed_before(stage: str, request: pytest.FixtureRequest) -> Path | None:
    """What all stages wrote when nothing happened to them, where this stage reads any of it."""
    return request.getfixturevalue("undisturbed") if BEFORE[stage] else None


@pytest.mark.parametrize("stage", large_except(["tags"], BEFORE))
def test_a_killed_stage_ends_with_the_bytes_of_an_undisturbed_one(
    stage, nursery, options, undisturbed_before, tmp_path, kills
):
    """Kills within the time that the stage takes, counted from when it holds its lock."""
    arguments = [*options, f"stage={stage}"]
    whole, calls = tmp_path / "whole", tmp_path / "calls"
    prepare(undisturbed_before, whole, stage)
    run = nursery.start(*arguments, f"output_dir={whole}", calls=calls)
    wait_until(lambda: is_begun(whole, stage))
    began = time.monotonic()
    assert run.wait() == 0, run.output
    seconds = time.monotonic() - began
    needed = passes(calls, b">")

    generator, hits, most_again = random.Random(stage), 0, 0
    for number in itertools.count():
        if number >= kills and (hits or number == kills + 10):  # a busy machine ends stages early
            break
        folder, calls = tmp_path / f"killed-{number}", tmp_path / f"calls-{number}"
        prepare(undisturbed_before, folder, stage)
        run = nursery.start(*arguments, f"output_dir={folder}", calls=calls)
        wait_until(lambda f=folder: is_begun(f, stage))
        # Short stages may be over before a late one comes; the first is an early one.
        time.sleep(generator.uniform(0, seconds if number else seconds / 5))
        run.kill()
        hits += run.wait() == -9
        nursery.run(*arguments, f"output_dir={folder}", calls=calls)
        assert results_of_images(folder) == results_of_images(whole)
        assert metrics_of(folder) == metrics_of(whole)
        assert not unfinished_files(folder)
        if stage == "train":
            ours, theirs = (weights_of(f / "segmenter/latest/iter_6.pth") for f in (folder, whole))
            assert ours.keys() == theirs.keys()
            assert all(np.array_equal(ours[name], theirs[name]) for name in ours)
        again = passes(calls, b">") - needed
        most_again = max(most_again, again)
        assert again <= MOST_AGAIN
        shutil.rmtree(folder)
    assert hits, "no kill came before the end"
