"""CorrCLIPv2 against the released code on the same weights, and its search against a loop."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from pipeline.clip.encoder import ClipEncoder
from pipeline.clip.second import SECONDS, FrozenSecond
from pipeline.clip.second_encoder import SecondEncoder
from pipeline.datasets.vocabulary import Vocabulary
from pipeline.dense.corrclip import BankSettings, CorrClipSettings
from pipeline.dense.corrclip.bank import Bank
from pipeline.dense.corrclip.learning import RegionEncoder
from pipeline.dense.picture import Picture, enlarge, means_of_regions
from pipeline.dense.windows import prepare, similarity_map
from pipeline.masks.dense import DenseLabeller
from pipeline.masks.settings import DenseMaskOptions
from tests.clip.models.test_dinov3 import tower_of
from tests.golden_models import assert_close

TOLERANCE = 2e-5
BANK = {"short_side": 120, "window": 112, "stride": 56, "own": True}
SETTINGS = {"merge": 0, "whole_picture": True}
READ_OUT = {"window": 112, "stride": 56, "remainder": "pad", "temperature": 40.0}
SHORT_SIDES = {"wide": 112, "tall": 100}


@pytest.fixture(scope="module")
def read(golden_folder: Path) -> Callable[[str], dict[str, np.ndarray]]:
    def read(name: str) -> dict[str, np.ndarray]:
        with np.load(golden_folder / "corrclip_v2" / f"{name}.npz") as arrays:
            return dict(arrays)

    return read


@pytest.fixture(scope="module")
def seconds(golden_folder) -> dict[str, object]:
    """DINOv3, which sees whole pictures, and DINO, which sees CLIP's windows of the bank."""
    tower = tower_of(golden_folder / "dinov3" / "weights_dinov3_mlp.safetensors", "mlp")
    whole = SimpleNamespace(encoder=SecondEncoder(tower, torch.float32, None), device="cpu")
    path = str(golden_folder / "second" / "tiny_vit_p8.pt")
    dino = FrozenSecond(("cams.second.model", ""), "dino_vitb8", None, path, "cpu", "fp32")
    assert SECONDS["dino_vitb8"]
    return {"second": whole, "bank.second": dino}


def give_regions(patch: pytest.MonkeyPatch, numbers: np.ndarray) -> None:
    """Puts regions in place of superpixels."""
    given = numbers.astype(np.int64)
    patch.setattr("pipeline.dense.corrclip.method.superpixels", lambda *_: given)


def clip_of(encoder: ClipEncoder, text: np.ndarray | None = None) -> SimpleNamespace:
    return SimpleNamespace(
        encoder=encoder,
        batches=SimpleNamespace(images=2),
        embed=lambda *_: torch.from_numpy(text),
    )


@pytest.fixture(scope="module")
def region_encoder(plain, seconds) -> RegionEncoder:
    settings = CorrClipSettings(**SETTINGS, bank=BankSettings(split="train", **BANK))
    resources = SimpleNamespace(
        clip=clip_of(plain), seconds=seconds, quirks=SimpleNamespace(position_scale=True)
    )
    return RegionEncoder(settings, resources)


@pytest.mark.parametrize("number", range(4))
def test_the_bank_is_that_of_the_released_code(read, region_encoder, monkeypatch, number):
    golden, exact, half = read("bank"), [], torch.Tensor.half
    give_regions(monkeypatch, golden[f"regions_{number}"])
    monkeypatch.setattr(torch.Tensor, "half", lambda tensor: exact.append(tensor) or half(tensor))
    image, rows = golden[f"picture_{number}"], golden["rows"][:, 0] == number
    stored = region_encoder(image, image.shape[:2], None)
    for (name, found), before in zip(stored.items(), exact[-2:], strict=True):
        assert found.dtype == np.float16
        assert_close(before, golden[name][rows], TOLERANCE)
        np.testing.assert_array_equal(found, before.half())


@torch.no_grad()
def test_windows_of_the_bank_are_those_of_the_released_code(read, region_encoder):
    golden, labelling = read("bank"), region_encoder
    encoder, image = labelling._encoder, golden["picture_0"]
    pixels = prepare(encoder, image, labelling._windows, (120, 2048))
    regions = Picture(torch.from_numpy(golden["regions_0"].astype(np.int64)))
    window = regions.at(pixels.shape[-2:]).cut((0, 0), (112, 112), (0, 0, 0, 0))
    shared = labelling._values.run_pass(encoder, pixels[None, :, :112, :112])
    shared = replace(shared, pictures=[window])
    assert_close(labelling._values.alike(encoder, shared)[0, ::4], golden["window_dino"], TOLERANCE)
    found = labelling._values.patch_features(encoder, shared)[0, ::4]
    assert_close(found, golden["window_clip"], TOLERANCE)


