"""Methods with a second backbone against their authors' code, on the same weights."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from pipeline.clip.encoder import ClipEncoder, to_pixels
from pipeline.clip.second import FrozenSecond
from pipeline.configuration.registry import find_method
from pipeline.dense.best_name import best_classes
from pipeline.dense.lposs.propagation import propagate_over_pixels
from pipeline.dense.method import DenseMethod, NameEmbeddings
from pipeline.dense.picture import Picture
from pipeline.dense.windows import Windows, resize, similarity_map, with_scaled_positions
from tests.golden_models import assert_close

ID, SIZE = "2011_000003", (224, 320)
_MEAN, _STD = [122.771, 116.746, 104.094], [68.501, 66.632, 70.323]


@pytest.fixture(scope="module")
def read(golden_folder: Path) -> Callable[[str], dict[str, np.ndarray]]:
    def read(name: str) -> dict[str, np.ndarray]:
        with np.load(golden_folder / f"{name}.npz") as arrays:
            return {key.removeprefix(f"{ID}/"): array for key, array in arrays.items()}

    return read


@pytest.fixture(scope="module")
def encoder(plain) -> ClipEncoder:
    return with_scaled_positions(plain)


@pytest.fixture(scope="module")
def backbone(golden_folder) -> Callable[[int], FrozenSecond]:
    def backbone(patch: int) -> FrozenSecond:
        path = str(golden_folder / "second" / f"tiny_vit_p{patch}.pt")
        return FrozenSecond(("cams.second.model", ""), "dino_vitb8", None, path, "cpu", "fp32")

    return backbone


@pytest.fixture(scope="module")
def pixels(read) -> Callable[[str], torch.Tensor]:
    """Normalises an image by CLIP's rounded constants: 3×H×W."""

    def pixels(name: str) -> torch.Tensor:
        image = torch.from_numpy(read("dense")[name]).float()
        return ((image - torch.tensor(_MEAN)) / torch.tensor(_STD)).permute(2, 0, 1)

    return pixels


@pytest.fixture(scope="module")
def names(read) -> NameEmbeddings:
    given = read("second/text")
    return NameEmbeddings(torch.from_numpy(given["text"]), torch.from_numpy(given["labels"]), 40.0)


def method_of(name: str, *, seconds: dict, **given: object) -> DenseMethod:
    return find_method("dense", name).settings(**given).dense_method(seconds=seconds)


def best_of_labels(similarities: torch.Tensor, names: NameEmbeddings) -> torch.Tensor:
    labels = range(int(names.labels.max()) + 1)
    return torch.stack([similarities[names.labels == label].amax(0) for label in labels])


@torch.no_grad()
def test_proxyclip(read, encoder, backbone, pixels, names):
    golden, seconds = read("second/proxyclip"), {"second": backbone(8)}
    method, square = method_of("proxyclip", seconds=seconds), pixels("image_224")[None]
    seen = method.run_pass(encoder, square)
    tokens = backbone(8).encoder.tokens(square, encoder.normalisation)
    assert_close(tokens[0].flatten(1).T[::7], golden["proxyclip_dino"])
    assert_close(method.patch_features(encoder, seen)[0, ::4], golden["proxyclip_features"])
    cosines = method.similarities(encoder, seen, names)[0].T.unflatten(-1, method.grid(seen))
    assert_close(cosines[:, ::2, ::2], golden["proxyclip_cosines"])
    wide, windows = pixels("image_wide"), Windows(200, 100, "pad")
    found = similarity_map(method, encoder, wide, names, windows, 2)
    assert_close(found[:, ::8, ::8], golden["proxyclip_windows"])
    labels, probability = best_classes(found, names.labels.tolist(), SIZE, 40.0)
    labels[probability < float(golden["proxyclip_prob_thd"])] = 0
    assert np.array_equal(labels, golden["proxyclip_labels"])


