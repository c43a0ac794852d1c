"""What the stage ``masks`` stores beside a mask, and what its presets are."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from pipeline.cams.cams import Cams, encode_cams
from pipeline.clip.frozen import Resources
from pipeline.configuration.settings import check
from pipeline.datasets.vocabulary import Vocabulary
from pipeline.engine.executors import ExecutorSettings
from pipeline.engine.run import Run
from pipeline.engine.sample import Dataset, ImageReader, Images, Sample
from pipeline.engine.stage import Item, PerImage
from pipeline.engine.store import Store
from pipeline.engine.workers import Executor, go_through
from pipeline.errors import ImageError, UserError
from pipeline.files.fingerprints import fingerprint_file
from pipeline.files.images import encode_png
from pipeline.files.label_images import read_labels
from pipeline.masks.crf import CrfOptions
from pipeline.masks.labels import UNFILTERED
from pipeline.masks.pseudo_mask import pseudo_mask
from pipeline.masks.settings import PseudoMaskOptions
from pipeline.masks.stage import Masks
from pipeline.segmenter.data import TrainingPair, check_pairs
from pipeline.stages.config import compose, read_config
from tests.results import write
from tests.small_runs import draw_photograph


@pytest.fixture
def maps(tmp_path):
    """Images, one of them without tags, and the folder of their maps."""
    samples, found = [], {}
    stage = Maps(split="all", reader=ImageReader())
    with stage.writer(Store(tmp_path / "out")) as cams:
        for index, image_id in enumerate(["a", "b c/d", "without tags"]):
            path = tmp_path / "images" / f"{index}.png"
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(encode_png(draw_photograph(index, 40, 60)))
            tags = np.array([0, 2] if index < 2 else [], np.int64)
            arrays = np.random.default_rng(index).random((len(tags), 5, 7))
            found[image_id] = Cams(tags, arrays.astype(np.float16), (40, 60))
            files = {f"{image_id}.npz": encode_cams(found[image_id])}
            write(cams, image_id, {"photograph": fingerprint_file(path)}, files)
            samples.append(Sample(image_id, path))
    return samples, cams, found


class Maps(PerImage):
    """A stage whose results are there already."""

    name = command = "cams"

    def own_settings(self):
        return {}

    def compute(self, images, model):
        yield from ()


def masks_stage(chosen=None, **options) -> tuple[Masks, Vocabulary]:
    """Returns the stage, for three classes, and these; without a choice the CRF with options."""
    chosen = chosen or PseudoMaskOptions(**options)
    check(chosen, "masks")
    names = tuple((name,) for name in "abc")
    vocabulary = Vocabulary(tuple("abc"), names, names)
    quirks = SimpleNamespace(crf_bgr=True, crf_fp16=True)
    stage = Masks(
        split="all",
        options=chosen,
        resources=Resources(vocabulary, "cpu", None, quirks),
        cams=None,
        reader=ImageReader(),
        before={"cams": Maps(split="all", reader=ImageReader())},
    )
    return stage, vocabulary


def make_masks(out, maps, chosen=None, workers=1, **options):
    """Runs the stage on maps that lie below ``out``; returns its folder, and its outcome."""
    samples, (stage, vocabulary) = maps[0], masks_stage(chosen, **options)
    images = Images(Dataset(vocabulary, {"all": samples}, "all"))
    store = Store(out)
    with Run(images, store, Executor(ExecutorSettings(), workers)) as run:
        (outcome,) = run.compute([stage])
    return outcome.path, outcome


def files_below(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*.png")}


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.soak)])
def test_unsure_pixels_are_ignored_and_the_mask_before_is_kept(maps, tmp_path, workers):
    kept, _ = make_masks(tmp_path / "out", maps, confidence=0.9, workers=workers)
    names = ["a.png", "b c/d.png", "without tags.png"]
    assert sorted(files_below(kept)) == sorted(names + [f"{UNFILTERED}/{n}" for n in names])
    for sample in maps[0]:
        labels, probability = pseudo_mask(
            draw_photograph(int(sample.image.stem), 40, 60),
            maps[2][sample.id],
            CrfOptions(),
            bgr=True,
            fp16=True,
        )
        expected = np.where(probability < 0.9, 255, labels)
        path = kept / f"{sample.id}.png"
        np.testing.assert_array_equal(read_labels(path), expected)
        np.testing.assert_array_equal(read_labels(kept / UNFILTERED / f"{sample.id}.png"), labels)
        pair = TrainingPair(sample.id, sample.image, path)
        assert check_pairs([pair], 3, needs_class=False) == {}
    assert (read_labels(path) == 0).all()  # of the image without tags

    # The mask before belongs to the result: where it is damaged, the image is computed again.
    path = kept / UNFILTERED / path.name
    path.write_bytes(b"")
    _, outcome = make_masks(tmp_path / "out", maps, confidence=0.9)
    assert outcome.computed == 1 and (read_labels(path) == 0).all()


def test_an_image_that_cannot_be_read_costs_no_other(maps):
    samples, cams, _ = maps
    samples[0].image.write_bytes(b"no image")
    stage, _ = masks_stage()
    model = stage.load({})
    items = [Item(sample, {"photograph": "x"}, cams.path) for sample in samples]
    compute = partial(stage.compute, model=lambda: model)
    (_, error), *others = go_through(items, stage.reader, compute, "masks")
    assert isinstance(error, ImageError)
    names = [name for _, outputs in others for name in outputs["masks"].files]
    assert names == ["b c/d.png", "without tags.png"]


LABELS, SURE = np.array([[0, 1, 3], [255, 3, 0]], np.uint8), np.ones((2, 3), np.float32)


@pytest.mark.parametrize(
    ("labels", "probability", "options", "message"),
    [
        (LABELS.T, SURE, {}, "labels of shape 3×2, not 2×3,"),
        (LABELS, SURE[:1], {}, "probabilities of shape 1×3, not 2×3,"),
        (LABELS.astype(int), SURE, {}, "labels of type int64, not uint8,"),
        (LABELS + (LABELS == 3), SURE, {}, "label 4, where the last one is 3,"),
        (LABELS, SURE * np.nan, {}, "probabilities that are not finite"),
        (LABELS, SURE * 1.01, {}, "probabilities from 1.01 to 1.01, which are not in"),
        (LABELS, -SURE, {}, "probabilities from -1 to -1, which are not in"),
        (LABELS, SURE * 1j, {}, "probabilities that are not an array of real numbers"),
        (LABELS, None, {"confidence": 0.5}, "no probabilities, which masks.confidence requires"),
        (LABELS, None, {}, None),
        (LABELS, SURE, {"confidence": 0.5}, None),
    ],
)
def test_what_is_no_mask_is_refused(labels, probability, options, message):
    stage, _ = masks_stage(**options)
    if message is None:
        assert stage.checked((labels, probability), (2, 3)) == (labels, probability)
        return
    with pytest.raises(UserError, match=f"{message}.* image x y"):
        stage.checked((labels, probability), (2, 3), "x y")


def configured(*overrides: str) -> PseudoMaskOptions:
    """Returns the settings of masks as the command line composes them."""
    return read_config(compose(["dataset=demo", "clip=demo", *overrides])).masks


def test_presets_differ_in_what_they_are_named_after():
    crf = configured("masks=crf")
    assert crf == PseudoMaskOptions()
    assert configured("masks=crf_confident") == replace(crf, confidence=0.95)
    assert configured("masks=argmax") == replace(crf, crf=None)


def test_a_confidence_requires_a_crf():
    with pytest.raises(UserError, match="requires a CRF.*masks.confidence=0"):
        configured("masks=argmax", "masks.confidence=0.9")
