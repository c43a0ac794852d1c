"""Regions: their files, and the label that each takes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from skimage.segmentation import slic

from pipeline import Labeller
from pipeline.cams.cams import Cams
from pipeline.datasets.regions import SlicOptions, read_regions, superpixels
from pipeline.errors import ImageError, UserError
from pipeline.masks.labels import stack_background
from pipeline.masks.pseudo_mask import pseudo_mask
from pipeline.masks.regions import RegionVote
from pipeline.masks.settings import RegionOptions
from tests.datasets.miniature_coco import packed, run_lengths
from tests.small_runs import draw_photograph

SIZE = (12, 17)
IMAGE = draw_photograph(5, *SIZE)


def boxes(*places: tuple[slice, slice]) -> list[np.ndarray]:
    """Returns rectangles as H×W bool."""
    found = [np.zeros(SIZE, bool) for _ in places]
    for region, place in zip(found, places):
        region[place] = True
    return found


SMALL, LARGE, APART = boxes(np.s_[2:5, 3:8], np.s_[1:9, 2:10], np.s_[6:12, 12:17])


def write(path: Path, content: object) -> Path:
    if isinstance(content, np.ndarray):
        Image.fromarray(content).save(path)
    else:
        path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    return path


def cams_of(count: int, size: tuple[int, int] = SIZE) -> Cams:
    values = np.random.default_rng(7).random((count, 6, 8)).astype(np.float16)
    return Cams(np.array([3, 1][:count], np.int64), values, size)


def naive(
    cams: Cams, regions: list[np.ndarray], beta: float | None = 1.0
) -> tuple[np.ndarray, np.ndarray]:
    """Labels pixel by pixel; returns labels and the share of each one's score."""
    scores = stack_background(cams.resized(*cams.size), beta)
    values = [*[0] * (beta is not None), *(cams.classes + 1).tolist()]
    labels, share = np.zeros(cams.size, np.uint8), np.zeros(cams.size)
    for y, x in np.ndindex(*cams.size):
        around = [region for region in regions if region[y, x]]
        of_pixel = scores[:, y, x]
        if around:
            smallest = min(around, key=lambda region: region.sum())
            of_pixel = [np.float64(score[smallest]).mean() for score in scores]
        labels[y, x] = values[int(np.argmax(of_pixel))]
        share[y, x] = max(of_pixel) / sum(of_pixel)
    return labels, share


@pytest.mark.parametrize("beta", [1.0, 0.5, None])
@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0)])
def test_the_smallest_region_gives_its_best_mean(order, beta):
    cams, regions = cams_of(2), [(SMALL, LARGE, APART)[k] for k in order]
    indices = [np.flatnonzero(region) for region in [*regions, np.zeros(SIZE, bool)]]
    labels, probability = RegionVote(RegionOptions(beta=beta))(IMAGE, cams, iter(indices))
    expected, share = naive(cams, regions, beta)
    np.testing.assert_array_equal(labels, expected)
    np.testing.assert_allclose(probability, share, rtol=1e-5)
    assert labels.dtype == np.uint8 and probability.dtype == np.float32
    plain, _ = pseudo_mask(IMAGE, cams, None, beta)
    outside = ~(LARGE | APART)
    np.testing.assert_array_equal(labels[outside], plain[outside])
    assert (labels != plain).any()


def test_of_regions_of_equal_size_the_first_wins():
    left, right = boxes(np.s_[:, 0:10], np.s_[:, 7:17])
    halves = np.zeros((1, 1, 17), np.float16)
    halves[..., :9] = 1
    cams, vote = Cams(np.array([0]), halves, SIZE), RegionVote(RegionOptions())
    first, _ = vote(IMAGE, cams, map(np.flatnonzero, (left, right)))
    second, _ = vote(IMAGE, cams, map(np.flatnonzero, (right, left)))
    assert (first[:, :10] == 1).all() and (first[:, 10:] == 0).all()
    assert (second[:, :7] == 1).all() and (second[:, 7:] == 0).all()


def numbered(kind: type) -> np.ndarray:
    numbers = np.zeros(SIZE, kind)
    numbers[SMALL], numbers[APART] = 2, np.iinfo(kind).max
    return numbers


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("grey.png", numbered(np.uint8), [SMALL, APART]),
        ("grey of 16 bits.png", numbered(np.uint16), [SMALL, APART]),
        ("none.png", np.zeros(SIZE, np.uint8), []),
        ("full.png", np.ones(SIZE, np.uint8), [np.ones(SIZE, bool)]),
        ("list.json", [packed(SMALL), packed(LARGE)], [SMALL, LARGE]),
        ("counts.json", [run_lengths(SMALL), run_lengths(~SMALL)], [SMALL, ~SMALL]),
        (
            "sam.json",
            [{"segmentation": packed(LARGE), "area": 1, "bbox": [0, 0, 1, 1]}],
            [LARGE],
        ),
        (
            "sa-1b.json",
            {"image": {}, "annotations": [{"segmentation": packed(APART)}]},
            [APART],
        ),
        ("polygon.json", [{"segmentation": [[3, 2, 8, 2, 8, 5, 3, 5]]}], [SMALL]),
        ("empty.json", [], []),
    ],
)
def test_files_of_regions_are_read(name, content, expected, tmp_path):
    found = list(read_regions(write(tmp_path / name, content), SIZE))
    assert [set(region) for region in found] == [set(np.flatnonzero(e)) for e in expected]


