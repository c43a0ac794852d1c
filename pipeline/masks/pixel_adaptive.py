"""``masks=pamr`` and ``par``: masks refined over pixels of similar colour."""

from abc import abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F

from pipeline.cams.cams import Cams
from pipeline.clip.device import is_cpu, to_host
from pipeline.clip.encoder import to_pixels
from pipeline.clip.frozen import Resources
from pipeline.clip.shared_pass import batch_alike
from pipeline.dense.pixel_adaptive import pamr, par
from pipeline.errors import ImageError
from pipeline.masks.labels import best_labels, shares, stack_background
from pipeline.masks.refiner import Given, Labelled, Refiner
from pipeline.masks.settings import PamrOptions


class PixelAdaptive(Refiner):
    """Labels images by the largest score after averages over pixels of similar colour."""

    batch_size: ClassVar[int] = 8
    """Images of one size that a GPU refines together; a CPU is busy with one."""

    def __init__(self, options: PamrOptions, resources: Resources):
        self._options = options
        self._kernel = {n: getattr(options, n) for n in ("iterations", "dilations", "bandwidth")}
        self._device = resources.device

    @abstractmethod
    def average(self, pixels: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Returns scores, B×C×h×w float32, averaged where pixels, B×3×h×w float32, are alike."""

    def __call__(self, image: np.ndarray, cams: Cams) -> tuple[np.ndarray, np.ndarray]:
        """Labels every pixel of an image; the probability is the share of the label's score."""
        return self.together([image], [cams])[0]

    def stream(self, images: Iterable[Given]) -> Iterator[tuple[Any, Labelled | ImageError]]:
        """Labels images, those of one size together on a GPU."""
        size = 1 if is_cpu(self._device) else self.batch_size
        for batch in batch_alike(images, lambda given: given[1].shape, lambda _: size, 4 * size):
            names, *given = zip(*batch)
            yield from zip(names, self.together(*given))

    @torch.inference_mode()
    def together(
        self, images: Sequence[np.ndarray], cams: Sequence[Cams]
    ) -> list[tuple[np.ndarray, np.ndarray]]:
        """Labels every pixel of images of one size; each gets what it gets alone."""
        size, beta = images[0].shape[:2], self._options.beta
        scores = [stack_background(each.resized(*size), beta) for each in cams]
        if tagged := [index for index, each in enumerate(cams) if len(each.classes)]:
            # Both methods divide by standard deviations of colours, so that the mean and the
            # deviation by which pixels are normalised cancel out, whichever CLIP's they are.
            pixels = torch.stack([to_pixels(images[index], *size) for index in tagged])
            # The averages of a channel do not depend on the others, so that those of other images
            # may fill up.
            given = [torch.from_numpy(scores[index]) for index in tagged]
            most = max(map(len, given))
            filled = torch.stack([F.pad(s, (0, 0, 0, 0, 0, most - len(s))) for s in given])
            refined = self.average(pixels.to(self._device), filled.to(self._device))
            parts = to_host(*(shares(own[: len(s)]) for own, s in zip(refined, given)))
            for index, part in zip(tagged, parts):
                scores[index] = part
        return [best_labels(*each) for each in zip(scores, cams)]


class Pamr(PixelAdaptive):
    """Labels images after PAMR (Araslanov and Roth, CVPR 2020)."""

    def average(self, pixels: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Implements the base class."""
        return pamr(pixels, scores, **self._kernel)


class Par(PixelAdaptive):
    """Labels images after PAR (AFA, Ru et al., CVPR 2022)."""

    def average(self, pixels: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Implements the base class."""
        options = self._options
        if (side := options.guide_side) is not None:
            pixels = F.interpolate(pixels, side, mode="bilinear", align_corners=False)
        return par(pixels, scores, position_weight=options.position_weight, **self._kernel)
