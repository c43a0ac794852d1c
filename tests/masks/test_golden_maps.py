"""Label maps by the protocols of TIPSv2, Talk2DINO and dino.txt, against their released code."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from pipeline.clip.encoder import ClipEncoder, to_pixels
from pipeline.datasets.vocabulary import Vocabulary
from pipeline.dense.as_trained import AsTrainedSettings, ValuePathSettings
from pipeline.dense.method import NameEmbeddings
from pipeline.dense.settings import DenseSettings
from pipeline.dense.talk2dino import Talk2DinoSettings
from pipeline.dense.windows import Windows, similarity_map
from pipeline.masks.dense import DenseLabeller
from pipeline.masks.settings import DenseMaskOptions
from tests.golden_models import assert_close

TIPS = {"short_side": 112, "temperature": 1.0, "resize": "pillow", "remainder": "enlarge"}
TALK2DINO = {"short_side": 112, "window": 112, "stride": 56, "align_corners": True}


def labeller_of(
    encoder: ClipEncoder, settings: DenseSettings, text: np.ndarray, **options: Any
) -> DenseLabeller:
    names = tuple((str(number),) for number in range(len(text)))
    clip = SimpleNamespace(
        encoder=encoder,
        batches=SimpleNamespace(images=1),
        embed=lambda *_: torch.from_numpy(text),
    )
    resources = SimpleNamespace(
        clip=clip,
        vocabulary=Vocabulary(tuple(name for (name,) in names), names, names),
        quirks=SimpleNamespace(position_scale=False),
    )
    return DenseLabeller(settings.dense_method(), DenseMaskOptions(**options), names, resources)


def assert_labels(found: tuple[np.ndarray, np.ndarray], expected: np.ndarray, first: int) -> None:
    """Asserts that labels are equal, except where two names are equally similar (255)."""
    decided = expected != 255
    assert decided.mean() > 0.99 and len(np.unique(expected[decided])) > 2
    np.testing.assert_array_equal((found[0] - first)[decided], expected[decided])


@torch.no_grad()
def map_of(labeller: DenseLabeller, image: np.ndarray) -> torch.Tensor:
    """Returns the similarities before they are enlarged to the image, every fourth pixel."""
    given = labeller._method, labeller._encoder, labeller._prepare(image)
    return similarity_map(*given, labeller._names, labeller._windows, 2)[:, ::4, ::4]


@pytest.mark.parametrize("window", [112, 0])
def test_labels_of_tipsv2(build, arrays, window):
    golden, encoder = arrays("tips"), ClipEncoder(build("tipsv2_b14").image)
    options = {**TIPS, "window": window, "stride": 84, "window_softmax": window > 0}
    labeller = labeller_of(encoder, ValuePathSettings(), golden["text/names"], **options)
    image = golden["scene/image"]
    resized = golden["scene/resized"].transpose(2, 0, 1).astype(np.float32) / 255
    assert_close(labeller._prepare(image), resized, 0)
    if window:
        assert_close(map_of(labeller, image), golden["scene/probabilities"])
    expected = golden["scene/labels" if window else "scene/whole_labels"]
    assert_labels(labeller(image, image.shape[:2]), expected, 1)


@torch.no_grad()
def test_sides_that_are_no_multiple_of_the_patch_are_enlarged(build, arrays):
    golden, encoder = arrays("tips"), ClipEncoder(build("tipsv2_b14").image)
    image, text = golden["odd/image"], torch.from_numpy(golden["text/names"])
    pixels = to_pixels(image, *image.shape[:2], encoder.normalisation)
    names, method = NameEmbeddings(text, torch.arange(7), 1.0), ValuePathSettings().dense_method()
    found = similarity_map(method, encoder, pixels, names, Windows(0, 1, "enlarge"), 1)
    assert_close(found, golden["odd/cosines"])


@pytest.mark.parametrize("cleaning", [False, True])
def test_labels_of_talk2dino(build, arrays, cleaning):
    golden, images = arrays("talk2dino"), arrays("dinov2")
    encoder, settings = (
        ClipEncoder(build("talk2dino_b14").image),
        Talk2DinoSettings(cleaning=cleaning),
    )
    labeller = labeller_of(encoder, settings, golden["text/names"], **TALK2DINO)
    crop, clean = images["crop/image"], "clean_" * cleaning
    with torch.no_grad():
        pixels = to_pixels(crop, 112, 112, encoder.normalisation)[None]
        shared_pass = labeller._method.run_pass(encoder, pixels)
        maps = labeller._method.similarities(encoder, shared_pass, labeller._names)[0]
    assert_close(maps.T.view(-1, 8, 8), golden["crop/cleaned" if cleaning else "crop/sigmoid"])
    assert_close(map_of(labeller, crop), golden[f"crop/{clean}mask"])
    scene = images["scene/image"]
    assert_close(map_of(labeller, scene), golden[f"scene/{clean}map"])
    assert_labels(labeller(scene, scene.shape[:2]), golden[f"scene/{clean}labels"], 1)


def test_a_background_of_talk2dino_is_a_constant_map(build, arrays):
    golden, scene = arrays("talk2dino"), arrays("dinov2")["scene/image"]
    encoder, settings = ClipEncoder(build("talk2dino_b14").image), Talk2DinoSettings(cleaning=True)
    options = {**TALK2DINO, "background": float(golden["scene/threshold"])}
    labeller = labeller_of(encoder, settings, golden["text/names"], **options)
    assert_labels(labeller(scene, scene.shape[:2]), golden["scene/clean_bg_labels"], 0)


@pytest.mark.parametrize("size", ["native", "wide"])
@torch.no_grad()
def test_maps_of_dinotxt_are_of_enlarged_features(build, arrays, size):
    golden, image = arrays("dinotxt"), arrays("dinov2")[f"{size}/image"]
    encoder = ClipEncoder(build("dinotxt_l14").image)
    vectors = torch.from_numpy(golden["text/vectors"][:, 0])
    half = F.normalize(vectors.chunk(2, -1)[1], dim=-1)
    text = torch.cat([F.normalize(vectors, dim=-1), half], 1).numpy()
    options = {"short_side": min(image.shape[:2]), "window": 0, "enlarge": "features"}
    labeller = labeller_of(encoder, AsTrainedSettings(), text, **options)
    pixels = to_pixels(image, *image.shape[:2], encoder.normalisation)
    given = labeller._method, encoder, pixels, labeller._names, labeller._windows, 1
    found = similarity_map(*given)
    assert_close(found[:, ::4, ::4], golden[f"{size}/map"])
    assert_labels((found.argmax(0).numpy(), found), golden[f"{size}/labels"], 0)
