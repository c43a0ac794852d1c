"""Augmented training samples, each a function of the seed and its place in the sequence alone.

A training that was interrupted therefore sees exactly what an undisturbed one would have seen.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.structures import PixelData
from PIL import Image
from torch.utils.data import Dataset

from pipeline.datasets.sample import ImageReader, Sample
from pipeline.datasets.vocabulary import IGNORE
from pipeline.errors import ImageError, UserError
from pipeline.files.label_images import read_labels
from pipeline.segmenter.mmseg import import_mmseg
from pipeline.segmenter.pairs import TrainingPair

ALREADY_SEEN = -1
"""The position of a sample that need not be read again."""

_LARGEST_SHARE_OF_ONE_CLASS = 0.75  # of a crop; mmsegmentation's own default for VOC and ADE20K
_SMALLEST_SIDE = 8
_MOST_KEPT_BYTES = 2**30
_WEIGHTS = "pixel_weights"
_META_KEYS = ("img_id", "img_path", "ori_shape", "img_shape", "scale_factor", "flip")


class PseudoLabelled(Dataset):
    """Samples in mmsegmentation's form, addressed by their position in the endless sequence.

    Args:
        pairs: images and masks, with probabilities or without.
        settings: crop_size, scale_range, photometric_distortion, apply_exif, longest_side (larger
            images and their masks are shrunk to it).
        seed: not negative.
        metainfo: written into checkpoints by mmengine.
    """

    def __init__(
        self,
        pairs: Sequence[TrainingPair],
        settings: Mapping[str, Any],
        seed: int,
        metainfo: Mapping[str, Any],
    ) -> None:
        self.metainfo = dict(metainfo)
        self._pairs = list(pairs)
        self._seed = seed
        self._read = ImageReader(
            apply_exif=bool(settings.get("apply_exif")), longest_side=settings.get("longest_side")
        )
        self._transforms = _build_transforms(settings)
        self._kept: dict[str, dict[str, np.ndarray]] = {}
        self._kept_bytes = 0
        self._order: tuple[int, np.ndarray] | None = None

    def __len__(self) -> int:
        return len(self._pairs)

    def __getitem__(self, position: int) -> dict[str, Any]:
        """Returns ``inputs`` (3×h×w uint8 tensor, BGR) and ``data_samples`` (SegDataSample).

        Where the pair has probabilities, the latter has them as ``pixel_weights``, PixelData of
        1×h×w float32 in [0, 1].

        Raises:
            UserError: a file cannot be read.
        """
        if position == ALREADY_SEEN:
            return {}
        epoch, place = divmod(position, len(self._pairs))
        sample = self._load(self._pairs[self._shuffled(epoch)[place]])
        with _seeded(self._seed, position):
            for transform in self._transforms:
                sample = transform(sample)
        return sample

    def _shuffled(self, epoch: int) -> np.ndarray:
        if self._order is None or self._order[0] != epoch:
            generator = np.random.default_rng([self._seed, epoch])
            self._order = epoch, generator.permutation(len(self._pairs))
        return self._order[1]

    def _load(self, pair: TrainingPair) -> dict[str, Any]:
        decoded = self._kept.get(pair.id) or self._decode(pair)
        arrays = {key: array.copy() for key, array in decoded.items()}  # transforms may change them
        size = arrays["img"].shape[:2]
        return {
            "img_id": pair.id,
            "img_path": str(pair.image),
            "img_shape": size,
            "ori_shape": size,
            **arrays,
            "seg_fields": [key for key in arrays if key != "img"],
            "reduce_zero_label": False,
        }

    def _decode(self, pair: TrainingPair) -> dict[str, np.ndarray]:
        """Decodes an image (BGR, which mmsegmentation counts on), its mask and its weights.

        They are kept in memory while there is room: a photograph of 24 megapixels takes longer to
        decode than an iteration takes to compute.
        """
        try:
            image, _ = self._read(Sample(pair.id, pair.image))
            size = image.shape[1::-1]
            arrays = {"img": image[:, :, ::-1], "gt_seg_map": _read_resized(pair.mask, size)}
            if pair.probability is not None:
                arrays[_WEIGHTS] = _read_resized(pair.probability, size)
        except (ImageError, UserError, OSError) as error:
            what = "mask" if pair.probability is None else "mask or probability"
            raise UserError(
                f"training image {pair.id} or its {what} cannot be read ({error}): repair or"
                " remove it"
            ) from error
        # mmsegmentation's transforms fail on images of a pixel or two.
        missing = [(0, max(0, _SMALLEST_SIDE - side)) for side in image.shape[:2]]
        arrays["img"] = np.pad(arrays["img"], [*missing, (0, 0)], "edge")
        arrays["gt_seg_map"] = np.pad(arrays["gt_seg_map"], missing, constant_values=IGNORE)
        if _WEIGHTS in arrays:
            arrays[_WEIGHTS] = np.pad(arrays[_WEIGHTS], missing)
        size = sum(array.nbytes for array in arrays.values())
        if self._kept_bytes + size <= _MOST_KEPT_BYTES:
            self._kept[pair.id] = arrays
            self._kept_bytes += size
        return arrays


def _read_resized(path: Path, size: tuple[int, int]) -> np.ndarray:
    """Reads the bytes of a mask or of probabilities at (width, height), that of the image."""
    picture = Image.fromarray(read_labels(path))
    return np.array(picture.resize(size, Image.Resampling.NEAREST))


def _build_transforms(settings: Mapping[str, Any]) -> list[Any]:
    import_mmseg()
    from mmcv.transforms import RandomResize
    from mmseg.datasets.transforms import (
        PackSegInputs,
        PhotoMetricDistortion,
        RandomCrop,
        RandomFlip,
    )

    class RandomScale(RandomResize):
        """Scales by a random factor of the image's own size.

        Required keys: img, seg_fields. Modified keys: img and those in seg_fields, img_shape,
        scale_factor.
        """

        def transform(self, results: dict[str, Any]) -> dict[str, Any]:
            self.scale = results["img"].shape[1::-1]
            return super().transform(results)

    class PackWithWeights(PackSegInputs):
        """Packs the weights of the pixels too, where there are any, as shares of one."""

        def transform(self, results: dict[str, Any]) -> dict[str, Any]:
            packed = super().transform(results)
            if _WEIGHTS in results:
                weights = torch.from_numpy(results[_WEIGHTS][None].astype(np.float32) / 255)
                packed["data_samples"].set_data({_WEIGHTS: PixelData(data=weights)})
            return packed

    crop = settings["crop_size"]
    transforms = [
        RandomScale(
            scale=(crop, crop),
            ratio_range=tuple(settings.get("scale_range") or (1.0, 1.0)),
            # mmcv's own Resize would resize the mask alone.
            resize_type="mmseg.Resize",
            keep_ratio=True,
        ),
        RandomCrop(crop_size=(crop, crop), cat_max_ratio=_LARGEST_SHARE_OF_ONE_CLASS),
        RandomFlip(prob=0.5),
    ]
    if settings.get("photometric_distortion"):
        transforms.append(PhotoMetricDistortion())
    return [*transforms, PackWithWeights(meta_keys=_META_KEYS)]


@contextmanager
def _seeded(seed: int, position: int) -> Iterator[None]:
    """Seeds the global generators that mmsegmentation's transforms draw from, then restores."""
    numpy_state, python_state = np.random.get_state(), random.getstate()
    state = np.random.SeedSequence([seed, position]).generate_state(4)
    np.random.seed(state)
    random.seed(state.tobytes())
    try:
        yield
    finally:
        np.random.set_state(numpy_state)
        random.setstate(python_state)
