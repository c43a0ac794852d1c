"""Every dense method against loops over heads and patches, on a grid that is not the native one."""

from __future__ import annotations

from functools import partial
from itertools import product
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from open_clip.model import CLIP

from pipeline.clip.encoder import ClipEncoder
from pipeline.clip.image_tower import ImageTower
from pipeline.dense.method import DenseMethod, NameEmbeddings, Windowed
from pipeline.dense.resclip.method import chebyshev, same_object, semantic_feedback
from pipeline.dense.sc_clip import ScClipSettings
from pipeline.dense.sc_clip.method import repair
from pipeline.errors import ImageError, UserError
from pipeline.tags.piaa.patches import BatchedScClip
from tests.dense import naive
from tests.dense.naive import embed_patches
from tests.golden_models import assert_close
from tests.methods import DENSE, WITH_SECOND, dense_method
from tests.tiny_clip import build_tiny_clip

GRID = (5, 7)
CONFIDENCE = 0.35  # that some pixels of these weights reach, and others do not


@pytest.fixture(scope="module", params=["16, 10", "14, 4", "32, 4"])
def clip(request) -> CLIP:
    """A CLIP of this patch size and number of blocks."""
    patch_size, layers = map(int, request.param.split(","))
    return build_tiny_clip(1, layers=layers, patch_size=patch_size, head_width=32)


@pytest.fixture(scope="module")
def encoder(clip) -> ClipEncoder:
    return ClipEncoder(ImageTower.of(clip))


def pictures(encoder: ClipEncoder, count: int = 2, grid: tuple[int, int] = GRID) -> torch.Tensor:
    """Returns normalised pixels of noise in blotches, count×3×H×W."""
    generator = torch.Generator().manual_seed(3)
    sides = [side * encoder.patch_size for side in grid]
    coarse = torch.randn(count, 3, 4, 5, generator=generator)
    fine = torch.randn(count, 3, *sides, generator=generator)
    return 1.5 * F.interpolate(coarse, sides, mode="bilinear") + 0.3 * fine


def names_of(encoder: ClipEncoder) -> NameEmbeddings:
    """Returns three names and two backgrounds, each of which some patches are like."""
    features = embed_patches(dense_method("clearclip"), encoder, pictures(encoder))
    text = F.normalize(features[0, [1, 9, 17, 25, 33]], dim=-1)
    return NameEmbeddings(text, torch.tensor([1, 2, 3, 0, 0]), 20.0)


@pytest.fixture(scope="module")
def names(encoder) -> NameEmbeddings:
    return names_of(encoder)


@pytest.fixture(scope="module")
def two_heads() -> ClipEncoder:
    return ClipEncoder(ImageTower.of(build_tiny_clip(1, head_width=32)))


def ours_and_naive(name: str, names: NameEmbeddings):
    """Returns a method and its plain version, a function of the CLIP and an image's pixels."""
    if name == "resclip":
        given = {"text": names.text, "labels": names.labels, "temperature": names.temperature}
        plainly = partial(naive.resclip, **given, confidence=CONFIDENCE)
        return dense_method("resclip", confidence=CONFIDENCE), plainly
    if name == "sc_clip":
        return dense_method("sc_clip", neighbours=9), partial(naive.sc_clip, neighbours=9)
    return dense_method(name), getattr(naive, name, None)


@pytest.mark.parametrize("name", [name for name in DENSE if name not in ("trident", "lposs")])
@torch.no_grad()
def test_each_image_of_a_batch_has_the_features_of_loops(name, clip, encoder, names):
    method, plainly = ours_and_naive(name, names)
    pixels = pictures(encoder)
    seen = method.run_pass(encoder, pixels)
    features = method.features_for(encoder, seen, names)
    for image, of_image in zip(pixels, features):
        assert_close(of_image, plainly(clip, image))
    similarities = DenseMethod.similarities(method, encoder, seen, names)
    assert_close(similarities, F.normalize(features, dim=-1) @ names.text.T)


@torch.no_grad()
def test_piaa_mixes_up_the_images_of_a_batch_of_sc_clip(clip, encoder):
    pixels, method = pictures(encoder, 3), BatchedScClip(ScClipSettings(neighbours=9))
    features = embed_patches(method, encoder, pixels)
    for found, expected in zip(features, naive.sc_clip_batch(clip, [*pixels], 9), strict=True):
        assert_close(found, expected)
    alone = embed_patches(dense_method("sc_clip", neighbours=9), encoder, pixels)
    assert not torch.allclose(features, alone, atol=1e-2)
    torch.testing.assert_close(embed_patches(method, encoder, pixels[1:2])[0], alone[1])