@pytest.fixture(scope="module")
def labeller(read, plain, seconds, tmp_path_factory):
    """Builds what labels the scenes, with the released bank."""
    golden, folder = read("predict"), tmp_path_factory.mktemp("bank")
    keys, values = golden["store/keys"], golden["store/values"]
    pictures = np.arange(len(keys), dtype=np.int32) // 7
    contents = np.array([f"picture {number}" for number in range(pictures.max() + 1)])
    stored = {"keys": keys, "values": values, "pictures": pictures, "contents": contents}
    np.savez(folder / "bank.npz", **stored)

    def labeller(scene: str) -> DenseLabeller:
        settings = CorrClipSettings(**SETTINGS, bank=BankSettings(split="train", **BANK))
        text, labels = golden["text/names"], golden["text/labels"].tolist()
        names = tuple(
            tuple(f"{label} {place}" for place, each in enumerate(labels) if each == label)
            for label in range(max(labels) + 1)
        )
        classes = tuple(str(label) for label in range(1, len(names)))
        resources = SimpleNamespace(
            clip=clip_of(plain, text),
            vocabulary=Vocabulary(classes, names[1:], names[1:]),
            quirks=SimpleNamespace(position_scale=True),
        )
        options = {"short_side": SHORT_SIDES[scene], "min_probability": 0.0, **READ_OUT}
        options["min_probability"] = float(golden[f"{scene}/prob_thd"])
        method = settings.dense_method(seconds=seconds, learned=folder)
        return DenseLabeller(method, DenseMaskOptions(**options), names, resources)

    return labeller


@pytest.fixture(scope="module", params=["wide", "tall"])
def scene(request, read) -> tuple[str, dict[str, np.ndarray]]:
    name = f"{request.param}/"
    found = {k.removeprefix(name): v for k, v in read("predict").items() if k.startswith(name)}
    return request.param, found


def look(labeller: DenseLabeller, golden: dict[str, np.ndarray]) -> tuple[torch.Tensor, Picture]:
    image = golden["image"]
    with pytest.MonkeyPatch.context() as patch:
        give_regions(patch, golden["regions"])
        picture = labeller._method.read_picture(labeller._encoder, image, image.shape[:2], None, "")
    return labeller._prepare(image), picture


@torch.no_grad()
def test_what_is_asked_of_the_bank(labeller, scene, read):
    name, golden = scene
    labeller = labeller(name)
    pixels, picture = look(labeller, golden)
    assert_close(picture.features, golden["vfm"], TOLERANCE)
    seen, names = picture.at(pixels.shape[-2:]), labeller._names
    known, queries, which = means_of_regions(seen.features, seen.regions, unit=True)
    assert known.tolist() == np.unique(golden["regions"]).tolist()
    assert_close(F.normalize(queries, dim=-1), golden["query"], TOLERANCE)
    support = labeller._method.bank.support(queries, 20) @ names.text.T
    assert_close(support, golden["support_main"], TOLERANCE)
    # The rows that are taken, as a set.
    keys = F.normalize(torch.from_numpy(read("predict")["store/keys"]).float(), dim=-1)
    best = (F.normalize(queries, dim=-1) @ keys.T).topk(20).indices
    assert [{*row} for row in best.tolist()] == [{*row} for row in golden["index"].tolist()]


@torch.no_grad()
def test_windows_own_similarities_and_labels(labeller, scene, monkeypatch):
    name, golden = scene
    labeller = labeller(name)
    method, encoder, names = labeller._method, labeller._encoder, labeller._names
    pixels, picture = look(labeller, golden)
    resized = torch.from_numpy(golden["resized"]).float()
    mean, std = torch.tensor([122.771, 116.746, 104.094]), torch.tensor([68.501, 66.632, 70.323])
    assert_close(pixels, ((resized - mean) / std).permute(2, 0, 1), 0)
    seen = picture.at(pixels.shape[-2:])
    margins = labeller._windows.margins(*labeller._windows.size(*pixels.shape[-2:]), 112)
    corners = labeller._windows.corners(*pixels.shape[-2:])
    size = labeller._windows.size(*pixels.shape[-2:])
    parts = [pixels[:, y : y + size[0], x : x + size[1]] for y, x in corners]
    shared = method.run_pass(encoder, F.pad(torch.stack(parts), margins))
    shared = replace(shared, pictures=[seen.cut(corner, size, margins) for corner in corners])
    assert_close(method.alike(encoder, shared)[0, ::4], golden["correlations"], TOLERANCE)
    assert_close(method.patch_features(encoder, shared)[0, ::4], golden["features"], TOLERANCE)
    cosines = method.similarities(encoder, shared, names).mT.unflatten(-1, method.grid(shared))
    windows = F.interpolate(cosines, (112, 112), mode="bilinear")[:, :, ::8, ::8]
    assert_close(windows, golden["windows"], TOLERANCE)
    own = similarity_map(method, encoder, pixels, names, labeller._windows, 2, seen)
    whole = tuple(golden["regions"].shape)
    enlarged = F.interpolate(own[None], whole, mode="bilinear")[0]
    assert_close(enlarged[:, ::4, ::4], golden["own"], TOLERANCE)
    # The released scores have a second CLIP's, which is not built: it is put in by hand.
    support = torch.from_numpy(golden["support_main"] + golden["support_second"]) / 2
    vectors = support @ torch.linalg.pinv(names.text).T
    monkeypatch.setattr(Bank, "support", lambda *_: vectors)
    fused = method.with_support(own, names, seen)
    enlarged = F.interpolate(fused[None], whole, mode="bilinear")[0]
    assert_close(enlarged[:, ::4, ::4], golden["fused"], TOLERANCE)
    probability = (40 * enlarged).softmax(0)
    best = [probability[np.array(labeller._labels) == label].amax(0) for label in range(6)]
    assert_close(torch.stack(best)[:, ::4, ::4], golden["probability"], 1e-4)
    give_regions(monkeypatch, golden["regions"])
    assert_labels(labeller(golden["image"], whole)[0], golden["labels"])
    monkeypatch.setattr(method, "relabel", lambda labels, regions: labels)
    assert_labels(labeller(golden["image"], whole)[0], golden["labels_uncorrected"])


