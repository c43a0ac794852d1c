"""Standardised scores against a naive computation, and the tags that follow from them."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import pipeline as package
from pipeline.errors import UserError
from pipeline.stages.config import compose, read_config
from pipeline.stages.pipeline import Pipeline
from pipeline.tags.standardised import over_classes, standardise, statistics_of
from tests.small_runs import folder_options
from tests.tags.test_piaa import run as run_tags
from tests.tiers import large_except


def naive(values: list[float]) -> list[float]:
    mean = statistics.fmean(values)
    spread = statistics.stdev(values) if len(values) > 1 else 0
    return [(v - mean) / spread if spread > 1e-9 else 0.0 for v in values]


def naive_z(scores: np.ndarray, steps: list[str]) -> np.ndarray:
    rows = scores.astype(float).tolist()
    if "image" in steps:
        rows = [naive(row) for row in rows]
    if "class" in steps:
        rows = list(zip(*(naive(list(column)) for column in zip(*rows))))
    return np.array(rows)


@pytest.fixture
def scores() -> np.ndarray:
    scores = np.random.default_rng(0).random((6, 4), np.float32)
    scores[:, 2] = 0.1  # a class without spread
    return scores


def test_scores_are_standardised_over_classes_and_standardise(scores):
    np.testing.assert_allclose(over_classes(scores), naive_z(scores, ["image"]))
    alone = standardise(scores, *statistics_of(scores.astype(float)))
    np.testing.assert_allclose(alone, naive_z(scores, ["class"]), atol=1e-6)
    assert not alone[:, 2].any()
    by_image = over_classes(scores)
    both = standardise(by_image, *statistics_of(by_image))
    np.testing.assert_allclose(both, naive_z(scores, ["image", "class"]), atol=1e-6)


def test_a_single_class_has_no_spread(scores):
    assert not over_classes(scores[:, :1]).any()


@pytest.fixture
def run(photographs: Path, tiny_checkpoint: Path, tmp_path: Path) -> Callable[..., list]:
    tagger = "tags=clip", "tags.min_score=0", "tags.templates=piaa"
    options = folder_options(photographs, tiny_checkpoint, *tagger)

    def run(*given: str) -> list:
        composed = compose([*options, f"output_dir={tmp_path / 'out'}", *given])
        outcomes = run_tags(Pipeline.open(read_config(composed)))
        return [(o.stage, o.computed, o.reused, o.path) for o in outcomes]

    return run


def scores_in(folder: Path) -> dict[str, np.ndarray]:
    with np.load(folder / "scores.npz") as stored:
        return dict(stored)


@pytest.mark.parametrize(
    "steps", large_except([["image", "class"]], [["image"], ["class"], ["image", "class"]])
)
def test_tags_follow_from_standardised_scores_and_the_scores_stay(run, steps):
    plain = run()[-1][3]
    given = f"tags.standardise=[{','.join(steps)}]"
    outcomes = run(given, "tags.z=0.5")
    assert [o[:2] for o in outcomes if o[0] == "tags"] == [("tags", 0), ("tags", 5)]
    assert ("statistics" in [o[0] for o in outcomes]) == ("class" in steps)
    found, before = scores_in(outcomes[-1][3]), scores_in(plain)
    np.testing.assert_array_equal(found["scores"], before["scores"])
    expected = naive_z(before["scores"], steps)
    np.testing.assert_allclose(found["z"], expected, atol=1e-4)
    lines = (outcomes[-1][3] / "tags.txt").read_text().splitlines()
    tags = [[int(k) for k in line.split()[1:]] for line in lines]
    assert tags == [np.flatnonzero(row > 0.5).tolist() for row in found["z"]]
    # Neither another z nor another α computes anything.
    again = run(given, "tags.z=1", "tags.alpha=0.9")
    assert [o[1:3] for o in again if o[0] == "tags"] == [(0, 5), (0, 5)]
    row = scores_in(again[-1][3])["z"][0]
    first = (again[-1][3] / "tags.txt").read_text().splitlines()[0]
    assert first.split()[1:] == [str(k) for k in np.flatnonzero(row > 1)]
    # A score exactly on the threshold is not above it.
    on = run(given, f"tags.z={row.max():.17g}")[-1][3]
    first = (on / "tags.txt").read_text().splitlines()[0]
    assert not first.split()[1:]


def test_statistics_stay_until_they_are_asked_for_again(run):
    given = "tags.standardise=[class]"
    run(given, "dataset.limit=3")
    added = run(given)
    assert [o[:2] for o in added] == [("tags", 2), ("statistics", 0), ("tags", 2)]
    refitted = run(given, "tags.refit=true")
    assert [o[:2] for o in refitted] == [("tags", 0), ("statistics", 5), ("tags", 5)]


def test_a_single_image_cannot_be_compared(run):
    with pytest.raises(UserError, match="compares images, .*all has one"):
        run("tags.standardise=[class]", "dataset.limit=1")


def test_single_images_have_no_split_to_learn_from(tiny_checkpoint):
    for given in (["tags.standardise=[image]"], ["tags=piaa", "tags.min_score=0"]):
        with pytest.raises(UserError, match="run stage=tags"):
            package.Labeller(["cat"], checkpoint=tiny_checkpoint, overrides=given)
