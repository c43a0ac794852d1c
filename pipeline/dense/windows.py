"""How dense methods were published: windows of a resized image, and their position embedding.

Their authors resize images with OpenCV.
"""

import copy
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import product

import numpy as np
import torch
import torch.nn.functional as F

from pipeline.clip.encoder import ClipEncoder, to_pixels
from pipeline.clip.image_tower import AS_DINO
from pipeline.clip.shared_pass import SharedPass
from pipeline.dense.method import DenseMethod, NameEmbeddings, Passes, Windowed
from pipeline.dense.picture import Picture

_CHANNELS = 64  # of features, which are enlarged together
_ONE = 1 << 11  # the weight 1: OpenCV computes with 11 binary digits


@dataclass(frozen=True)
class Windows:
    """The windows of an image.

    Attributes:
        side: of a window in pixels; 0 processes the whole image at once.
        stride: pixels between windows; the last row and column are shifted to end at the border.
        remainder: one of :data:`~pipeline.dense.settings.REMAINDERS`.
        align_corners: how similarities on the patch grid are enlarged to a window.
        softmax: the factor of similarities in a softmax over the names of each window; none for the
            similarities themselves.
        of_features: whether features are enlarged instead, which is bicubic.
    """

    side: int
    stride: int
    remainder: str
    align_corners: bool = False
    softmax: float | None = None
    of_features: bool = False

    def size(self, height: int, width: int) -> tuple[int, int]:
        """Returns the height and width of the windows of an image."""
        return min(self.side or height, height), min(self.side or width, width)

    def corners(self, height: int, width: int) -> list[tuple[int, int]]:
        """Returns the top and left pixel of every window, row by row."""
        tall, wide = self.size(height, width)
        return [*product(self._starts(height, tall), self._starts(width, wide))]

    def margins(self, height: int, width: int, multiple: int) -> tuple[int, int, int, int]:
        """Returns the zeros that complete a window: left, right, top and bottom."""
        if self.remainder != "pad":
            return 0, 0, 0, 0
        columns, rows = -width % multiple, -height % multiple
        return columns // 2, columns - columns // 2, rows // 2, rows - rows // 2

    def _starts(self, length: int, side: int) -> list[int]:
        count = math.ceil((length - side) / self.stride) + 1
        return [min(number * self.stride, length - side) for number in range(count)]


def scaled_size(
    height: int, width: int, short_side: int, long_side: int, at_least: int
) -> tuple[int, int]:
    """Returns the height and width to which an image is resized, as mmsegmentation does.

    Its shorter side becomes ``short_side``, unless the other one would exceed ``long_side``; no
    side is below ``at_least``.
    """
    scale = min(long_side / max(height, width), short_side / min(height, width))
    return max(at_least, int(height * scale + 0.5)), max(at_least, int(width * scale + 0.5))


