"""Applies a trained network to images; imports no mmsegmentation, which ONNX can do without."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, overload

import numpy as np
import torch

from pipeline.clip.device import choose_device, choose_precision, to_host
from pipeline.engine.store import refuse_other_format
from pipeline.errors import UserError, check_choice
from pipeline.files.images import AnyImage, limit_longest_side, to_image
from pipeline.masks.crf import CrfOptions, dense_crf
from pipeline.masks.labels import resized_argmax
from pipeline.segmenter.onnx_network import Names, OnnxGraph, Palette, resize_scores
from pipeline.segmenter.settings import check_scales

if TYPE_CHECKING:
    from pipeline.segmenter.mmseg_network import MmsegNetwork


class Segmenter:
    """A trained network with its classes.

    An image is a path, a picture of Pillow, or a uint8 array: grey, RGB or RGBA; see
    :func:`pipeline.files.images.to_image`, which raises a UserError for anything else.

    Args:
        network: labels images of any size.
        class_names: n+1 names, "background" first.
        palette: n+1 colours, RGB in [0, 255].

    Attributes:
        crf: refines the probabilities before they become labels, as in the run that trained the
            network; none leaves them.
    """

    def __init__(
        self, network: MmsegNetwork | OnnxGraph, class_names: Names, palette: Palette
    ) -> None:
        self.network, self.class_names, self.palette = network, class_names, palette
        self.crf = network.crf

    @classmethod
    def from_run(
        cls,
        path: str | Path,
        device: str = "cpu",
        which: str = "last",
        precision: str = "fp32",
    ) -> Segmenter:
        """Reads a trained segmenter, whose file contains the network, classes and palette.

        Args:
            path: a checkpoint of :func:`pipeline.segmenter.train.train`, or its directory; or an
                ONNX file of :func:`pipeline.segmenter.export.export_onnx`, which needs no
                mmsegmentation.
            device: "auto", "cpu", "cuda" or "cuda:N".
            which: "last" takes the newest complete checkpoint of a directory, "best" the one with
                the highest mIoU on validation images, if the training measured it.
            precision: of the backbone: "fp32", "bf16", "fp16" (GPU only), or "auto", which is bf16
                on CPUs with native bfloat16, and otherwise fp32. ONNX files have their own.

        Raises:
            UserError: the file does not exist, is damaged, or is not of a segmenter.
        """
        check_choice(f"there is no checkpoint which={which}", which, ("last", "best"))
        device = choose_device(device)
        path = Path(path)
        refuse_other_format(path)
        if not path.exists():
            raise UserError(
                f"checkpoint {path} does not exist: run stage=train first, or give the file of a"
                " segmenter"
            )
        if path.suffix.lower() == ".onnx" and path.is_file():
            graph = OnnxGraph(path.read_bytes(), path, device)
            return cls(graph, graph.class_names, graph.palette)
        from pipeline.segmenter.mmseg_network import read_network  # takes seconds to import

        network, *classes = read_network(path, device, which)
        network.compute_backbone_in(choose_precision(precision, device, "precision"))
        return cls(network, *classes)

    @overload
    def __call__(self, image: AnyImage) -> np.ndarray: ...
    @overload
    def __call__(self, image: Sequence[AnyImage]) -> list[np.ndarray]: ...
    def __call__(self, image: AnyImage | Sequence[AnyImage]) -> np.ndarray | list[np.ndarray]:
        """Labels every pixel: H×W uint8; 0 is the background, k+1 the k-th class.

        A list gives a list. The labels are those of ``tools/predict.py``, unless the network has no
        limit on the longest side.
        """
        if isinstance(image, list | tuple):
            return [self(each) for each in image]
        image = to_image(image)
        seen = limit_longest_side(image, self.network.limits.longest_side)
        probabilities = self.probabilities(seen)
        if self.crf is not None:
            probabilities = dense_crf(seen, probabilities, self.crf)
        return resized_argmax(probabilities, *image.shape[:2])[0]

    @torch.inference_mode()
    def logits(self, image: AnyImage) -> np.ndarray:
        """Computes the logits of the whole image at its own size, (n+1)×H×W float32.

        The network sees it within its :class:`~pipeline.segmenter.limits.Limits`.
        """
        image = to_image(image)
        (scores,) = self._scores([self.network.limits.fit(image)])
        return self.finite(self._resized(scores, image))

    @torch.inference_mode()
    def probabilities(
        self, image: AnyImage, scales: Sequence[float] = (1.0,), flip: bool = False
    ) -> np.ndarray:
        """Computes class probabilities: the mean of :meth:`views`, with the same arguments.

        Returns (n+1)×H×W float32 that sums to 1 over the classes. The memory needed is a few times
        that of the result at the largest scale; ``longest_side`` of
        :class:`pipeline.engine.sample.ImageReader` bounds it.
        """
        total = sum(view for _, view in self.views(to_image(image), scales, flip))
        return self.finite(total / (len(scales) * (1 + flip)))

    @torch.inference_mode()
    def views(
        self, image: np.ndarray, scales: Sequence[float], flip: bool
    ) -> Iterator[tuple[bool, torch.Tensor]]:
        """Yields the softmax of each scale of an image, and of its mirror image, one at a time.

        It is (n+1)×H×W float32 on the device, after whether the view is the unchanged image. As in
        mmsegmentation (``SegTTAModel`` and ``TestTimeAug``), logits are resized to the image, which
        is H×W×3 uint8, RGB. For the scales, see :func:`check_scales`.
        """
        check_scales(scales)
        if (fixed := self.network.limits.size) and {*scales} != {1}:
            raise UserError(
                f"the network resizes images to {'×'.join(map(str, fixed))}, so scales"
                " would change nothing: leave them out, or take a graph that was written with"
                " --dynamic"
            )
        shrunk = self.network.limits.fit(image)
        for scale in scales:
            scaled = scale_image(shrunk, scale)
            pictures = [scaled, scaled[:, ::-1]] if flip else [scaled]
            for mirrored, scores in enumerate(self._scores(pictures)):
                scores = scores.flip(2) if mirrored else scores
                yield scale == 1 and not mirrored, self._resized(scores, image).softmax(0)

    def _resized(self, scores: torch.Tensor, image: np.ndarray) -> torch.Tensor:
        network, size = self.network, image.shape[:2]
        is_fixed = network.limits.size is not None  # and may be larger than the image
        return resize_scores(scores[None], size, network.align_corners, is_fixed)[0]

    @staticmethod
    def finite(scores: torch.Tensor) -> np.ndarray:
        """Copies scores or probabilities to the host; raises a UserError unless they are finite."""
        [values] = to_host(scores)
        if not np.isfinite(values).all():
            raise UserError("the segmenter's scores of an image are not finite: train it again")
        return values

    @staticmethod
    def refine(
        image: AnyImage,
        probabilities: np.ndarray,
        crf: CrfOptions = CrfOptions(),  # noqa: B008
    ) -> np.ndarray:
        """Refines probabilities, C×H×W float32, along the edges of the image with the dense CRF.

        The CRF's constants are by default those of CLIP-ES, without the quirks of its released
        code. The result, of the same shape and type, sums to 1 over C. Raises a UserError unless
        the probabilities are those of an image of this size, and as
        :func:`pipeline.masks.crf.dense_crf`.
        """
        image = to_image(image)
        if np.shape(probabilities)[1:] != image.shape[:2]:
            raise UserError(
                f"probabilities of shape {np.shape(probabilities)} are not C×H×W for an image of"
                f" {image.shape[0]}×{image.shape[1]} pixels: give those of this image"
            )
        return dense_crf(image, probabilities, crf)

    def _scores(self, images: Sequence[np.ndarray]) -> Iterator[torch.Tensor]:
        """Yields the logits of images of one size, (n+1)×H×W float32."""
        for batch in [images] if self.network.takes_batches else [[image] for image in images]:
            pixels = np.ascontiguousarray(np.stack(batch).transpose(0, 3, 1, 2))
            yield from self.network(torch.from_numpy(pixels))


def scale_image(image: np.ndarray, scale: float) -> np.ndarray:
    """Resizes an image, H×W×3 uint8, as mmsegmentation's test pipeline does: by OpenCV, bilinearly.

    Sides are rounded as in mmcv's ``Resize(scale_factor=…, keep_ratio=True)`` and are at least 1.
    """
    if scale == 1:
        return image
    import cv2  # mmcv's, which a single scale can do without

    # mmcv rounds twice: first the box into which the image must fit, then the sides.
    sides = image.shape[:2]
    box = [max(1, int(side * scale + 0.5)) for side in sides]
    factor = min(max(box) / max(sides), min(box) / min(sides))
    height, width = (max(1, int(side * factor + 0.5)) for side in sides)
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)