def test_palettes_do_not_matter(tmp_path):
    picture = Image.fromarray(numbered(np.uint8)).convert("P")
    picture.putdata(numbered(np.uint8).ravel().tolist())
    picture.putpalette([1, 2, 3] * 256)
    picture.save(tmp_path / "a.png")
    assert [len(r) for r in read_regions(tmp_path / "a.png", SIZE)] == [SMALL.sum(), APART.sum()]


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("a.png", np.zeros((17, 12), np.uint8), "is of 12×17 pixels, and the image of 17×12"),
        ("a.png", np.zeros((*SIZE, 3), np.uint8), "is a PNG of mode RGB: convert it"),
        ("a.png", b"noise", "cannot be decoded"),
        ("a.json", b"noise", "is damaged .*Expecting value"),
        ("a.json", b"\xff\xfe\xff", "is damaged .*codec"),
        ("a.json", 5, r"is damaged \(TypeError"),
        ("a.json", {"images": []}, r"is damaged \(KeyError"),
        ("a.json", [5], r"is damaged \(TypeError"),
        ("a.json", [packed(SMALL.T)], ".*not those of 17×12 pixels"),
        ("a.json", [{"size": SIZE, "counts": [1, 2]}], ".*not those of 17×12 pixels"),
        ("a.json", [{"size": SIZE, "counts": "no runs!"}], "is damaged"),
        ("a.json", b"[" * 100_000, "is damaged"),
    ],
)
def test_what_is_not_a_file_of_regions_is_named(name, content, reason, tmp_path):
    path = write(tmp_path / name, content)
    with pytest.raises(ImageError, match=f"^its regions cannot be used: {path} {reason}"):
        list(read_regions(path, SIZE))


def test_a_shrunk_image_keeps_the_outlines_of_regions_in_full_size():
    """Means are those of the scores at the size that the image was shrunk to."""
    cams, small = cams_of(2), draw_photograph(5, 4, 6)
    labels, _ = RegionVote(RegionOptions())(small, cams, [np.flatnonzero(LARGE)])
    scores = stack_background(cams.resized(4, 6), 1.0)
    below = [(2 * np.arange(n) + 1) * m // (2 * n) for n, m in zip(SIZE, (4, 6))]
    enlarged = scores[:, below[0]][:, :, below[1]]
    expected = [0, 4, 2][enlarged[:, LARGE].mean(1).argmax()]
    assert (labels[LARGE] == expected).all()
    plain, _ = pseudo_mask(small, cams, None)
    np.testing.assert_array_equal(labels[~LARGE], plain[~LARGE])


@pytest.mark.parametrize("factor", [1, 2])
def test_slic_is_the_built_in_one(factor):
    colours = np.random.default_rng(2).integers(0, 256, (4, 5, 3), np.uint8)
    image = colours.repeat(6, 0).repeat(6, 1)
    size = (24 * factor, 30 * factor)
    cams, options = cams_of(2, size), SlicOptions(segments=12, compactness=30, sigma=0.5)
    numbers = slic(image, n_segments=12, compactness=30, sigma=0.5, start_label=1)
    assert len(np.unique(numbers)) > 3
    labels, _ = RegionVote(RegionOptions(slic=options))(image, cams)
    full = numbers.repeat(factor, 0).repeat(factor, 1)
    if factor == 1:
        expected, _ = naive(cams, [full == k for k in np.unique(full)])
        np.testing.assert_array_equal(labels, expected)
    assert all(len(np.unique(labels[full == k])) == 1 for k in np.unique(full))
    plain, _ = pseudo_mask(image, cams, None)
    assert 0 < (labels != plain).mean() < 0.5


@pytest.mark.parametrize("beta", [1.0, None])
def test_an_image_without_tags_is_background_and_its_file_is_read(beta, tmp_path):
    vote = RegionVote(RegionOptions(beta=beta))
    for regions in (None, [np.flatnonzero(SMALL)]):
        labels, probability = vote(IMAGE, cams_of(0), regions)
        assert labels.shape == SIZE and not labels.any() and (probability == 1).all()
    damaged = read_regions(write(tmp_path / "a.png", b"noise"), SIZE)
    with pytest.raises(ImageError, match="cannot be decoded"):
        vote(IMAGE, cams_of(0), damaged)


def test_python_takes_slic_and_no_folder(tiny_checkpoint):
    given = {"checkpoint": tiny_checkpoint, "overrides": ["masks=regions"]}
    labeller = Labeller(["cat", "cup"], **given)
    assert labeller.mask(draw_photograph(1, 40, 50), ["cup"]).shape == (40, 50)
    given["overrides"] = ["masks=regions", "masks.regions=SAM"]
    with pytest.raises(UserError, match="leave masks.regions=slic here"):
        Labeller(["cat", "cup"], **given)


def test_noise_does_not_merge_the_superpixels():
    noise = np.random.default_rng(0).normal(128, 25, (240, 320, 3)).clip(0, 255).astype(np.uint8)
    count = len(np.unique(superpixels(noise, SlicOptions())))
    assert 400 < count < 600
