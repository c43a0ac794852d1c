"""``masks=dense``: labels straight from a dense method's similarities, without tags and CAMs.

It reads dense methods out as their authors do (docs/other-methods.md, "Dense methods as
published"). The method and its settings are those of ``cams=``.
"""

from functools import partial
from pathlib import Path

import numpy as np
import torch

from pipeline.clip.device import to_host
from pipeline.clip.frozen import Resources
from pipeline.datasets.vocabulary import Names
from pipeline.dense.best_name import best_classes
from pipeline.dense.method import DenseMethod, NameEmbeddings
from pipeline.dense.pixel_adaptive import pamr
from pipeline.dense.windows import Windows, prepare, resize, similarity_map, with_scaled_positions
from pipeline.engine.sample import Size
from pipeline.masks.name_lists import has_background
from pipeline.masks.settings import DenseMaskOptions

_PAMR_VALUES = 2**26  # similarities of pixels and names that are refined together: 256 MB


class DenseLabeller:
    """Labels the pixels of images by a dense method."""

    def __init__(
        self, method: DenseMethod, options: DenseMaskOptions, names: Names, resources: Resources
    ):
        """Embeds the names and prepares the image tower.

        Args:
            method: the dense method.
            options: how it is read out.
            names: of every line, see :func:`~pipeline.masks.name_lists.read_name_list`.
            resources: vocabulary, models, and the quirk ``position_scale``, of CLIPs alone.

        Raises:
            UserError: the windows do not suit this CLIP.
        """
        clip, encoder = resources.clip, resources.clip.encoder
        self._method, self._options, self._batch_size = method, options, clip.batches.images
        side = options.side(encoder.native_size)
        is_scaled = resources.quirks.position_scale
        self._encoder = with_scaled_positions(encoder) if is_scaled else encoder
        first = 0 if has_background(names, resources.vocabulary) else 1
        self._labels = [label for label, several in enumerate(names, first) for _ in several]
        flat = tuple((name,) for several in names for name in several)
        text = encoder.text_for_patches(clip.embed(flat, (), options.templates))
        labels = torch.arange(len(text), device=text.device)  # every name is a thing of its own
        self._names = NameEmbeddings(text, labels, options.temperature or encoder.temperature)
        if options.background is not None:
            self._labels = [0, *self._labels]
        self._windows = Windows(
            side,
            options.stride or max(1, side // 2),
            options.remainder,
            options.align_corners,
            self._names.temperature if options.window_softmax else None,
            options.enlarge == "features",
        )
        sized = {"sides": (options.short_side, options.long_side), "resize": options.resize}
        self._prepare = partial(prepare, self._encoder, windows=self._windows, **sized)

    @torch.no_grad()
    def __call__(
        self, image: np.ndarray, size: Size, file: Path | None = None, content: str = ""
    ) -> tuple[np.ndarray, np.ndarray]:
        """Labels every pixel of an image, h×w×3 uint8, RGB, perhaps shrunk; PAMR works at its size.

        The ``file`` holds its regions, for a method that reads them; without one, the method makes
        them. The ``content`` is the fingerprint of the image's file.

        Returns the labels in the image's full ``size``, H×W uint8: 0 background, k+1 class k; and
        the probability of each in the softmax over all names, H×W float32. Raises an ImageError if
        the method cannot be applied to the image.
        """
        method, options, names = self._method, self._options, self._names
        pixels = self._prepare(image)
        picture = method.read_picture(self._encoder, image, size, file, content)
        seen = picture and picture.at(pixels.shape[-2:])
        found = similarity_map(
            method, self._encoder, pixels, names, self._windows, self._batch_size, seen, image
        )
        if seen is not None:
            found = method.with_support(found, names, seen)
        if options.pamr_iterations:
            guide = resize(pixels, image.shape[:2])
            at_once = max(1, _PAMR_VALUES // guide[0].numel())  # names
            kernel = {"iterations": options.pamr_iterations, "dilations": options.pamr_dilations}
            parts = (resize(part, guide.shape[-2:])[None] for part in found.split(at_once))
            found = torch.cat([pamr(guide[None], part, **kernel)[0] for part in parts])
        if options.background is not None:
            found = torch.cat([torch.full_like(found[:1], options.background), found])
        labels = self._labels
        if method.takes_best_name_first:
            places = torch.tensor(labels, device=found.device)
            labels = [*dict.fromkeys(labels)]
            found = torch.stack([found[places == label].amax(0) for label in labels])
        labels, probability = best_classes(
            found,
            labels,
            size,
            None if options.window_softmax or method.gives_probabilities else names.temperature,
            options.min_area,
            method.after_enlarging,
        )
        labels[probability < options.min_probability] = 0
        if picture is not None:
            labels = method.relabel(labels, picture.regions)
        return to_host(labels)[0], to_host(probability)[0]
