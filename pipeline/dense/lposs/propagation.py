"""Label propagation: names spread over a graph of patches, or of pixels, that are alike.

LPOSS and LPOSS+: Stojnić et al., CVPR 2025, arXiv 2503.19777 (docs/other-methods.md, "Methods
with a second backbone"). Notation as there: S is the normalised adjacency of the graph, Y the
similarities of its nodes and names, and P the result.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from skimage.color import rgb2lab

from pipeline.dense.lposs import LpossSettings

_TOLERANCE = 1e-6
_LAB = (100.0, 128.0, 128.0)  # by which L, a and b are divided
_VALUES = 2**26  # of pixels and names that are propagated together: 512 MB


def solve(
    spread: Callable[[torch.Tensor], torch.Tensor], given: torch.Tensor, alpha: float, steps: int
) -> torch.Tensor:
    """Solves (I − αS) P = Y by conjugate gradients from 0, each column on its own.

    A column ends early where its residual is below 1e-6 of Y's. The published number of steps does
    not converge, so that it is part of the method.

    Args:
        spread: returns S X of any X of the shape of Y.
        given: Y, n×C float64.
        alpha: α.
        steps: at most so many.

    Returns:
        P, n×C float64.
    """
    solution, residual = torch.zeros_like(given), given.clone()
    direction, square = given.clone(), given.square().sum(0)
    least = _TOLERANCE**2 * square
    for _ in range(steps):
        active = square > least
        if not active.any():
            break
        image = direction - alpha * spread(direction)
        step = (square / (direction * image).sum(0)).where(active, 0)
        solution += step * direction
        residual -= step * image
        after = residual.square().sum(0)
        direction = residual + (after / square).where(active, 0) * direction
        square = after
    return solution


def propagate(
    similarities: torch.Tensor,
    features: torch.Tensor,
    positions: torch.Tensor,
    options: LpossSettings,
) -> torch.Tensor:
    """Returns LPOSS of n patches and C names, n×C float32.

    Args:
        similarities: Y, n×C float32.
        features: of the second backbone, n×D float32, each of length 1.
        positions: rows and columns of the patches' centres in the image, n×2, in pixels.
        options: the constants.
    """
    alike = features @ features.mT
    nearest = alike.topk(min(options.neighbours, len(alike)))
    away = (positions[:, None] - positions[nearest.indices]).square().sum(-1).sqrt()
    weights = nearest.values.clamp(min=0) ** options.exponent
    weights = (weights * torch.exp(-options.distance_weight * away)).double()
    adjacency = torch.zeros_like(alike, dtype=torch.float64)
    del alike
    adjacency.scatter_(1, nearest.indices, weights)
    adjacency += adjacency.mT.clone()  # a pair of mutual neighbours counts twice
    adjacency.fill_diagonal_(0)
    scale = _inverse_root(adjacency.sum(1))
    adjacency *= scale[:, None]
    adjacency *= scale
    return solve(adjacency.matmul, similarities.double(), options.alpha, options.steps).float()


class PixelGraph:
    """The graph of LPOSS+: each pixel has those of a square around it as neighbours."""

    def __init__(self, image: np.ndarray, radius: int, bandwidth: float, device: torch.device):
        """Weighs neighbours by colour.

        Args:
            image: H×W×3 uint8, RGB.
            radius: pixels from the centre of the square to its border.
            bandwidth: by which distances of colours (CIELAB, scaled) are divided.
            device: where it is computed.
        """
        lab = torch.from_numpy(rgb2lab(image) / _LAB).permute(2, 0, 1).float().to(device)
        self._size = height, width = image.shape[:2]
        # Of a pixel and its neighbour either may be the other's: one weight serves both.
        around = range(-radius, radius + 1)
        offsets = [(dy, dx) for dy in around for dx in around if (dy, dx) > (0, 0)]
        self._offsets = [(dy, dx) for dy, dx in offsets if dy < height and abs(dx) < width]
        self._weights = []
        total = torch.zeros(self._size, dtype=torch.float64, device=device)
        for offset in self._offsets:
            first, second = self._pair(lab, offset)
            weight = torch.exp(-(first - second).square().sum(0).sqrt() / bandwidth).double()
            for part in self._pair(total, offset):
                part += weight
            self._weights.append(weight)
        scale = _inverse_root(total)
        for weight, offset in zip(self._weights, self._offsets):
            for part in self._pair(scale, offset):
                weight *= part

    def spread(self, values: torch.Tensor) -> torch.Tensor:
        """Returns S X of X, (H·W)×C float64."""
        given = values.mT.unflatten(-1, self._size)
        result = torch.zeros_like(given)
        for weight, offset in zip(self._weights, self._offsets):
            first, second = self._pair(given, offset)
            into_first, into_second = self._pair(result, offset)
            into_first.addcmul_(second, weight)
            into_second.addcmul_(first, weight)
        return result.flatten(1).mT

    def _pair(
        self, values: torch.Tensor, offset: tuple[int, int]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns views of …×H×W: the pixels that have a neighbour at an offset, and these."""
        (height, width), (dy, dx) = self._size, offset
        left, right = max(0, -dx), width - max(0, dx)
        return values[..., : height - dy, left:right], values[..., dy:, left + dx : right + dx]


def propagate_over_pixels(
    scores: torch.Tensor,
    image: np.ndarray,
    *,
    radius: int = 6,
    bandwidth: float = 0.01,
    alpha: float = 0.95,
    steps: int = 10,
) -> torch.Tensor:
    """Returns LPOSS+ of scores, C×H×W float32, of the pixels of an image, H×W×3 uint8, RGB.

    For the other arguments see :class:`PixelGraph` and :func:`solve`.
    """
    graph = PixelGraph(image, radius, bandwidth, scores.device)
    at_once = max(1, _VALUES // scores[0].numel())
    parts = []
    for part in scores.split(at_once):
        solved = solve(graph.spread, part.flatten(1).mT.double(), alpha, steps)
        parts.append(solved.mT.float().unflatten(-1, scores.shape[1:]))
    return torch.cat(parts)


def centres(
    corners: Sequence[tuple[int, int]], grid: tuple[int, int], size: tuple[int, int]
) -> torch.Tensor:
    """Returns the centres of the patches of windows of a size, row by row: n×2 float32."""
    rows, columns = (
        (torch.arange(count) + 0.5) * (side / count) for count, side in zip(grid, size, strict=True)
    )
    inside = torch.cartesian_prod(rows, columns)
    return (torch.tensor(corners, dtype=inside.dtype)[:, None] + inside).flatten(0, 1)


def _inverse_root(degrees: torch.Tensor) -> torch.Tensor:
    return degrees.where(degrees != 0, 1).rsqrt()