def cut_size(
    height: int, width: int, short_side: int, long_side: int, at_least: int
) -> tuple[int, int]:
    """Returns what :func:`scaled_size` does, with a longer side that is cut and not rounded."""
    short = min(height, width)
    scaled = max(1, min(short_side, long_side * short // max(height, width)))
    return max(at_least, scaled * height // short), max(at_least, scaled * width // short)


def prepare(
    encoder: ClipEncoder,
    image: np.ndarray,
    windows: Windows,
    sides: tuple[int, int],
    resize: str = "opencv",
) -> torch.Tensor:
    """Resizes and normalises an image, H×W×3 uint8: 3×H×W float32 on the encoder's device.

    A window of more patches than ``images.most_patches`` is reduced to at most as many.

    The ``sides`` are the shorter one and the largest longer one of :func:`scaled_size`; ``resize``
    is "opencv" or "pillow", see :class:`~pipeline.masks.settings.DenseMaskOptions`.
    """
    patch, max_patches = encoder.patch_size, encoder.max_patches
    fit = cut_size if resize == "pillow" else scaled_size
    size = fit(*image.shape[:2], *sides, patch)
    tall, wide = (-(-side // patch) for side in windows.size(*size))
    if max_patches is not None and tall * wide > max_patches:
        shrunk = (max(1, int(side * (max_patches / (tall * wide)) ** 0.5)) for side in sides)
        size = fit(*image.shape[:2], *shrunk, patch)
    if resize == "pillow":
        return to_pixels(image, *size, encoder.normalisation).to(encoder.device)
    # The authors round both to three digits.
    mean, std = (
        torch.tensor([round(255 * value, 3) for value in values])
        for values in encoder.normalisation
    )
    resized = torch.from_numpy(resize_as_opencv(image, *size)).float()
    return ((resized - mean) / std).permute(2, 0, 1).contiguous().to(encoder.device)


def similarity_map(
    method: DenseMethod,
    encoder: ClipEncoder,
    pixels: torch.Tensor,
    names: NameEmbeddings | None,
    windows: Windows,
    batch_size: int,
    picture: Picture | None = None,
    image: np.ndarray | None = None,
) -> torch.Tensor:
    """Returns the similarities of the pixels of an image and C names, the mean over windows.

    Args:
        pixels: 3×H×W float32, normalised; H and W at least a patch.
        names: none gives the features of pixels in place of similarities.
        batch_size: windows that are looked at together.
        picture: what the method knows of the image, at the size of the pixels.
        image: the original, H×W×3 uint8, RGB, for a method that joins windows in its own way.

    Returns:
        C×H×W float32; or C×h×w on the patch grid of an image that is processed as a whole, if
        nothing but a stretch of the similarities would follow.
    """
    pixels = method.fit(pixels, encoder.patch_size, windows.side, windows.stride)
    height, width = pixels.shape[-2:]
    tall, wide = windows.size(height, width)
    patch = encoder.patch_size
    margins = windows.margins(tall, wide, method.multiple(patch))
    size = seen = tall + sum(margins[2:]), wide + sum(margins[:2])
    if windows.remainder == "enlarge":
        seen = -(-tall // patch) * patch, -(-wide // patch) * patch
    corners = windows.corners(height, width)
    step = encoder.batch_size_for((seen[0] // patch, seen[1] // patch), batch_size)

    def passes() -> Passes:
        for first in range(0, len(corners), step):
            batch = corners[first : first + step]
            crops = torch.stack([pixels[:, y : y + tall, x : x + wide] for y, x in batch])
            shared_pass = method.run_pass(encoder, _enlarge(F.pad(crops, margins), seen))
            if picture is not None:
                cut = [picture.cut(corner, (tall, wide), margins) for corner in batch]
                shared_pass = replace(shared_pass, pictures=cut)
            yield batch, shared_pass

    if method.joins_windows:
        windowed = Windowed(passes(), (height, width), image)
        return method.similarities_of_windows(encoder, windowed, names)
    compare = _similarities_of_pixels if windows.of_features else _similarities
    found = (s for _, each in passes() for s in compare(method, encoder, each, names))
    is_usual = windows.softmax is None and not (windows.of_features or windows.align_corners)
    if is_usual and windows.side == 0 and windows.remainder != "pad":
        return next(found)
    found = (resize(each, size, windows.align_corners) for each in found)
    if windows.softmax is not None:
        found = ((windows.softmax * each).softmax(0) for each in found)
    return mean_of_windows(found, corners, size, (tall, wide), (height, width))


def mean_of_windows(
    similarities: Iterable[torch.Tensor],
    corners: Sequence[tuple[int, int]],
    window: tuple[int, int],
    inside: tuple[int, int],
    size: tuple[int, int],
    cell: int = 1,
) -> torch.Tensor:
    """Returns the mean over windows of the similarities of an image's pixels, C×H×W float32.

    Args:
        similarities: of each window, C×h×w on any grid over it.
        corners: the top and left pixel of each in the image.
        window: height and width, with the zeros on both sides that complete it.
        inside: height and width without them.
        size: height and width of the image.
        cell: of so many pixels, as patches are, in place of one; corners and ``size`` stay pixels.
    """
    (tall, wide), (top, left) = inside, ((a - b) // 2 for a, b in zip(window, inside))
    total: torch.Tensor | None = None
    for (y, x), found in zip(corners, similarities):
        if total is None:
            total = found.new_zeros(len(found), *(side // cell for side in size))
            count = found.new_zeros(total.shape[1:])
        y, x = y // cell, x // cell
        cut = resize(found, window)[:, top : top + tall, left : left + wide]
        total[:, y : y + tall, x : x + wide] += cut
        count[y : y + tall, x : x + wide] += 1
    return total.div_(count)


def _similarities(
    method: DenseMethod, encoder: ClipEncoder, shared_pass: SharedPass, names: NameEmbeddings | None
) -> torch.Tensor:
    """Returns the similarities on the patch grid, B×C×h×w float32, of a pass over B images.

    Without names, these are features. Patches leave the remainder out.
    """
    if names is None:
        found = method.patch_features(encoder, shared_pass)
    else:
        found = method.similarities(encoder, shared_pass, names)
    return found.mT.unflatten(-1, method.grid(shared_pass))


def _similarities_of_pixels(
    method: DenseMethod, encoder: ClipEncoder, shared_pass: SharedPass, names: NameEmbeddings
) -> torch.Tensor:
    """Returns cosine similarities of pixels, whose features are interpolated: B×C×H×W float32.

    Some channels are enlarged at a time, since all of them would take gigabytes.
    """
    features = method.features_for(encoder, shared_pass, names).mT
    size = shared_pass.pixels.shape[-2:]
    products, squares = 0.0, 0.0
    for channels, text in zip(features.split(_CHANNELS, 1), names.text.split(_CHANNELS, 1)):
        enlarged = _enlarge(channels.unflatten(-1, method.grid(shared_pass)), size)
        products = products + torch.einsum("ce,behw->bchw", text, enlarged)
        squares = squares + enlarged.square().sum(1, keepdim=True)
    return products / squares.sqrt().clamp(min=1e-12)


def _enlarge(values: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Resizes B×C×h×w float32 (bicubic, without aligned corners)."""
    if values.shape[-2:] == size:
        return values
    return F.interpolate(values, size, mode="bicubic", align_corners=False)


def resize(
    values: torch.Tensor, size: tuple[int, int], align_corners: bool = False
) -> torch.Tensor:
    """Resizes C×h×w float32 (bilinear)."""
    if values.shape[-2:] == size:
        return values
    return F.interpolate(values[None], size, mode="bilinear", align_corners=align_corners)[0]


def resize_to_multiples(pixels: torch.Tensor, multiple: int, least: int) -> torch.Tensor:
    """Enlarges pixels, 3×H×W, unless both sides are multiples (bilinear).

    The longer side becomes the next multiple, and the other one that above its share, or ``least``.
    """
    sides = pixels.shape[-2:]
    if not any(side % multiple for side in sides):
        return pixels
    longer = -(-max(sides) // multiple) * multiple
    shares = (side * longer // max(sides) for side in sides)
    return resize(pixels, [max(least, -(-side // multiple) * multiple) for side in shares])


def with_scaled_positions(encoder: ClipEncoder) -> ClipEncoder:
    """Returns an encoder of the same weights that interpolates positions as the authors' code does.

    Bicubic; the sampling positions follow a factor of (h + 0.1)/h₀, and not h/h₀. An encoder whose
    positions are not those of CLIP stays as it is.
    """
    if not encoder.tower.is_stretched_as_clip:
        return encoder
    changed = copy.copy(encoder)
    changed.tower, changed.position_fp16 = replace(encoder.tower, **AS_DINO), False
    return changed


def resize_as_opencv(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resizes an image, h×w×3 uint8, as ``cv2.resize`` does with INTER_LINEAR, to the last digit.

    It takes the two nearest pixels of each axis, even where the image shrinks. OpenCV rounds
    weights to 11 binary digits, and products between the two axes, so that one value in eight
    differs by one grey level from the exact interpolation.
    """
    left, right, share = _neighbours(image.shape[1], width)
    share = np.where(left == right, np.float32(0), share)  # beyond the outermost pixels
    first, second = _weights(share)
    pixels = image.astype(np.int32)
    rows = pixels[:, left] * first[:, None] + pixels[:, right] * second[:, None]
    top, bottom, share = _neighbours(image.shape[0], height)
    first, second = (weight[:, None, None] for weight in _weights(share))
    total = (first * (rows[top] >> 4) >> 16) + (second * (rows[bottom] >> 4) >> 16)
    return (total + 2 >> 2).astype(np.uint8)


def _neighbours(length: int, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns the two pixels between which each of ``size`` new ones lies, and how far it is."""
    places = ((np.arange(size) + 0.5) * (1 / (size / length)) - 0.5).astype(np.float32)
    before = np.floor(places)
    index = before.astype(np.int64)
    return index.clip(0, length - 1), (index + 1).clip(0, length - 1), places - before


def _weights(share: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return tuple(np.rint(part * _ONE).astype(np.int32) for part in (1 - share, share))
