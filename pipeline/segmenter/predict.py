"""Applies a trained network to images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch
from mmengine.config import ConfigDict
from torch import nn
from torch.nn import functional

from pipeline.clip.device import choose_device, to_host
from pipeline.errors import UserError, check_choice
from pipeline.files.images import AnyImage, to_image
from pipeline.files.label_images import IGNORE
from pipeline.files.weight_files import Uninitialised, check_finite
from pipeline.masks.crf import CrfOptions, dense_crf
from pipeline.segmenter.architecture import MISFITS, smallest_side
from pipeline.segmenter.checkpoints import best_checkpoint, last_checkpoint, read_checkpoint
from pipeline.segmenter.mmseg import build_model, import_mmseg
from pipeline.segmenter.pretrained import strip_pretrained
from pipeline.segmenter.settings import MAX_SIZE_DIVISOR, check_scales

_CHOICES = {"last": last_checkpoint, "best": best_checkpoint}


class Segmenter:
    """A trained network with its classes.

    An image is a path, a picture of Pillow, or a uint8 array: grey, RGB or RGBA; see
    :func:`pipeline.files.images.to_image`, which raises a UserError for anything else.

    Args:
        model: a segmentor of mmsegmentation; it is put into evaluation mode.
        class_names: n+1 names, "background" first.
        palette: n+1 colours, RGB in [0, 255].
    """

    def __init__(
        self,
        model: nn.Module,
        class_names: tuple[str, ...],
        palette: tuple[tuple[int, int, int], ...],
        device: str = "cpu",
    ) -> None:
        self.class_names = class_names
        self.palette = palette
        self.model = model.to(device).eval()
        self._device = torch.device(device)
        self._min_side = smallest_side(self.model)

    def __reduce__(self) -> tuple[Any, ...]:
        return _empty_segmenter, (), self.__dict__

    @classmethod
    @torch.random.fork_rng(devices=[])  # mmengine draws weights, which are replaced
    def from_run(cls, path: str | Path, device: str = "cpu", which: str = "last") -> Segmenter:
        """Reads a checkpoint, which contains the architecture, classes and palette.

        Args:
            path: a checkpoint of :func:`pipeline.segmenter.train.train`, or its directory.
            which: "last" takes the newest complete checkpoint of a directory, "best" the one with
                the highest mIoU on validation images, if the training measured it.

        Raises:
            UserError: the checkpoint does not exist, is damaged, or is not of a segmenter.
        """
        check_choice(f"there is no checkpoint which={which}", which, _CHOICES)
        device = choose_device(device)
        path = Path(path)
        path = _CHOICES[which](path) if path.is_dir() else path
        if not path.is_file():
            raise UserError(
                f"checkpoint {path} does not exist: give the file of a trained segmenter"
            )
        checkpoint = read_checkpoint(path)
        foreign = UserError(
            f"checkpoint {path} is not a segmenter of stage=train: choose another file"
        )
        try:
            described, weights = checkpoint["meta"]["segmenter"], checkpoint["state_dict"]
            names, palette = described["class_names"], np.array(described["palette"])
            architecture = ConfigDict(described["model"])
            strip_pretrained(architecture)  # the pretrained weights may no longer exist
            padding = dict(architecture.data_preprocessor.get("test_cfg") or {})
            divisor = padding.pop("size_divisor", 1)
            if (
                not isinstance(names, list)
                or not all(isinstance(name, str) for name in names)
                or len(names) > IGNORE
                or palette.shape != (len(names), 3)
                or palette.dtype.kind != "i"
                or not 0 <= palette.min() <= palette.max() <= 255
                or padding
                or type(divisor) is not int
                or not 1 <= divisor <= MAX_SIZE_DIVISOR
            ):
                raise foreign
        except MISFITS as error:
            raise foreign from error
        with Uninitialised():
            model = build_model(architecture)
        if model.num_classes != len(names):
            raise foreign
        try:
            model.load_state_dict(weights)
        except MISFITS as error:
            raise UserError(
                f"checkpoint {path} does not fit the network that it describes: train it again"
            ) from error
        check_finite(model.state_dict(), path)
        return cls(model, tuple(names), tuple(map(tuple, palette.tolist())), device)

    @overload
    def __call__(self, image: AnyImage) -> np.ndarray: ...
    @overload
    def __call__(self, image: Sequence[AnyImage]) -> list[np.ndarray]: ...
    def __call__(self, image: AnyImage | Sequence[AnyImage]) -> np.ndarray | list[np.ndarray]:
        """Labels every pixel: H×W uint8; 0 is the background, k+1 the k-th class.

        A list of images gives a list.
        """
        if isinstance(image, list | tuple):
            return [self(each) for each in image]
        return self.logits(image).argmax(axis=0).astype(np.uint8)

    @torch.inference_mode()
    def logits(self, image: AnyImage) -> np.ndarray:
        """Computes the logits of the whole image at its own size, (n+1)×H×W float32."""
        (scores,) = self._scores([to_image(image)])
        return self.finite(scores)

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
        for scale in scales:
            scaled = scale_image(image, scale)
            pictures = [scaled, scaled[:, ::-1]] if flip else [scaled]
            for mirrored, scores in enumerate(self._scores(pictures)):
                scores = scores.flip(2) if mirrored else scores
                whole = resize_scores(self.model, scores[None], image.shape[:2])[0].softmax(0)
                yield scale == 1 and not mirrored, whole

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
        code. The result, of the same shape and type, sums to 1 over C.

        Raises:
            UserError: the probabilities are not those of an image of this size.
            ValueError, MemoryError: as :func:`pipeline.masks.crf.dense_crf`.
        """
        image = to_image(image)
        if np.shape(probabilities)[1:] != image.shape[:2]:
            raise UserError(
                f"probabilities of shape {np.shape(probabilities)} are not C×H×W for an image of"
                f" {image.shape[0]}×{image.shape[1]} pixels: give those of this image"
            )
        return dense_crf(image, probabilities, crf)

    def _scores(self, images: Sequence[np.ndarray]) -> Iterator[torch.Tensor]:
        """Yields the logits of images of one size; a GPU computes them together."""
        one_by_one = self._device.type == "cpu"  # a batch would change the last digits
        for batch in [[image] for image in images] if one_by_one else [images]:
            yield from self._scores_of_batch(batch)

    def _scores_of_batch(self, images: Sequence[np.ndarray]) -> torch.Tensor:
        """Returns logits, B×(n+1)×H×W float32."""
        import_mmseg()
        from mmseg.structures import SegDataSample

        height, width = images[0].shape[:2]
        bgr = [np.ascontiguousarray(image[:, :, ::-1].transpose(2, 0, 1)) for image in images]
        batch = {
            "inputs": [torch.from_numpy(each) for each in bgr],
            "data_samples": [SegDataSample() for _ in bgr],
        }
        # Normalises, and pads on the right and below if the network needs multiples of its stride.
        inputs = self.model.data_preprocessor(batch, training=False)["inputs"]
        missing = [max(0, self._min_side - side) for side in inputs.shape[2:]]
        inputs = functional.pad(inputs, (0, missing[1], 0, missing[0]))
        size = tuple(inputs.shape[2:])
        meta = {"ori_shape": (height, width), "img_shape": size, "pad_shape": size}
        scores = self.model.encode_decode(inputs, [meta] * len(images))
        return resize_scores(self.model, scores, size)[..., :height, :width].float()


def resize_scores(model: nn.Module, scores: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Resizes the logits of a network, N×C×h×w, to a height and a width, bilinearly."""
    if tuple(scores.shape[2:]) == size:
        return scores
    return functional.interpolate(scores, size, mode="bilinear", align_corners=model.align_corners)


def _empty_segmenter() -> Segmenter:
    """Imports mmsegmentation, as only we can, before a pickle names the classes of a network."""
    import_mmseg()
    return Segmenter.__new__(Segmenter)


def scale_image(image: np.ndarray, scale: float) -> np.ndarray:
    """Resizes an image, H×W×3 uint8, as mmsegmentation's test pipeline does: by OpenCV, bilinearly.

    Sides are rounded as in mmcv's ``Resize(scale_factor=…, keep_ratio=True)`` and are at least 1.
    """
    if scale == 1:
        return image
    from mmcv.image import imresize, rescale_size

    width, height = image.shape[1], image.shape[0]
    # mmcv rounds twice: first the box into which the image must fit, then the sides.
    box = (max(1, int(width * scale + 0.5)), max(1, int(height * scale + 0.5)))
    size = tuple(max(1, side) for side in rescale_size((width, height), box))
    return imresize(image, size, interpolation="bilinear", backend="cv2")
