"""``masks=pamr`` and ``masks=par``: what of an image is refined, and what the probability is."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from pipeline.cams.cams import Cams
from pipeline.clip.encoder import to_pixels
from pipeline.configuration.registry import imported, method_of
from pipeline.configuration.settings import check
from pipeline.dense.pixel_adaptive import pamr, par
from pipeline.errors import UserError
from pipeline.files.label_images import read_labels
from pipeline.masks import pixel_adaptive
from pipeline.masks.labels import UNFILTERED, stack_background
from pipeline.masks.pixel_adaptive import Pamr, Par
from pipeline.masks.pseudo_mask import pseudo_mask
from pipeline.masks.settings import PamrOptions, ParOptions
from pipeline.stages.config import compose, read_config
from tests.masks.test_stage import make_masks, maps, masks_stage  # noqa: F401  a fixture
from tests.small_runs import draw_photograph

CPU = SimpleNamespace(device="cpu")
IMAGE = draw_photograph(3, 24, 36)
SMALL = {"iterations": 3, "dilations": [1, 2]}


def cams_of(count: int, size: tuple[int, int] = (24, 36)) -> Cams:
    values = np.random.default_rng(count).random((count, 3, 4)).astype(np.float16)
    return Cams(np.array([6, 2, 4][:count], np.int64), values, size)


@pytest.mark.parametrize(("kind", "options"), [(Pamr, PamrOptions), (Par, ParOptions)])
@pytest.mark.parametrize("beta", [1.0, None])
def test_an_image_gets_in_a_batch_what_it_gets_alone(kind, options, beta, monkeypatch):
    """As on a GPU, which takes several images of one size."""
    refine = kind(options(beta=beta, **SMALL), CPU)
    images = [draw_photograph(seed, *size) for seed, size in enumerate([(24, 36), (20, 30)] * 4)]
    counts = [2, 1, 0, 3, 1, 1, 3, 2]
    given = [
        (name, image, cams_of(count, image.shape[:2]))
        for name, (image, count) in enumerate(zip(images, counts))
    ]
    alone = dict(refine.stream(given))
    assert [*alone] == [*range(8)]
    monkeypatch.setattr(pixel_adaptive, "is_cpu", lambda device: False)
    monkeypatch.setattr(kind, "batch_size", 3)
    batches = []
    together = refine.together
    monkeypatch.setattr(
        refine, "together", lambda i, c: batches.append(len(i)) or together(i, c), raising=False
    )
    found = dict(refine.stream(given))
    assert sorted(found) == [*range(8)] and sorted(batches) == [1, 1, 3, 3]
    for name, (labels, probability) in found.items():
        np.testing.assert_array_equal(labels, alone[name][0])
        np.testing.assert_array_equal(probability, alone[name][1])


def pixels() -> torch.Tensor:
    return to_pixels(IMAGE, 24, 36)[None]


@pytest.mark.parametrize(
    ("method", "options", "average"),
    [
        (Pamr, PamrOptions(**SMALL), lambda s: pamr(pixels(), s, iterations=3, dilations=[1, 2])),
        (
            Pamr,
            PamrOptions(beta=None, bandwidth=0.4, **SMALL),
            lambda s: pamr(pixels(), s, iterations=3, dilations=[1, 2], bandwidth=0.4),
        ),
        (Pamr, PamrOptions(beta=2), lambda s: pamr(pixels(), s)),
        (Par, ParOptions(), lambda s: par(pixels(), s)),
        (
            Par,
            ParOptions(bandwidth=0.5, position_weight=0.3, guide_side=7, **SMALL),
            lambda s: par(
                F.interpolate(pixels(), (7, 7), mode="bilinear", align_corners=False),
                s,
                iterations=3,
                dilations=[1, 2],
                bandwidth=0.5,
                position_weight=0.3,
            ),
        ),
    ],
)
def test_the_best_of_the_refined_scores_wins_and_has_its_share(method, options, average):
    cams = cams_of(3)
    labels, probability = method(options, CPU)(IMAGE, cams)
    stacked = stack_background(cams.resized(24, 36), options.beta)
    refined = average(torch.from_numpy(stacked)[None])[0].numpy()
    values = [7, 3, 5] if options.beta is None else [0, 7, 3, 5]
    np.testing.assert_array_equal(labels, np.array(values, np.uint8)[refined.argmax(0)])
    np.testing.assert_allclose(probability, refined.max(0) / refined.sum(0), rtol=1e-5)
    assert labels.dtype == np.uint8 and probability.dtype == np.float32
    plain, _ = pseudo_mask(IMAGE, cams, None, options.beta)
    assert 0 < (labels != plain).mean() < 0.9


@pytest.mark.parametrize(("method", "options"), [(Pamr, PamrOptions()), (Par, ParOptions())])
def test_refined_masks_follow_the_edges_of_the_image(method, options):
    image = np.full((40, 60, 3), 60, np.uint8)
    image[10:30, 15:45] = (180, 60, 40)
    image += np.random.default_rng(0).integers(0, 8, image.shape, np.uint8)
    truth = image[..., 0] > 100
    coarse = F.adaptive_avg_pool2d(torch.from_numpy(truth).float()[None], (5, 7)).numpy()
    cams = Cams(np.array([0]), coarse.astype(np.float16), truth.shape)
    labels, _ = method(options, CPU)(image, cams)
    plain, _ = pseudo_mask(image, cams, None)
    assert (labels != truth).mean() < 0.1 * (plain != truth).mean()


def test_no_tags_no_refinement_and_scores_of_zero_have_a_probability():
    refine = Pamr(PamrOptions(), CPU)
    labels, probability = refine(IMAGE, cams_of(0))
    assert not labels.any() and (probability == 1).all() and labels.shape == (24, 36)
    nothing = Cams(np.array([1, 2]), np.zeros((2, 3, 4), np.float16), (24, 36))
    labels, probability = Pamr(PamrOptions(beta=None), CPU)(IMAGE, nothing)
    assert (labels == 2).all() and not probability.any()
    alone = Cams(np.array([1]), np.full((1, 3, 4), 0.2, np.float16), (24, 36))
    labels, probability = Par(ParOptions(beta=None), CPU)(IMAGE, alone)
    assert (labels == 2).all()
    np.testing.assert_allclose(probability, 1, rtol=1e-6)


def test_a_shrunk_image_gives_a_mask_of_full_size():
    labels, probability = Pamr(PamrOptions(**SMALL), CPU)(IMAGE, cams_of(2, size=(48, 72)))
    small, share = Pamr(PamrOptions(**SMALL), CPU)(IMAGE, cams_of(2))
    assert labels.shape == probability.shape == (48, 72)
    assert (labels[::2, ::2] == small).mean() > 0.95
    assert abs(probability[::2, ::2] - share).mean() < 0.02


@pytest.mark.parametrize("options", [PamrOptions(**SMALL), ParOptions(guide_side=16, **SMALL)])
def test_the_stage_writes_what_the_method_computes(maps, tmp_path, options):  # noqa: F811
    folder, outcome = make_masks(tmp_path / "out", maps, replace(options, confidence=0.6))
    assert outcome.computed == 3 and not outcome.left_out
    refine = imported(method_of(options).build)(options, CPU)
    for index, sample in enumerate(maps[0]):
        labels, probability = refine(draw_photograph(index, 40, 60), maps[2][sample.id])
        name = f"{sample.id}.png"
        np.testing.assert_array_equal(read_labels(folder / UNFILTERED / name), labels)
        expected = np.where(probability < 0.6, 255, labels)
        np.testing.assert_array_equal(read_labels(folder / name), expected)
    assert len(np.unique(read_labels(folder / "a.png"))) == 4


def test_a_gpu_serves_one_process_and_the_crf_uses_all_of_them():
    crf, _ = masks_stage()
    for device, expected in (("cpu", None), ("cuda", 1)):
        options, resources = PamrOptions(), replace(crf.resources, device=device)
        stage = replace(crf, options=options, resources=resources)
        assert stage.batch_size is expected
        assert replace(crf, resources=resources).batch_size is None


def test_settings_are_those_of_the_papers_within_ranges():
    chosen = ["masks=par", "masks.confidence=0.8", "masks.dilations=[3]"]
    masks = read_config(compose(["dataset=demo", "clip=demo", *chosen])).masks
    assert masks == ParOptions(confidence=0.8, dilations=[3])
    for wrong in ({"dilations": [0]}, {"dilations": []}, {"iterations": -1}, {"bandwidth": 0}):
        for options in (PamrOptions(**wrong), ParOptions(**wrong)):
            with pytest.raises(UserError, match=f"masks.{[*wrong][0]}"):
                check(options, "masks")