@torch.no_grad()
def test_similarities_of_itaclip_are_those_of_five_views(clip, encoder, names):
    pixels = pictures(encoder)
    for method in (dense_method("itaclip"), dense_method("itaclip", views=False)):
        seen = method.run_pass(encoder, pixels)
        similarities = method.similarities(encoder, seen, names)
        for image, of_image in zip(pixels, similarities):
            alone = F.normalize(naive.itaclip(clip, image), dim=-1) @ names.text.T
            views = naive.itaclip_similarities(clip, image, names.text)
            assert_close(of_image, views if method.options.views else alone)
    assert not torch.allclose(views, alone, atol=1e-2)


@pytest.mark.parametrize("name", [name for name in DENSE if name not in WITH_SECOND])
@torch.no_grad()
def test_everything_is_computed_on_the_device_of_the_images(name, two_heads):
    """The device "meta" computes shapes alone, and refuses tensors of a CPU."""
    clip, names = build_tiny_clip(), names_of(two_heads)
    clip.visual.to("meta")
    encoder = ClipEncoder(ImageTower.of(clip))
    method, _ = ours_and_naive(name, names)
    seen = method.run_pass(encoder, pictures(encoder).to("meta"))
    there = NameEmbeddings(names.text.to("meta"), names.labels.to("meta"), names.temperature)
    similarities = method.similarities(encoder, seen, there)
    assert similarities.device.type == "meta" and similarities.shape == (2, 35, 5)


@pytest.mark.parametrize("name", DENSE)
@torch.no_grad()
def test_bfloat16_moves_similarities_little(name, two_heads):
    names, pixels = names_of(two_heads), pictures(two_heads)
    method, _ = ours_and_naive(name, names)
    rough = ClipEncoder(ImageTower.of(build_tiny_clip(1, head_width=32)), precision=torch.bfloat16)
    expected, found = (
        method.similarities(encoder, method.run_pass(encoder, pixels), names)
        for encoder in (two_heads, rough)
    )
    assert found.dtype == torch.float32
    assert 0 < (found - expected).abs().mean() < 0.02


# Trident


