"""What the released code computes, and the CLIP that it was given."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pipeline.clip.encoder import ClipEncoder
from pipeline.clip.image_tower import ImageTower
from pipeline.clip.weights.checkpoint import load_clip


@pytest.fixture(scope="package")
def golden(golden_folder: Path) -> dict[str, np.ndarray]:
    with np.load(golden_folder / "dense.npz") as arrays:
        return dict(arrays)


@pytest.fixture(scope="package")
def plain(golden_folder: Path) -> ClipEncoder:
    return ClipEncoder(ImageTower.of(load_clip(golden_folder / "tiny_clip_openai_format.pt")))