@torch.no_grad()
def test_corrclip(read, encoder, backbone, pixels, names):
    golden, seconds = read("second/corrclip"), {"second": backbone(8)}
    method = method_of("corrclip", seconds=seconds)
    wide, regions = pixels("image_wide"), torch.from_numpy(golden["regions"]).long()
    first = wide[None, :, :, :224]
    query, key, _ = backbone(8).encoder.projections(first, encoder.normalisation)
    alike = F.normalize((query + key)[0].flatten(1).T, dim=-1)
    assert_close(alike[::7], golden["corrclip_dino"])
    seen = replace(method.run_pass(encoder, first), pictures=[Picture(regions[:, :224])])
    assert_close(method.patch_features(encoder, seen)[0, ::4], golden["corrclip_features"])
    cosines = method.similarities(encoder, seen, names)[0].T.unflatten(-1, method.grid(seen))
    assert_close(cosines[:, ::2, ::2], golden["corrclip_cosines"])
    windows = Windows(200, 100, "pad")
    found = similarity_map(method, encoder, wide, names, windows, 2, picture=Picture(regions))
    probability = best_of_labels((40 * found).softmax(0), names)
    assert_close(probability[:, ::8, ::8], golden["corrclip_probability"])
    labels, _ = best_classes(found, names.labels.tolist(), SIZE, 40.0)
    assert not np.array_equal(labels, golden["corrclip_labels"])
    assert np.array_equal(method.relabel(labels, regions), golden["corrclip_labels"])


@torch.no_grad()
def test_trident(read, encoder, backbone, pixels, names):
    golden = read("second/trident")
    query, key, value = (
        torch.from_numpy(golden[f"sam_{part}"]).float()[0] for part in ("query", "key", "value")
    )
    values = value.flatten(1, 2)

    def attend(image: np.ndarray) -> tuple:
        heads = ((2 * q @ k.T / math.sqrt(32)).softmax(-1) for q, k in zip(query, key))
        return (11, 16), values, heads

    sam = SimpleNamespace(encoder=SimpleNamespace(last_attention=attend))
    seconds = {"second": backbone(16), "sam": sam}
    constants = {"voc21": (1.2, None), "city": (3.0, 0.6), "voc20": (0.0, None)}
    for name, (factor, negative) in constants.items():
        method = method_of("trident", seconds=seconds, factor=factor, negative=negative)
        assert_close(method.spread(values, attend(None)[2]), golden[f"sam_weights_{name}"])
    method, image = method_of("trident", seconds=seconds), read("dense")["image_wide"]
    windows, wide = Windows(224, 96, "stretch"), pixels("image_wide")
    found = similarity_map(method, encoder, wide, names, windows, 1, image=image)
    assert_close(found, golden["trident_cosines"])
    assert_close(resize(found, SIZE)[:, ::8, ::8], golden["trident_map"])
    labels, _ = best_classes(found, names.labels.tolist(), SIZE, 40.0)
    assert np.array_equal(labels, golden["trident_labels"])


@torch.no_grad()
def test_lposs(read, plain, backbone, names):
    golden = read("second/lposs")
    names = names._replace(text=torch.from_numpy(golden["text"]))
    image = to_pixels(read("dense")["image_320"], 320, 320)
    method = method_of("lposs", seconds={"second": backbone(16)})
    corners = [(0, 0), (0, 96), (96, 0), (96, 96)]
    crops = torch.stack([image[:, y : y + 224, x : x + 224] for y, x in corners])
    seen = method.run_pass(plain, crops)
    features = F.normalize(method.patch_features(plain, seen)[0], dim=-1)
    assert_close(features[::4], golden["lposs_clip"])
    values = backbone(16).encoder.projections(crops[:1], plain.normalisation)[2]
    assert_close(F.normalize(values[0].flatten(1).T, dim=-1)[::4], golden["lposs_dino"])
    before = method_of("value_path", seconds={}).similarities(plain, seen, names)
    assert_close(before.flatten(0, 1), golden["lposs_before"])
    _, after, _ = method.spread(plain, [(corners, seen)], names)
    assert_close(after.flatten(2).mT.flatten(0, 1), golden["lposs_after"], 2e-5)
    windows, original = Windows(224, 112, "stretch"), read("dense")["image_320"]
    found = similarity_map(method, plain, image, names, windows, 2, image=original)
    enlarged = resize(best_of_labels(found, names), (300, 310))
    assert_close(enlarged[:, ::8, ::8], golden["lposs_map"], 2e-5)
    assert np.array_equal(enlarged.argmax(0), golden["lposs_labels"])


def test_lposs_plus(read):
    masks, image = (read("dense")[name] for name in ("masks", "image_224"))
    found = propagate_over_pixels(torch.from_numpy(masks), image[:90, :110])
    assert_close(found, read("second/lposs")["lposs_plus"], 2e-5)