def assert_labels(found: np.ndarray, expected: np.ndarray) -> None:
    """Asserts that labels are equal where the two best differ by more than rounding (not 255)."""
    decided = expected != 255
    assert decided.mean() > 0.98
    np.testing.assert_array_equal(found[decided], expected[decided])


@pytest.mark.parametrize("own", ["", "a", "unknown", "twice"])
@pytest.mark.parametrize("rows", [1, 7, 300])
def test_the_search_is_that_of_a_loop(own, rows, monkeypatch):
    monkeypatch.setattr("pipeline.dense.corrclip.bank._ROWS", 64)
    generator = torch.manual_seed(rows)
    keys = torch.randn(rows, 5, generator=generator).half()
    values = F.normalize(torch.randn(rows, 4, generator=generator), dim=-1).half()
    pictures = torch.arange(rows, dtype=torch.int32) // 6
    contents = ["a", *map(str, range(rows))]
    contents[1:4:2] = ["twice"] * len(contents[1:4:2])  # one picture under two names
    queries = torch.randn(3, 5, generator=generator)
    found = Bank(keys, values, pictures, np.array(contents)).support(queries, 20, own)
    for query, support in zip(queries, found):
        alike = [
            (float(F.cosine_similarity(query, key.float(), dim=0)), row)
            for row, key in enumerate(keys)
            if contents[pictures[row]] != own
        ]
        chosen = [row for _, row in sorted(alike, reverse=True)[:20]]
        expected = F.normalize(values[chosen].float().sum(0), dim=0)
        np.testing.assert_allclose(support, expected, atol=1e-5)


def test_means_of_regions_are_those_of_enlarged_features(monkeypatch):
    monkeypatch.setattr("pipeline.dense.picture._AT_ONCE", 100)  # a few rows at a time
    generator = torch.manual_seed(0)
    features = torch.randn(3, 4, 5, generator=generator)
    regions = torch.randint(0, 4, (23, 17), generator=generator)
    enlarged = F.interpolate(features[None], (23, 17), mode="bilinear")[0]
    rows, columns = torch.tensor([22, 0, 7, 7]), torch.arange(2, 11)
    some = enlarge(features, (23, 17), rows, columns)
    np.testing.assert_allclose(some, enlarged[:, rows][:, :, columns], atol=1e-6)
    for unit in (False, True):
        pixels = F.normalize(enlarged, dim=0) if unit else enlarged
        known, means, which = means_of_regions(features, regions, unit)
        assert known.tolist() == [0, 1, 2, 3] and torch.equal(known[which], regions)
        for number, mean in zip(known, means):
            np.testing.assert_allclose(mean, pixels[:, regions == number].mean(1), atol=1e-6)


@pytest.mark.parametrize("margins", [(0, 0, 0, 0), (3, 2, 0, 5)])
def test_features_on_a_grid_are_those_of_all_pixels(margins):
    generator = torch.manual_seed(0)
    picture = Picture(torch.ones(40, 30).long(), torch.randn(5, 6, 4, generator=generator))
    enlarged = F.interpolate(picture.features[None], (40, 30), mode="bilinear")
    pixels = F.normalize(enlarged, dim=1)
    found = picture.on_grid((11, 7))
    np.testing.assert_allclose(found, F.interpolate(pixels, (11, 7), mode="bilinear")[0], atol=1e-6)
    window = F.pad(pixels[..., 7:31, 4:26], margins, mode="replicate")
    found = picture.cut((7, 4), (24, 22), margins).on_grid((9, 50))
    np.testing.assert_allclose(found, F.interpolate(window, (9, 50), mode="bilinear")[0], atol=1e-6)
