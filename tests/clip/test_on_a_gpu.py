"""The path of a GPU, on a device without values: no tensor is left behind, and few are copied back.

PyTorch's "meta" device takes the path of a GPU, since it is not a CPU, and refuses to mix its
tensors with those of a CPU. Copies to the host get values of their own here, and are counted.
"""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from pipeline.cams.cams import Cams
from pipeline.cams.clip_es import ClipEsOptions
from pipeline.cams.clip_es.method import ClipEs
from pipeline.cams.dense import DenseCams
from pipeline.cams.excel import ExcelOptions
from pipeline.cams.excel.method import Excel, ExcelEncoder
from pipeline.cams.pass_method import PassCams
from pipeline.clip.device import Batches, to_host
from pipeline.clip.dimensions import Dimensions
from pipeline.clip.encoder import ClipEncoder
from pipeline.clip.image_text import releases
from pipeline.clip.image_tower import BICUBIC, ImageTower
from pipeline.clip.weights.layouts import build_vision_transformer
from pipeline.configuration.registry import methods
from pipeline.dense.settings import DenseSettings
from pipeline.masks.pixel_adaptive import Pamr, Par
from pipeline.masks.settings import PamrOptions, ParOptions
from pipeline.segmenter.mmseg import build_config, build_model
from pipeline.segmenter.mmseg_network import MmsegNetwork
from pipeline.segmenter.predict import Segmenter
from pipeline.tags.baseline.method import GlobalClip
from pipeline.tags.piaa import PiaaOptions
from pipeline.tags.piaa.method import Piaa
from pipeline.tags.piaa.patches import PatchEncoder
from pipeline.tags.piaa.prototypes import Prototypes
from pipeline.tags.reidentification import Cwr
from pipeline.tags.tagclip import VARIANTS, TagClipOptions
from pipeline.tags.tagclip.method import TagClip
from tests import small_models
from tests.methods import RELEASED, dense_method
from tests.segmenter.tiny_training import CLASS_NAMES, PALETTE, tiny_settings
from tests.small_runs import draw_photograph
from tests.tiny_clip import build_tiny_clip

BATCHES = Batches(images=3, crops=4, waiting=16)
SIZE = (64, 96)  # 24 patches
IMAGES = [draw_photograph(seed, *SIZE) for seed in range(3)]
DENSE = [m for m in methods() if m.group == "cams" and issubclass(m.settings, DenseSettings)]
DENSE = [method for method in DENSE if not method.settings().seconds()]


@pytest.fixture
def copies(monkeypatch):
    """What was copied to the host: their shapes, in order. The values are random, in [0, 1]."""
    shapes: list[tuple[int, ...]] = []
    generator = torch.Generator().manual_seed(0)

    def copy(tensor: torch.Tensor) -> torch.Tensor:
        assert tensor.device.type == "meta"
        shapes.append(tuple(tensor.shape))
        return torch.rand(tensor.shape, generator=generator).to(tensor.dtype)

    monkeypatch.setattr(torch.Tensor, "cpu", copy)
    return shapes


