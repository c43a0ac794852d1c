"""The tiny CLIP, and the text of three classes and two backgrounds."""

import pytest
import torch
import torch.nn.functional as F

from pipeline.clip.encoder import ClipEncoder
from pipeline.clip.image_tower import ImageTower


@pytest.fixture(scope="module")
def encoder(tiny_clip) -> ClipEncoder:
    return ClipEncoder(ImageTower.of(tiny_clip))


@pytest.fixture(scope="module")
def text() -> torch.Tensor:
    return F.normalize(torch.randn(5, 32, generator=torch.Generator().manual_seed(2)), dim=-1)
