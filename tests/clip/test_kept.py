"""What is kept of CLIP, and what a labeller with other names or thresholds still computes."""

from __future__ import annotations

import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch

from pipeline import Labeller
from pipeline.clip.compute.kept import KeptFeatures, digest
from pipeline.clip.device import Batches
from pipeline.clip.encoder import ClipEncoder
from pipeline.clip.frozen import FrozenClip
from pipeline.clip.shared_pass import MeanAttention
from pipeline.datasets.scenes import load_world, render_scene
from tests.tiers import large_except

NAMES = ["disc", "square", "star", "ring", "cross", "hexagon"]
RENAMED = [*NAMES[:-1], "triangle"]
ROW = torch.zeros(25)  # 100 bytes


def test_what_was_used_longest_ago_goes_first():
    kept = KeptFeatures(250)
    kept.put("a", (ROW,))
    kept.put("b", (ROW,))
    assert kept.get("a") is not None
    kept.put("c", (ROW,))
    assert kept.get("b") is None and kept.get("a") is not None and kept.get("c") is not None
    kept.put("c", (ROW,))  # is counted once
    assert kept.get("a") is not None
    kept.put("d", (torch.zeros(75),))  # too large by itself
    assert kept.get("d") is None and kept.get("a") is not None
    kept.put("e", (torch.zeros(75)[:1],))  # a part of it keeps all of it
    assert kept.get("e") is None


def test_only_missing_rows_are_made_and_each_key_has_its_own():
    kept, made = KeptFeatures(10_000), []

    def make(places):
        made.append(places)
        return torch.stack([torch.full((3,), 10.0 * len(made) + place) for place in places])

    first = kept.rows(["a", "b", "a"], make)
    assert made == [[0, 1]] and first[:, 0].tolist() == [10, 11, 10]
    second = kept.rows(["c", "b", "a", "d"], make)
    assert made[1] == [0, 3] and second[:, 0].tolist() == [20, 11, 10, 23]
    nothing = KeptFeatures(1)  # what does not fit is made, and not kept
    assert nothing.rows(["a"], make).shape == (1, 3) and nothing.get("a") is None


def test_a_loaded_model_serves_other_folders_but_keeps_features_apart(tiny_checkpoint, tmp_path):
    settings = None, None, str(tiny_checkpoint), "cpu", "fp32", 9, False
    batches = Batches(1, 4, 8), Batches(2, 4, 8)
    first, other = (FrozenClip(*settings, batch, tmp_path / "a") for batch in batches)
    assert first.encoder is replace(other, root=tmp_path / "b").encoder
    tower, kept = first.encoder.tower, KeptFeatures(9)
    keeping = replace(first, kept=kept).encoder
    assert keeping.tower is tower and keeping is not first.encoder
    assert first.encoder.tower is tower


def test_a_digest_tells_pixels_shapes_and_hooks_apart():
    pixels = torch.arange(12.0).reshape(1, 3, 2, 2)
    same = digest(pixels.clone(), MeanAttention(range(1, 3)))
    assert same == digest(pixels, MeanAttention(range(1, 3)))
    others = [
        digest(pixels + 1e-6, MeanAttention(range(1, 3))),
        digest(pixels.reshape(1, 3, 4, 1), MeanAttention(range(1, 3))),
        digest(pixels, MeanAttention(range(1, 4))),
        digest(pixels),
    ]
    assert len({same, *others}) == 5
    assert digest(pixels, lambda: None) is None  # a hook that cannot be told apart is not kept
    assert KeptFeatures(1000).get_or(None, lambda: (ROW,)) == (ROW,)


def test_another_process_keeps_its_own():
    kept = KeptFeatures(1000)
    kept.put("a", (ROW,))
    other = pickle.loads(pickle.dumps(kept))
    assert other.get("a") is None
    other.put("b", (ROW,))
    assert other.get("b") is not None


