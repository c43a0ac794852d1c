"""Small models with the weights of the golden files."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from pipeline.clip.image_text import ImageTextModel, Release, releases
from pipeline.configuration.registry import imported
from tests import c_radio_files

DEPTHS = {"tipsv2_b14": 4, "talk2dino_b14": 4, "dinotxt_l14": 6, "c_radio_v3_b16": 2}


def small_release(name: str) -> Release:
    """Returns a release with the dimensions of the golden files, and a native size of 6 or 8."""
    release = releases()[name]
    patch = release.dimensions.patch_size
    dimensions = type(release.dimensions)(DEPTHS[name], patch, {14: 112, 16: 96}[patch])
    small = {"dimensions": dimensions, "heads": 4, "text_heads": 4, "head_width": 16}
    return replace(release, **small)


def assert_close(
    ours: torch.Tensor, theirs: torch.Tensor | np.ndarray, tolerance: float = 1e-5
) -> None:
    """Asserts that the largest difference is within a share of the largest value."""
    theirs = torch.as_tensor(theirs)
    tolerance = 4e-4 if theirs.dtype == torch.float16 else tolerance
    assert ours.shape == theirs.shape
    assert (ours.detach() - theirs.float()).abs().max() <= tolerance * theirs.float().abs().max()


def draw_pixels(grid: tuple[int, int], patch: int = 14) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(2, 3, patch * grid[0], patch * grid[1], generator=generator)


@pytest.fixture(scope="session")
def models_folder(golden_folder: Path) -> Path:
    return golden_folder / "image_text_models"


@pytest.fixture(scope="session")
def arrays(models_folder: Path) -> Callable[[str], dict[str, np.ndarray]]:
    def read(name: str) -> dict[str, np.ndarray]:
        with np.load(models_folder / f"golden_{name}.npz") as found:
            return dict(found)

    return read


@pytest.fixture(scope="session")
def tips_weights(models_folder: Path) -> dict[str, torch.Tensor]:
    """TIPSv2's weights in the layout of its release."""
    files = {"vision_encoder": "weights_tips_vision", "text_encoder": "weights_tips_text"}
    return {
        f"{part}.{name}": tensor
        for part, file in files.items()
        for name, tensor in load_file(models_folder / f"{file}.safetensors").items()
    }


@pytest.fixture(scope="session")
def radseg_weights(models_folder: Path) -> dict[str, torch.Tensor]:
    """C-RADIO's weights by timm's names, below "vit.", and those of the head."""
    return load_file(models_folder / "weights_radseg.safetensors")


@pytest.fixture(scope="session")
def build(
    models_folder: Path,
    tips_weights: dict,
    radseg_weights: dict,
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[[str], ImageTextModel]:
    tips = tmp_path_factory.mktemp("tips") / "model.safetensors"
    save_file(tips_weights, tips)
    radio = c_radio_files.timm(radseg_weights, tmp_path_factory.mktemp("c_radio"))

    def build(name: str) -> ImageTextModel:
        dino, head = (models_folder / f"weights_{f}.safetensors" for f in ("dinov2", "talk2dino"))
        parts = {
            "tipsv2_b14": {"weights": tips, "tokenizer": Path("not read")},
            "talk2dino_b14": {
                "image": dino,
                "head": models_folder / "weights_talk2dino.safetensors",
            },
            "c_radio_v3_b16": {**radio, "text": Path("not read"), "tokenizer": Path("not read")},
            "dinotxt_l14": {
                "image": dino,
                "head": models_folder / "weights_dinotxt_head.safetensors",
                "text": models_folder / "weights_dinotxt_text.safetensors",
            },
        }
        release = small_release(name)
        return imported(release.build)(release, parts[name], "cpu")

    return build
