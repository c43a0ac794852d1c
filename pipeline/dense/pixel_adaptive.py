"""Pixel-adaptive refinement: scores of pixels are averaged over neighbours of similar colour.

Both methods here average each pixel over its eight neighbours at several distances ("dilations"),
again and again. They differ in how neighbours are weighted (docs/other-methods.md, "Refiners").

No tensor holds a value for every neighbour and every channel of the masks.
"""

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence

import torch
import torch.nn.functional as F

_TOLERANCE = 1e-8  # added to standard deviations, as in both papers' code


def pamr(
    image: torch.Tensor,
    masks: torch.Tensor,
    *,
    iterations: int = 10,
    dilations: Sequence[int] = (8, 16),
    bandwidth: float = 0.1,
) -> torch.Tensor:
    """Applies PAMR, pixel-adaptive mask refinement (Araslanov and Roth, CVPR 2020, section 4.2).

    A neighbour n of pixel i has the weight softmax_n mean_rgb(−|x_i − x_n| / bσ). The unbiased
    standard deviation σ of a colour is that of i and all its neighbours, where i counts once for
    each dilation.

    Args:
        image: x, B×3×H×W float32, normalised.
        masks: B×C×h×w float32, first resized to B×C×H×W, as the result (bilinear, aligned corners).
        iterations: how often the masks are averaged.
        dilations: distances of the neighbours in pixels.
        bandwidth: b; a smaller one tells more colours apart.
    """
    masks = _resize(masks, image.shape[-2:])
    padded = _pad(image, dilations)

    def with_centre() -> Iterator[torch.Tensor]:
        yield from _neighbours(padded, dilations)
        yield from itertools.repeat(image, len(dilations))

    scale = _TOLERANCE + bandwidth * _deviation(with_centre)
    logits = (-((image - n).abs() / scale).mean(1) for n in _neighbours(padded, dilations))
    return _average(masks, _softmax(logits, 8 * len(dilations)), iterations, dilations)


def par(
    image: torch.Tensor,
    masks: torch.Tensor,
    *,
    iterations: int = 20,
    dilations: Sequence[int] = (1, 2, 4, 8, 12, 24),
    bandwidth: float = 0.3,
    position_weight: float = 0.01,
) -> torch.Tensor:
    """Applies PAR, pixel-adaptive refinement (Ru et al., AFA, CVPR 2022, section 3.4).

    A neighbour n of pixel i at distance d_n has the weight softmax_n mean_rgb(−(|x_i − x_n| / bσ)²)
    + w softmax_n(−(d_n / bσ_d)²); the weights of a pixel sum to 1 + w. The unbiased
    standard deviation σ of a colour is that of the neighbours, without i; σ_d is that of the d_n.

    Args:
        image: x, B×3×H×W float32, normalised; first resized to the masks (bilinear, aligned
            corners).
        masks: B×C×h×w float32, as the result; for the next three see :func:`pamr`.
        position_weight: w, of distances beside colours.
    """
    image = _resize(image, masks.shape[-2:])
    padded = _pad(image, dilations)
    scale = bandwidth * (_TOLERANCE + _deviation(lambda: _neighbours(padded, dilations)))
    logits = (-(((image - n) / scale) ** 2).mean(1) for n in _neighbours(padded, dilations))
    weights = _softmax(logits, 8 * len(dilations))
    distances = image.new_tensor([math.hypot(dy, dx) for dy, dx in _offsets(dilations)])
    closeness = -((distances / (bandwidth * (_TOLERANCE + distances.std()))) ** 2)
    weights += position_weight * closeness.softmax(0)[:, None, None]
    return _average(masks, weights, iterations, dilations)


def _offsets(dilations: Sequence[int]) -> list[tuple[int, int]]:
    """Returns the row and column of all P neighbours, eight for each dilation."""
    steps = [step for step in itertools.product((-1, 0, 1), repeat=2) if any(step)]
    return [(dilation * dy, dilation * dx) for dilation in dilations for dy, dx in steps]


def _resize(values: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
    if values.shape[-2:] == tuple(size):
        return values
    return F.interpolate(values, tuple(size), mode="bilinear", align_corners=True)


def _pad(values: torch.Tensor, dilations: Sequence[int]) -> torch.Tensor:
    return F.pad(values, [max(dilations)] * 4, mode="replicate")


def _neighbours(padded: torch.Tensor, dilations: Sequence[int]) -> Iterator[torch.Tensor]:
    """Yields the values that all pixels have at each neighbour, B×C×H×W views of :func:`_pad`'s."""
    margin = max(dilations)
    height, width = (side - 2 * margin for side in padded.shape[-2:])
    for dy, dx in _offsets(dilations):
        yield padded[..., margin + dy :, margin + dx :][..., :height, :width]


def _deviation(values: Callable[[], Iterable[torch.Tensor]]) -> torch.Tensor:
    """Returns the unbiased standard deviation of equally shaped tensors, which are read twice."""
    count = sum(1 for _ in values())
    mean = sum(values()) / count
    return (sum((each - mean).square_() for each in values()) / (count - 1)).sqrt_()


def _softmax(logits: Iterable[torch.Tensor], count: int) -> torch.Tensor:
    """Returns the softmax over ``count`` tensors B×H×W, as one B×count×H×W."""
    for n, each in enumerate(logits):
        if n == 0:
            weights = each.new_empty(each.shape[0], count, *each.shape[1:])
        weights[:, n] = each
    return torch.softmax(weights, 1, out=weights)  # in place: there are up to 48 neighbours


def _average(
    masks: torch.Tensor, weights: torch.Tensor, iterations: int, dilations: Sequence[int]
) -> torch.Tensor:
    """Returns masks, B×C×H×W, averaged over neighbours ``iterations`` times.

    The weights are B×P×H×W, of the neighbours in the order of :func:`_offsets`.
    """
    for _ in range(iterations):
        neighbours = _neighbours(_pad(masks, dilations), dilations)
        masks = torch.zeros_like(masks)
        for each, weight in zip(neighbours, weights.unbind(1), strict=True):
            masks.addcmul_(each, weight[:, None])
    return masks
