"""What a dense method knows of a picture besides the pixels that CLIP sees."""

from dataclasses import dataclass, replace
from typing import Self

import torch
import torch.nn.functional as F

BESIDE = 1 << 20
"""The number of the region of zeros beside a window."""

_AT_ONCE = 1 << 22  # values of pixels: 32 MB


@dataclass(frozen=True)
class Picture:
    """A picture's regions, and features of a second backbone that saw the whole of it.

    Attributes:
        regions: the number of each pixel's, H×W int64.
        features: on any grid over the picture, C×h×w float32; none where they are not read.
        content: the fingerprint of its file; "" if there is none.
        window: of one that was cut out: the size of the whole, the top and left pixel, the height
            and width, and the pixels beside it, as :func:`torch.nn.functional.pad` takes them.
    """

    regions: torch.Tensor
    features: torch.Tensor | None = None
    content: str = ""
    window: tuple[tuple[int, int], tuple[int, int], tuple[int, int], tuple[int, ...]] | None = None

    def at(self, size: tuple[int, int]) -> Self:
        """Returns the picture at another height and width."""
        return replace(self, regions=resize_nearest(self.regions, size))

    def cut(self, corner: tuple[int, int], size: tuple[int, int], margins: tuple[int, ...]) -> Self:
        """Returns a window of the picture, beside which is region :data:`BESIDE`."""
        (top, left), (tall, wide) = corner, size
        inside = self.regions[top : top + tall, left : left + wide]
        window = tuple(self.regions.shape), corner, size, margins
        return replace(self, regions=F.pad(inside, margins, value=BESIDE), window=window)

    def of_pixels(self) -> torch.Tensor:
        """Returns the features of pixels, C×H×W, each of length 1; those beside are replicated."""
        size = tuple(self.regions.shape)
        whole, corner, size, margins = self.window or (size, (0, 0), size, (0, 0, 0, 0))
        features = F.normalize(enlarge(self.features, whole, corner, size), dim=0)
        return F.pad(features[None], margins, mode="replicate")[0]


def means_of_regions(
    features: torch.Tensor, regions: torch.Tensor, unit: bool = False
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Averages features, C×h×w, over the pixels of each region, H×W int64.

    They are enlarged to the pixels, and then of length 1 if ``unit``; rows by rows, since those of
    all pixels may not fit into memory.

    Returns:
        The numbers of the R regions, ascending; the mean of each, R×C float32; and which of them
        each pixel is in, H×W.
    """
    known, which, counts = regions.unique(return_inverse=True, return_counts=True)
    sums = features.new_zeros(len(known), len(features), dtype=torch.float64)
    height, width = regions.shape
    step = max(1, _AT_ONCE // (len(features) * width))
    for top in range(0, height, step):
        size = min(step, height - top), width
        rows = enlarge(features, (height, width), (top, 0), size).flatten(1)
        rows = F.normalize(rows, dim=0) if unit else rows
        sums.index_add_(0, which[top : top + step].flatten(), rows.mT.double())
    return known, (sums / counts[:, None]).float(), which


def enlarge(
    features: torch.Tensor, size: tuple[int, int], corner: tuple[int, int], inside: tuple[int, int]
) -> torch.Tensor:
    """Resizes features, C×h×w, to a size (bilinear), of which a rectangle is computed alone.

    The ``corner`` is its top and left pixel, and ``inside`` its height and width.
    """
    for axis, (length, start, count) in enumerate(zip(size, corner, inside), 1):
        most = features.shape[axis]
        places = torch.arange(start, start + count, device=features.device) + 0.5
        places = (places * (most / length) - 0.5).clamp(min=0)
        before = places.long()
        after = (before + 1).clamp(max=most - 1)
        share = (places - before).view([-1, 1] if axis == 1 else [-1])
        features = features.index_select(axis, before).lerp(
            features.index_select(axis, after), share
        )
    return features


def resize_nearest(values: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Returns values, …×h×w, on another grid, each that of the place above and left of it."""
    rows, columns = (
        torch.arange(count, device=values.device) * side // count
        for count, side in zip(size, values.shape[-2:])
    )
    return values[..., rows[:, None], columns]
