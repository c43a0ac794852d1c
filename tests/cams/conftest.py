"""The tiny CLIP, and the text of three classes and two backgrounds."""

import pytest
import torch
import torch.nn.functional as F


@pytest.fixture(scope="module")
def text() -> torch.Tensor:
    return F.normalize(torch.randn(5, 32, generator=torch.Generator().manual_seed(2)), dim=-1)
