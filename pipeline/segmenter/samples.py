"""Augmented training samples, each a function of the seed and its place in the sequence alone.

A training that was interrupted therefore sees exactly what an undisturbed one would have seen.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from mmengine.dataset import pseudo_collate
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from pipeline.datasets.sample import ImageReader, Sample
from pipeline.errors import ImageError, UserError
from pipeline.segmenter.mmseg import import_mmseg
from pipeline.segmenter.pairs import TrainingPair
from pipeline.vocabulary import IGNORE

_ALREADY_SEEN = -1
_LARGEST_SHARE_OF_ONE_CLASS = 0.75  # of a crop; mmsegmentation's own default for VOC and ADE20K
_SMALLEST_SIDE = 8
_MOST_KEPT_BYTES = 2**30
_META_KEYS = ("img_id", "img_path", "ori_shape", "img_shape", "scale_factor", "flip")


class PseudoLabelled(Dataset):
    """Samples in mmsegmentation's form, addressed by their position in the endless sequence.

    Args:
        pairs: images and masks.
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
        self._kept: dict[str, tuple[np.ndarray, np.ndarray]] = {}
        self._kept_bytes = 0
        self._order: tuple[int, np.ndarray] | None = None

    def __len__(self) -> int:
        return len(self._pairs)

    def __getitem__(self, position: int) -> dict[str, Any]:
        """Returns ``inputs`` (3×h×w uint8 tensor, BGR) and ``data_samples`` (SegDataSample)."""
        if position == _ALREADY_SEEN:
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
        image, labels = self._kept.get(pair.id) or self._decode(pair)
        return {
            "img_id": pair.id,
            "img_path": str(pair.image),
            "img": image.copy(),  # transforms may work in place
            "img_shape": image.shape[:2],
            "ori_shape": image.shape[:2],
            "gt_seg_map": labels.copy(),
            "seg_fields": ["gt_seg_map"],
            "reduce_zero_label": False,
        }

    def _decode(self, pair: TrainingPair) -> tuple[np.ndarray, np.ndarray]:
        """Decodes an image (BGR, which mmsegmentation counts on) and its mask.

        They are kept in memory while there is room: a photograph of 24 megapixels takes longer to
        decode than an iteration takes to compute.
        """
        try:
            image, _ = self._read(Sample(pair.id, pair.image))
            height, width = image.shape[:2]
            with Image.open(pair.mask) as mask:
                labels = np.array(mask.resize((width, height), Image.Resampling.NEAREST))
        except (ImageError, OSError) as error:
            raise UserError(
                f"training image {pair.id} or its mask cannot be read ({error}): repair or"
                " remove it"
            ) from error
        # mmsegmentation's transforms fail on images of a pixel or two.
        missing = [(0, max(0, _SMALLEST_SIDE - side)) for side in labels.shape]
        image = np.pad(image[:, :, ::-1], [*missing, (0, 0)], "edge")
        labels = np.pad(labels, missing, constant_values=IGNORE)
        size = image.nbytes + labels.nbytes
        if self._kept_bytes + size <= _MOST_KEPT_BYTES:
            self._kept[pair.id] = image, labels
            self._kept_bytes += size
        return image, labels


def build_loader(
    dataset: PseudoLabelled, batch_size: int, start: int, iterations: int, workers: int
) -> DataLoader:
    """Builds the loader of a training that begins, or goes on, after ``start`` iterations.

    mmengine replays the loader when it resumes. Positions that were already seen give empty
    samples, so that nothing is decoded for them.

    Args:
        dataset: what to load from.
        batch_size: images in a batch.
        start: finished iterations.
        iterations: all iterations, those finished included.
        workers: processes that load; 0 loads in this one.
    """
    seen, total = start * batch_size, iterations * batch_size
    positions = [_ALREADY_SEEN] * seen + list(range(seen, total))
    return DataLoader(
        dataset,
        batch_size=batch_size,
        sampler=positions,
        num_workers=workers,
        collate_fn=pseudo_collate,
    )


def _build_transforms(settings: Mapping[str, Any]) -> list[Any]:
    import_mmseg()
    from mmcv.transforms import RandomFlip, RandomResize
    from mmseg.datasets.transforms import PackSegInputs, PhotoMetricDistortion, RandomCrop

    class RandomScale(RandomResize):
        """Scales by a random factor of the image's own size.

        Required keys: img, gt_seg_map. Modified keys: both, img_shape, scale_factor.
        """

        def transform(self, results: dict[str, Any]) -> dict[str, Any]:
            self.scale = results["img"].shape[1::-1]
            return super().transform(results)

    crop = settings["crop_size"]
    transforms = [
        RandomScale(
            scale=(crop, crop),
            ratio_range=tuple(settings.get("scale_range") or (1.0, 1.0)),
            keep_ratio=True,
        ),
        RandomCrop(crop_size=(crop, crop), cat_max_ratio=_LARGEST_SHARE_OF_ONE_CLASS),
        RandomFlip(prob=0.5),
    ]
    if settings.get("photometric_distortion"):
        transforms.append(PhotoMetricDistortion())
    return [*transforms, PackSegInputs(meta_keys=_META_KEYS)]


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