@torch.no_grad()
def test_each_half_of_an_image_attends_to_itself_alone(two_heads):
    """The oracle is Trident on a whole image, with the weights of both halves in one matrix."""
    names, pixels = names_of(two_heads), pictures(two_heads, 1, (5, 8))
    [image] = two_heads.to_images(pixels)
    halved, whole = (dense_method("trident", halves=halves) for halves in (True, False))
    windowed = Windowed([([(0, 0)], whole.run_pass(two_heads, pixels))], image.shape[:2], image)
    before = whole.similarities_of_windows(two_heads, windowed, names)
    weights = []
    for half in (image[:, :64], image[:, 64:]):
        grid, values, heads = halved.seconds["sam"].encoder.last_attention(half)
        weights.append(halved.spread(values, heads))
    rows, columns = grid[0], 2 * grid[1]
    joined = torch.zeros(rows, columns, rows, columns)
    for i, j in product(range(rows), range(columns)):  # a patch and those that it attends to
        of_half = slice(0, grid[1]) if j < grid[1] else slice(grid[1], None)
        own = weights[j // grid[1]].unflatten(0, grid)[i, j % grid[1]]
        joined[i, j, :, of_half] = own.unflatten(0, grid)
    attention = SimpleNamespace(last_attention=lambda _: ((rows, columns), None, None))
    whole.seconds = {**whole.seconds, "sam": SimpleNamespace(encoder=attention)}
    whole.spread = lambda *_: joined.flatten(2).flatten(0, 1)
    found = halved.similarities_of_windows(two_heads, windowed, names)
    assert_close(found, whole.similarities_of_windows(two_heads, windowed, names))
    assert before.shape != found.shape, "SAM sees each half twice as large"


# SC-CLIP


@pytest.mark.parametrize("seed", range(3))
def test_anomalous_patches_are_those_of_a_double_loop(seed):
    generator = torch.Generator().manual_seed(seed)
    patches = torch.randn(2, 40, 6, generator=generator)
    patches[0, [3, 11]] *= 6
    found = dense_method("sc_clip", neighbours=7).anomalous(patches)
    assert found.sum(1).tolist() == [2, 2]
    for image, of_image in zip(patches, found):
        assert of_image.tolist() == naive.outliers_of(image, 7)


def test_equal_patches_are_not_anomalous():
    patches = torch.ones(1, 40, 6)
    assert not dense_method("sc_clip").anomalous(patches).any()
    patches[0, 5] = 3
    assert dense_method("sc_clip").anomalous(patches)[0].nonzero().tolist() == [[5]]


def test_a_patch_is_repaired_by_its_sound_neighbours():
    grid = (4, 3)
    patches = torch.randn(2, 12, 5, generator=torch.Generator().manual_seed(0))
    anomalous = torch.zeros(2, 12, dtype=torch.bool)
    anomalous[0, [0, 5, 8, 11]] = True  # corners, sides, and neighbours of each other
    anomalous[1, [0, 1, 3, 4]] = True  # the corner 0 has no sound neighbour
    found = repair(patches, anomalous, grid)
    for image, marked, of_image in zip(patches, anomalous, found):
        torch.testing.assert_close(of_image, naive.repaired(image, marked.tolist(), grid))
    assert torch.equal(found[1, 0], patches[1, 0])
    assert torch.equal(found[~anomalous], patches[~anomalous])


def test_too_few_patches_are_refused():
    with pytest.raises(ImageError, match="30 patches, .*neighbours=30"):
        dense_method("sc_clip").anomalous(torch.randn(1, 30, 4))
    assert dense_method("sc_clip").anomalous(torch.randn(1, 31, 4)).shape == (1, 31)


# ResCLIP


def random_labels(seed: int) -> torch.Tensor:
    """Returns the labels of two images of 6×9 patches, in regions."""
    labels = np.random.default_rng(seed).integers(0, 3, (2, 2, 3))
    return torch.from_numpy(labels.repeat(3, 1).repeat(3, 2))


@pytest.mark.parametrize("seed", range(3))
def test_patches_are_of_one_object_if_a_loop_along_their_line_says_so(seed):
    for labels in (random_labels(seed)[0], random_labels(seed)[1].T):
        apart = chebyshev(*labels.shape, labels.device)
        found = same_object(labels, apart)
        cells = naive.cells_of(labels.shape)
        for i, a in enumerate(cells):
            for j, b in enumerate(cells):
                assert apart[i, j] == max(abs(a[0] - b[0]), abs(a[1] - b[1]))
                assert found[i, j] == naive.is_line_of_one_label(labels, a, b)
    assert found.any() and not found.all()


@pytest.mark.parametrize("sigma", [5.0, 2.5, 80 / 14])
def test_feedback_of_a_batch_is_that_of_loops(sigma):
    labels = random_labels(0)
    for image, feedback in zip(labels, semantic_feedback(labels, sigma)):
        assert_close(feedback, naive.feedback_of(image, sigma))
    few = labels[:1, 2:5, 1:6]  # 15 patches, fewer than the Gaussian has taps
    assert_close(semantic_feedback(few, sigma)[0], naive.feedback_of(few[0], sigma))
    assert semantic_feedback(few[:, :1, :1]).tolist() == [[[1.0]]]


@torch.no_grad()
def test_backgrounds_are_one_thing_and_doubtful_pixels_are_background(two_heads):
    method, names = dense_method("resclip", confidence=0), names_of(two_heads)
    seen = method.run_pass(two_heads, pictures(two_heads))

    def labelled(*labels: int, confidence: float = 0.0) -> torch.Tensor:
        of_names = names._replace(labels=torch.tensor(labels))
        return dense_method("resclip", confidence=confidence).patch_features(
            two_heads, seen, of_names
        )

    together, apart = labelled(1, 2, 3, 0, 0), labelled(1, 2, 3, 4, 5)
    assert not torch.allclose(together, apart, atol=1e-4)
    assert torch.equal(apart, labelled(5, 4, 3, 2, 1))  # which label it is does not matter
    doubtful = labelled(1, 2, 3, 0, 0, confidence=1.0)
    assert torch.equal(doubtful, labelled(0, 0, 0, 0, 0))
    assert not torch.allclose(doubtful, together, atol=1e-4)


@pytest.mark.parametrize(
    ("method", "message"),
    [
        (dense_method("resclip", cross_blocks=[-1, -3]), r"cross_blocks=\[-1,-3\] is empty"),
        (dense_method("sc_clip", stream_blocks=[-1, -3]), r"stream_blocks=\[-1,-3\] is empty"),
    ],
)
def test_blocks_in_the_wrong_order_are_refused(method, message):
    with pytest.raises(UserError, match=message):
        method.hooks(ClipEncoder(ImageTower.of(build_tiny_clip())))


def test_only_one_method_takes_further_passes():
    assert {name for name in DENSE if dense_method(name).passes != 1} == {"itaclip"}
