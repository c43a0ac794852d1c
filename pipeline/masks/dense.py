"""``masks=dense``: labels straight from a dense method's similarities, without tags and CAMs.

It reads dense methods out as their authors do (docs/algorithms.md, "Dense methods as published").
The method and its settings are those of ``cams=``.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from pipeline.clip.dimensions import Dimensions
from pipeline.clip.frozen import Resources
from pipeline.clip.settings import TEMPLATES
from pipeline.datasets.vocabulary import Names as NameList
from pipeline.dense.best_name import best_classes
from pipeline.dense.method import DenseMethod, Names
from pipeline.dense.pixel_adaptive import pamr
from pipeline.dense.resizing import resize_as_opencv
from pipeline.dense.windows import (
    REMAINDERS,
    Windows,
    resize,
    scaled_size,
    similarity_map,
    with_scaled_positions,
)
from pipeline.engine.reading import Size
from pipeline.engine.settings import setting
from pipeline.errors import UserError
from pipeline.masks.name_lists import has_background
from pipeline.masks.refiner import MaskOptions

_PAMR_VALUES = 2**26  # similarities of pixels and names that are refined together: 256 MB
_MAX_SIDE = 16_384


@dataclass
class DenseMaskOptions(MaskOptions):
    """``masks=dense``: each pixel's best name by the dense method of ``cams=``, without tags.

    Attributes:
        names: what pixels are compared with: the name of a list that comes with the package, or the
            path of a file with a line for each class, its names separated by ", "; a line more, the
            first, is the background. Null takes the data set's names for CAMs and its backgrounds.
        templates: the set of templates; "imagenet" are the 80 of CLIP.
        short_side: to which the shorter side of an image is resized, in pixels.
        long_side: the most that the longer side is resized to.
        window: the side of the square windows in pixels; null takes the CLIP's native size, and 0
            looks at the whole image.
        stride: pixels between windows; null takes half a window.
        remainder: "stretch" leaves out the pixels beside the last whole patch, and stretches the
            similarities over them; "pad" completes the patches with zeros.
        temperature: the factor of cosine similarities in the softmax; null takes CLIP's own.
        min_probability: pixels whose best probability is below become background.
        min_area: classes that cover at most this share of an image's foreground are removed.
        pamr_iterations: of the refinement of similarities by PAMR; 0 leaves it out.
        pamr_dilations: distances of the neighbours in PAMR, in pixels.
        beta: not used, since the names say whether there is a background.
    """

    names: str | None = None
    templates: str = setting("imagenet", choices=TEMPLATES)
    short_side: int = setting(336, at_least=1, at_most=_MAX_SIDE)
    long_side: int = setting(2048, at_least=1, at_most=_MAX_SIDE)
    window: int | None = setting(None, at_least=0, at_most=_MAX_SIDE)
    stride: int | None = setting(None, at_least=1, at_most=_MAX_SIDE)
    remainder: str = setting("stretch", choices=REMAINDERS)
    temperature: float | None = setting(None, above=0)
    min_probability: float = setting(0.0, at_least=0, at_most=1)
    min_area: float = setting(0.0, at_least=0, at_most=1)
    pamr_iterations: int = setting(0, at_least=0, at_most=1000)
    pamr_dilations: list[int] = setting([8, 16], at_least=1, at_most=1000, lengths=range(1, 100))
    beta: float | None = setting(
        1.0, above=0, changes="nothing", why="the names say whether there is a background"
    )

    def validate(self, prefix: str) -> None:
        """Refuses gaps between windows."""
        if self.window and self.stride:
            _refuse_gaps(self.window, self.stride, prefix)

    def validate_for(self, clip: Dimensions, prefix: str) -> None:
        """Refuses windows that are smaller than a patch, or leave gaps."""
        side = self.side(clip.native_size)
        if 0 < side < clip.patch_size:
            raise UserError(
                f"{prefix}.window={side} is smaller than a patch of this CLIP: give at least"
                f" {clip.patch_size}, or 0 for the whole image"
            )
        if side and self.stride:
            _refuse_gaps(side, self.stride, prefix)

    def side(self, native_size: int) -> int:
        """Returns the side of the windows in pixels, for a CLIP of a native size."""
        return native_size if self.window is None else self.window


def _refuse_gaps(window: int, stride: int, prefix: str) -> None:
    if stride > window:
        raise UserError(
            f"{prefix}.stride={stride} leaves gaps between windows of {window} pixels: give at most"
            f" {window}"
        )


class DenseReadOut:
    """Labels the pixels of images by a dense method."""

    def __init__(
        self,
        method: DenseMethod,
        options: DenseMaskOptions,
        names: NameList,
        resources: Resources,
    ):
        """Embeds the names and prepares the image tower.

        Args:
            method: embeds patches.
            options: the settings.
            names: of every line, see :func:`~pipeline.masks.name_lists.read_name_list`.
            resources: vocabulary, CLIP, and the quirk ``position_scale``.

        Raises:
            UserError: the windows do not suit this CLIP.
        """
        clip, encoder = resources.clip, resources.clip.encoder
        self._method, self._options, self._batch_size = method, options, clip.batches.images
        side = options.side(encoder.native_size)
        self._windows = Windows(side, options.stride or max(1, side // 2), options.remainder)
        scaled = resources.quirks.position_scale
        self._encoder = with_scaled_positions(encoder) if scaled else encoder
        self._first_label = 0 if has_background(names, resources.vocabulary) else 1
        self._classes = [index for index, several in enumerate(names) for _ in several]
        flat = tuple((name,) for several in names for name in several)
        text = clip.embed(flat, (), options.templates)
        labels = torch.arange(len(text), device=text.device)  # every name is a thing of its own
        self._names = Names(text, labels, options.temperature or encoder.temperature)

    @torch.no_grad()
    def __call__(self, image: np.ndarray, size: Size) -> tuple[np.ndarray, np.ndarray]:
        """Labels every pixel of an image.

        Args:
            image: h×w×3 uint8, RGB, perhaps shrunk; PAMR works at this size.
            size: the image's full height and width.

        Returns:
            The labels, H×W uint8: 0 background, k+1 class k. And the probability of each in the
            softmax over all names, H×W float32.

        Raises:
            ImageError: the method cannot be applied to the image.
        """
        options, names = self._options, self._names
        pixels = self._prepare(image)
        windows, batch = self._windows, self._batch_size
        found = similarity_map(self._method, self._encoder, pixels, names, windows, batch)
        if options.pamr_iterations:
            found = self._refine(resize(pixels, image.shape[:2]), found)
        classes, probability = best_classes(
            found, self._classes, size, names.temperature, options.min_area
        )
        classes[probability < options.min_probability] = 0
        return (classes + self._first_label).cpu().numpy(), probability.cpu().numpy()

    def _prepare(self, image: np.ndarray) -> torch.Tensor:
        """Resizes and normalises an image: 3×H×W float32 on the device.

        A grid of more patches than ``images.most_patches`` is reduced to at most as many.
        """
        encoder, options = self._encoder, self._options
        patch, most = encoder.patch_size, encoder.max_patches
        sides = options.short_side, options.long_side
        size = scaled_size(*image.shape[:2], *sides, patch)
        tall, wide = (-(-side // patch) for side in self._windows.size(*size))
        if most is not None and tall * wide > most:
            shrunk = (max(1, int(side * (most / (tall * wide)) ** 0.5)) for side in sides)
            size = scaled_size(*image.shape[:2], *shrunk, patch)
        # The authors round both to three digits.
        mean, std = (
            torch.tensor([round(255 * value, 3) for value in values])
            for values in (encoder.normalisation.mean, encoder.normalisation.std)
        )
        resized = torch.from_numpy(resize_as_opencv(image, *size)).float()
        return ((resized - mean) / std).permute(2, 0, 1).contiguous().to(encoder.device)

    def _refine(self, guide: torch.Tensor, similarities: torch.Tensor) -> torch.Tensor:
        """Refines C×h×w similarities, resized to a guide, by PAMR, a few names at a time."""
        options, size = self._options, guide.shape[-2:]
        at_once = max(1, _PAMR_VALUES // size.numel())
        kernel = {"iterations": options.pamr_iterations, "dilations": options.pamr_dilations}
        parts = (resize(part, size)[None] for part in similarities.split(at_once))
        return torch.cat([pamr(guide[None], part, **kernel)[0] for part in parts])
