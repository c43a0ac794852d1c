"""Rotary positions of DINOv3: queries and keys of patches are turned by their places.

Su et al., arXiv 2104.09864; along two axes as in Siméoni et al., DINOv3, arXiv 2508.10104.
"""

import math
from functools import lru_cache

import torch

Size = tuple[int, int]
"""Height and width of an image, in pixels."""


class Rotary:
    """Turns queries and keys by angles that are kept for some grids.

    The centre of patch (i, j) of h×w is at y = 2(i+½)/h − 1 and x = 2(j+½)/w − 1. Its angles are
    2πy/p and 2πx/p for each of d/4 periods p, twice in a row; of d channels, k turns with k + d/2.
    """

    def __init__(self, periods: torch.Tensor, patch_size: int):
        self.periods, self._patch_size = periods, patch_size
        self._kept = lru_cache(maxsize=8)(self.angles)

    def angles(self, rows: int, columns: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns cosine and sine of the angles of a grid's patches, N×d float32 each."""
        sides = (torch.arange(n, device=self.periods.device) for n in (rows, columns))
        axes = ((2 * place + 1) / n - 1 for place, n in zip(sides, (rows, columns)))
        centres = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).flatten(0, 1)
        angles = (2 * math.pi * centres[:, :, None] / self.periods).flatten(1).tile(2)
        return angles.cos(), angles.sin()

    def turn(self, features: torch.Tensor, size: Size) -> torch.Tensor:
        """Turns queries or keys, …×T×d, whose last N are of patches; computes in float32."""
        grid = (side // self._patch_size for side in size)
        # The sides of a graph that is exported for any size are symbols, which have no hash.
        cosine, sine = (self._kept if isinstance(size[0], int) else self.angles)(*grid)
        before = features.shape[-2] - sine.shape[0]
        prefix, patches = features[..., :before, :], features[..., before:, :]
        first, second = patches.float().chunk(2, -1)
        turned = patches * cosine + torch.cat([-second, first], -1) * sine
        return torch.cat([prefix, turned.to(features.dtype)], -2)
