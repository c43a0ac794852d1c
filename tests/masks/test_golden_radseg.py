"""RADSeg against its released code, on the same weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from pipeline.clip.block import Block
from pipeline.clip.encoder import ClipEncoder, to_pixels
from pipeline.clip.text import join_prompts
from pipeline.dense.best_name import best_classes
from pipeline.dense.method import NameEmbeddings
from pipeline.dense.radseg import RadSegSettings, method
from pipeline.dense.windows import Windows, resize, similarity_map
from tests.golden_models import assert_close
from tests.masks.test_golden_maps import assert_labels, labeller_of

WINDOW, STRIDE = 96, 64
Arrays = dict[str, torch.Tensor]


@pytest.fixture
def golden(arrays) -> dict[str, np.ndarray]:
    return arrays("radseg")


@pytest.fixture
def compute(build, golden, monkeypatch) -> Callable[..., Arrays]:
    """Computes every array of the released code from the image and the text vectors."""

    @torch.no_grad()
    def compute() -> Arrays:
        found: Arrays = {}
        encoder = ClipEncoder(build("c_radio_v3_b16").image)
        aggregate, embed = method.aggregate, encoder.embed

        def keep_features(features: torch.Tensor) -> torch.Tensor:
            found["features"], found["aggregated"] = features[0], aggregate(features)[0]
            return aggregate(features)

        def keep_aligned(tokens: torch.Tensor) -> torch.Tensor:
            found["aligned"] = embed(tokens)[0]
            return embed(tokens)

        def keep_output(
            block: Block, attended: torch.Tensor, *, scaled: bool = True
        ) -> torch.Tensor:
            output = project(block, attended, scaled=False)
            outputs.append(output)
            return block._block.ls_1(output) if scaled else output

        image, size = golden["image"], golden["image"].shape[:2]
        radseg = RadSegSettings(denoising=float(golden["denoising_threshold"])).dense_method()
        pixels = to_pixels(image, *size, encoder.normalisation)
        fitted = radseg.fit(pixels, 16, WINDOW, STRIDE)
        mean, std = encoder.normalisation.mean, encoder.normalisation.std
        plain = torch.from_numpy(image).permute(2, 0, 1) / 255
        assert torch.allclose(pixels * column(std) + column(mean), plain, atol=1e-6)
        found["resized"] = (fitted * column(std) + column(mean))[:, ::4, ::4]

        outputs, project = [], Block.attention_output
        with monkeypatch.context() as patch:
            patch.setattr(Block, "attention_output", keep_output)
            first = radseg.run_pass(encoder, fitted[None, :, :WINDOW, :WINDOW])
            found["window0/before"] = first.last_block_input.tokens[0]
            patch.setattr(encoder, "patches", lambda tokens: tokens)
            found["window0/after"] = method.run_last_block(encoder, first)[0]
            found["window0/scra"] = outputs[-1][0]
        text = join_prompts(torch.from_numpy(golden["text/vectors"]).transpose(0, 1))
        names = NameEmbeddings(text, torch.arange(6), encoder.temperature)
        with monkeypatch.context() as patch:
            patch.setattr(method, "aggregate", keep_features)
            patch.setattr(encoder, "embed", keep_aligned)
            windows = Windows(WINDOW, STRIDE, "stretch")
            given = radseg, encoder, pixels, names, windows, 2
            found["probabilities"] = similarity_map(*given, image=image)
        enlarged = [
            radseg.after_enlarging(resize(each[None], size)[0]) for each in found["probabilities"]
        ]
        found["enlarged"] = torch.stack(enlarged)[:, ::4, ::4]
        after = radseg.after_enlarging
        labels, _ = best_classes(found["probabilities"], [*range(6)], size, None, 0.0, after)
        return found | {"labels": labels}

    return compute


def column(values: tuple[float, ...]) -> torch.Tensor:
    return torch.tensor(values)[:, None, None]


def test_every_array_is_that_of_the_released_code(compute, golden):
    found = compute()
    for name in sorted(found.keys() - {"labels"}):
        assert_close(found[name], golden[name])
    decided = golden["labels"] != 255
    assert (found["labels"].numpy() == golden["labels"])[decided].all()
    given = {"image", "resized_size", "denoising_threshold"}
    given |= {name for name in golden if name.startswith(("text/", "positions/"))}
    assert found.keys() == golden.keys() - given
    names = torch.from_numpy(golden["text/vectors"])
    assert_close(F.normalize(names, dim=-1).mean(1), golden["text/names"])


def test_labels_are_those_of_the_released_code(build, golden):
    encoder, settings = ClipEncoder(build("c_radio_v3_b16").image), RadSegSettings()
    settings.denoising = float(golden["denoising_threshold"])
    text = F.normalize(torch.from_numpy(golden["text/names"]), dim=-1).numpy()
    short = min(golden["image"].shape[:2])
    options = {"short_side": short, "window": WINDOW, "stride": STRIDE}
    found = labeller_of(encoder, settings, text, **options)
    labels, probability = found(golden["image"], golden["image"].shape[:2])
    assert_labels((labels, probability), golden["labels"], 1)
    assert probability.min() >= 0 and probability.max() <= 1
    # The factor of the softmax is applied once, before the probabilities are enlarged.
    options["temperature"] = 1.0
    flat = labeller_of(encoder, replace(settings, denoising=0.0), text, **options)
    assert flat(golden["image"], golden["image"].shape[:2])[1].max() < 0.5


def test_sides_become_multiples_of_the_stride():
    for size, expected in {
        (448, 597): (672, 672),
        (448, 448): (448, 448),
        (224, 448): (224, 448),  # multiples already, though one is below a window
        (100, 448): (336, 448),
        (300, 500): (448, 672),
    }.items():
        radseg = RadSegSettings().dense_method()
        assert radseg.fit(torch.zeros(3, *size), 16, 336, 224).shape[1:] == expected
    assert radseg.fit(torch.zeros(3, 50, 70), 16, 0, 224).shape[1:] == (64, 80)


def test_alike_patches_are_averaged():
    same = torch.ones(1, 9, 7)
    torch.testing.assert_close(method.aggregate(same), same)