@pytest.fixture(scope="module", params=["clip", "registers"])
def encoder(request: pytest.FixtureRequest) -> ClipEncoder:
    if request.param == "clip":
        clip = build_tiny_clip()
        clip.visual.to("meta")  # the temperature is read once, when a CLIP is loaded
        return ClipEncoder(ImageTower.of(clip), precision=torch.bfloat16)
    shapes = small_models.dinov2(depth=4)
    weights = {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
    small = {"dimensions": Dimensions(4, 14, 56), "heads": 2, "head_width": 8}
    release = replace(releases()["talk2dino_b14"], **small)
    tower = build_vision_transformer(weights, release, stretch=BICUBIC, temperature=1.0)
    projection = torch.empty(small_models.WIDTH, 32, device="meta")
    return ClipEncoder(replace(tower, projection=projection), precision=torch.bfloat16)


def text(names: int) -> torch.Tensor:
    return torch.empty(names, 32, device="meta")


def crops_in(shapes: list[tuple[int, ...]]) -> int:
    """Returns how many copies are of CWR's probabilities."""
    return sum(len(shape) == 1 and shape[0] <= BATCHES.crops for shape in shapes)


@pytest.mark.parametrize("names", [2, 12])
@pytest.mark.parametrize("variants", [(), VARIANTS], ids=["", "variants"])
def test_tagclip_copies_twice_a_batch_and_once_for_crops(encoder, copies, names, variants):
    options = TagClipOptions(attention_blocks=[-2, -1], votes=2)
    tagger = TagClip(encoder, text(names + 2), names, options, BATCHES, RELEASED)
    scored = dict(tagger.stream(enumerate(IMAGES), variants))
    assert scored.keys() == {0, 1, 2} and scored[0].scores["scores"].shape == (names,)
    proposed = sum(len(shape) == 1 and shape[0] or 0 for shape in copies if shape[0] <= 4)
    assert proposed > 0, "no crop was looked at"
    whole_images = len(IMAGES) * ("clip" in variants)  # each is looked at alone
    assert len(copies) == 2 + crops_in(copies) + whole_images
    assert crops_in(copies) == -(-proposed // BATCHES.crops)


def test_the_baseline_copies_once_a_batch(encoder, copies):
    tagger = GlobalClip(encoder, text(5), 3, BATCHES.images)
    assert len([*tagger.stream(enumerate(IMAGES))]) == 3 and copies == [(3, 3)]


@pytest.mark.parametrize("names", [2, 12])
def test_piaa_copies_once_an_image_and_once_for_its_crops(encoder, copies, names):
    options = PiaaOptions(reidentify=True)
    patches = PatchEncoder(encoder, dense_method("sc_clip", neighbours=3), False, BATCHES)
    learned = Prototypes(torch.empty(32, names, device="meta"), torch.empty(names, device="meta"))
    cwr = Cwr(encoder, text(names), names, options.alpha, RELEASED)
    tagger = Piaa(patches, text(names), learned, names, options, cwr)
    assert len([*tagger.stream(enumerate(IMAGES))]) == 3
    assert len(copies) - crops_in(copies) == 3


def cam_methods() -> list[object]:
    return [ClipEsOptions(), ExcelOptions(), *(method.settings() for method in DENSE)]


@pytest.mark.parametrize("options", cam_methods(), ids=lambda o: type(o).__name__)
@pytest.mark.parametrize(
    ("affinity", "tags"), [(False, (1,)), (True, (0, 2, 3, 5))], ids=["", "affinity"]
)
def test_cams_are_copied_once_and_for_boxes_once_more(encoder, copies, options, affinity, tags):
    changes = {"affinity": affinity}
    if hasattr(options, "neighbours"):
        changes["neighbours"] = 3
    options = replace(options, **changes)
    kind: type[PassCams] = {ClipEsOptions: ClipEs, ExcelOptions: Excel}.get(
        type(options), DenseCams
    )
    tower = ExcelEncoder(encoder, None, imagenet_norm=False) if kind is Excel else encoder
    quirks = SimpleNamespace(open_border=True, token_norm=True, head_sum=True)
    method = kind(tower, text(6), text(2), options, BATCHES, quirks)
    found = dict(method.stream((index, image, tags) for index, image in enumerate(IMAGES)))
    assert found[2].shape == (len(tags), *encoder.patch_grid(IMAGES[2]))
    assert len(copies) == len(IMAGES) * (1 + affinity)


@pytest.mark.parametrize(("kind", "options"), [(Pamr, PamrOptions()), (Par, ParOptions())])
def test_refiners_copy_once_a_batch(copies, kind, options):
    refine = kind(options, SimpleNamespace(device="meta"))
    random = np.random.default_rng(0)
    tags = ([0, 2], [], [3], [0, 1, 4])
    cams = [Cams(np.array(k), random.random((len(k), 4, 6), np.float32), SIZE) for k in tags]
    images = [*zip("abcd", [*IMAGES, IMAGES[0]], cams)]
    for name, (labels, probability) in refine.stream(images * refine.batch_size):
        assert name in "abcd" and labels.shape == probability.shape == SIZE
    assert len(copies) == len(images)


@pytest.mark.parametrize(("scales", "flip"), [((1.0,), False), ((0.5, 1.0, 1.5), True)])
def test_a_segmenter_copies_once_an_image(copies, scales, flip):
    model = build_model(build_config(tiny_settings(), CLASS_NAMES, PALETTE, 0).model)
    network = MmsegNetwork(model, "meta")
    segmenter = Segmenter(network, ("background", *CLASS_NAMES), tuple(PALETTE))
    found = segmenter.probabilities(IMAGES[0], scales, flip)
    assert found.shape == (len(PALETTE), *SIZE) and len(copies) == 1


def test_what_is_copied_together_keeps_its_shapes_and_values():
    one, two = torch.rand(2, 3), torch.rand(4).bfloat16()
    first, second = to_host(one, two)
    np.testing.assert_array_equal(first, one.numpy())
    np.testing.assert_array_equal(second, two.float().numpy())
    assert second.dtype == np.float32 and to_host(torch.tensor([True]))[0].dtype == bool
