"""What a dense method knows of a picture besides the pixels that CLIP sees."""

from dataclasses import dataclass, replace
from typing import NamedTuple, Self

import torch
import torch.nn.functional as F

BESIDE = 1 << 20
"""The number of the region of zeros beside a window."""

_AT_ONCE = 1 << 20  # pixels, each with four weights of 8 bytes


class Cut(NamedTuple):
    """Where a window lies that was cut out of a picture, in pixels.

    Attributes:
        whole: height and width of the picture.
        corner: top and left pixel of the window.
        inside: height and width of the window without margins.
        margins: beside it: left, right, top and bottom, as :func:`torch.nn.functional.pad` takes
            them.
    """

    whole: tuple[int, int]
    corner: tuple[int, int]
    inside: tuple[int, int]
    margins: tuple[int, int, int, int]


@dataclass(frozen=True)
class Picture:
    """A picture's regions, and features of a second backbone that saw the whole of it.

    Attributes:
        regions: the number of each pixel's, H×W int64.
        features: on any grid over the picture, C×h×w float32; none where they are not read.
        content: the fingerprint of its file; "" if there is none.
        window: where it lies in another one that it was cut out of; none for a whole picture.
    """

    regions: torch.Tensor
    features: torch.Tensor | None = None
    content: str = ""
    window: Cut | None = None

    def at(self, size: tuple[int, int]) -> Self:
        """Returns the picture at another height and width."""
        return replace(self, regions=resize_nearest(self.regions, size))

    def cut(
        self, corner: tuple[int, int], size: tuple[int, int], margins: tuple[int, int, int, int]
    ) -> Self:
        """Returns a window of the picture, beside which is region :data:`BESIDE`."""
        (top, left), (tall, wide) = corner, size
        inside = self.regions[top : top + tall, left : left + wide]
        window = Cut(tuple(self.regions.shape), corner, size, margins)
        return replace(self, regions=F.pad(inside, margins, value=BESIDE), window=window)

    def on_grid(self, grid: tuple[int, int]) -> torch.Tensor:
        """Returns features on a grid, C×h×w: those of pixels, each of length 1, resized (bilinear).

        Beside the picture, those of its border are repeated. No other pixels are computed.
        """
        size = tuple(self.regions.shape)
        window = self.window or Cut(size, (0, 0), size, (0, 0, 0, 0))
        left, _, top, _ = window.margins
        pixels, shares = [], []
        axes = zip(size, grid, window.corner, window.inside, (top, left))
        for side, count, first, length, margin in axes:
            places = torch.arange(count, device=self.features.device)
            *pair, share = _neighbours(places, side / count, side)
            pixels.append(first + (torch.cat(pair) - margin).clamp(0, length - 1))
            shares.append(share)
        upper, lower = F.normalize(enlarge(self.features, window.whole, *pixels), dim=0).chunk(2, 1)
        before, after = upper.lerp(lower, shares[0][:, None]).chunk(2, 2)
        return before.lerp(after, shares[1])


def means_of_regions(
    features: torch.Tensor, regions: torch.Tensor, unit: bool = False
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Averages features, C×h×w, over the pixels of each region, H×W int64.

    They are enlarged to the pixels (bilinear), and then of length 1 if ``unit``. A mean is linear
    in the features of places, so weights of places are added up, for some rows at a time. The
    length of a pixel's features follows from the products of the four places beside it.

    Returns:
        The numbers of the R regions, ascending; the mean of each, R×C float32; and which of them
        each pixel is in, H×W.
    """
    known, which, counts = regions.unique(return_inverse=True, return_counts=True)
    sums = features.new_zeros(len(known), len(features), dtype=torch.float64)
    (tall, wide), (height, width) = features.shape[1:], regions.shape
    rows, columns = (torch.arange(side, device=features.device) for side in regions.shape)
    top, _, below = _neighbours(rows, tall / height, tall)
    left, _, beside = _neighbours(columns, wide / width, wide)
    vertical, horizontal = (torch.stack([1 - share, share]).double() for share in (below, beside))
    padded = F.pad(features[None].double(), (0, 1, 0, 1), mode="replicate")[0]
    places, line = padded.flatten(1).mT, wide + 1
    if unit:
        shifted = [padded[:, i : i + tall, j : j + wide] for i in (0, 1) for j in (0, 1)]
        shifted = torch.stack(shifted).unflatten(0, (2, 2))
        products = torch.einsum("ijchw,klchw->ijklhw", shifted, shifted)
    corners = torch.tensor([[0, 1], [line, line + 1]], device=rows.device)[..., None, None]
    step = max(1, min(_AT_ONCE // width, height * _AT_ONCE // (len(known) * tall * wide)))
    for some, pixels in zip(rows.split(step), which.split(step)):
        shares = vertical[:, some]
        weights = shares[:, None, :, None] * horizontal[:, None]
        if unit:
            of_rows = products[..., top[some], :]
            of_rows = torch.einsum("ir,kr,ijklrw->jlrw", shares, shares, of_rows)[..., left]
            squares = torch.einsum("jx,lx,jlrx->rx", horizontal, horizontal, of_rows)
            weights /= squares.clamp(min=1e-24).sqrt()
        first, last = top[some[[0, -1]]].tolist()
        count = (last - first + 2) * line
        index = pixels * count + (top[some, None] - first) * line + left + corners
        found = index.flatten().bincount(weights.flatten(), minlength=len(known) * count)
        sums += found.view(-1, count) @ places[first * line :][:count]
    return known, (sums / counts[:, None]).float(), which


def enlarge(
    features: torch.Tensor, size: tuple[int, int], rows: torch.Tensor, columns: torch.Tensor
) -> torch.Tensor:
    """Resizes features, C×h×w, to a size (bilinear), of which some rows and columns are computed.

    These are given by their numbers, r and c int64; returns C×r×c.
    """
    for axis, length, pixels in zip((1, 2), size, (rows, columns)):
        most = features.shape[axis]
        before, after, share = _neighbours(pixels, most / length, most)
        before, after = (features.index_select(axis, index) for index in (before, after))
        features = before.lerp(after, share[:, None] if axis == 1 else share)
    return features


def _neighbours(pixels: torch.Tensor, factor: float, most: int) -> tuple[torch.Tensor, ...]:
    """Returns the two of ``most`` places between which each pixel lies, and how far it is."""
    places = ((pixels + 0.5) * factor - 0.5).clamp(min=0)
    before = places.long()
    return before, (before + 1).clamp(max=most - 1), places - before


def resize_nearest(values: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Returns values, …×h×w, on another grid, each that of the place above and left of it."""
    rows, columns = (
        torch.arange(count, device=values.device) * side // count
        for count, side in zip(size, values.shape[-2:])
    )
    return values[..., rows[:, None], columns]