@pytest.fixture
def passes(monkeypatch) -> dict[str, int]:
    """Counts the images and the crops that pass through the image tower."""
    counted = {"images": 0, "crops": 0}

    def count(name, what):
        method = getattr(ClipEncoder, name)

        def counting(self, pixels, *others):
            counted[what] += len(pixels)
            return method(self, pixels, *others)

        monkeypatch.setattr(ClipEncoder, name, counting)

    count("backbone", "images")
    count("_image_features", "crops")
    return counted


@pytest.fixture
def count(passes):
    """Calls a labeller; returns the labelling, and the passes that it took."""

    def call(labeller, image):
        passes.update(images=0, crops=0)
        return labeller(image), dict(passes)

    return call


FP32 = "runtime.precision=fp32"  # in bf16 the last digits depend on what else is computed


def labeller_of(names=NAMES, keep=0, *more: str) -> Labeller:
    overrides = ["runtime.crop_batch_size=1", FP32, *more]
    return Labeller(names, clip="demo", keep=keep, overrides=overrides)


def equal(first, second, tolerance=0.0):
    np.testing.assert_allclose(first.scores, second.scores, atol=tolerance, rtol=0)
    np.testing.assert_allclose(first.cams, second.cams, atol=5e-4 * bool(tolerance), rtol=0)
    assert first.tags == second.tags and (first.mask != second.mask).mean() <= tolerance


def test_what_does_not_change_is_not_computed(count):
    scenes = [render_scene(load_world("demo"), "val", index).image for index in (1, 2)]
    labeller = labeller_of(NAMES, 1 << 30)
    found, first = count(labeller, scenes[0])
    assert first["images"] == 1 and first["crops"] > 0 and found.tags
    plain, _ = count(labeller_of(), scenes[0])
    equal(found, plain)
    # The plain one has taken the place of the loaded CLIP. What is kept stays.
    again, passes = count(labeller, scenes[0])
    assert passes == {"images": 0, "crops": 0}
    equal(again, found)
    stricter = labeller_of(NAMES, labeller, "tags.min_score=0.6")
    moved, passes = count(stricter, scenes[0])
    assert passes == {"images": 0, "crops": 0}
    equal(moved, labeller_of(NAMES, 0, "tags.min_score=0.6")(scenes[0]))
    renamed, passes = count(labeller_of(RENAMED, labeller), scenes[0])
    plain, fresh = count(labeller_of(RENAMED), scenes[0])
    assert passes["images"] == 0 and fresh["images"] == 1
    assert passes["crops"] < fresh["crops"]  # the boxes of some classes are unchanged
    equal(renamed, plain, tolerance=1e-4)  # text is embedded in other batches
    _, passes = count(labeller, scenes[1])
    assert passes["images"] == 1


SC_CLIP = ["cams=sc_clip"]


@pytest.mark.parametrize(
    "more",
    large_except([SC_CLIP], [SC_CLIP, ["cams=clip_es", "cams.affinity=false"], ["tags=clip"]]),
)
def test_other_methods_keep_what_they_found(count, more):
    image = render_scene(load_world("demo"), "val", 1).image
    labeller = labeller_of(NAMES, 1 << 30, "tags.min_score=0", *more)
    found, first = count(labeller, image)
    again, passes = count(labeller, image)
    assert sum(first.values()) > 0 and passes == {"images": 0, "crops": 0}
    equal(again, found)
    equal(found, labeller_of(NAMES, 0, "tags.min_score=0", *more)(image))


def test_little_memory_changes_nothing(count):
    image = render_scene(load_world("demo"), "val", 1).image
    labeller = labeller_of(NAMES, 1000)
    equal(labeller(image), labeller_of()(image))
    _, passes = count(labeller, image)
    assert passes["images"] == 1


def test_a_labeller_of_another_clip_shares_no_clip(tiny_checkpoint, count):
    image = render_scene(load_world("demo"), "val", 1).image
    labeller = labeller_of(NAMES, 1 << 30)
    labeller(image)
    given = {"checkpoint": tiny_checkpoint, "overrides": ["tags.votes=2", FP32]}
    other = Labeller(NAMES, keep=labeller, **given)
    found, passes = count(other, image)
    assert passes["images"] == 1
    equal(found, Labeller(NAMES, **given)(image))
