"""The training and validation images, as batches for mmengine."""

import ctypes
import multiprocessing
import os
import random
import signal
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from mmengine.dataset import pseudo_collate
from mmengine.structures import PixelData
from PIL import Image
from torch.utils.data import DataLoader, Dataset, get_worker_info

from pipeline.engine.sample import ImageReader, Sample
from pipeline.errors import ImageError, UserError
from pipeline.files.label_images import IGNORE, read_labels
from pipeline.segmenter.data import TrainingPair
from pipeline.segmenter.limits import Limits
from pipeline.segmenter.mmseg import import_mmseg
from pipeline.segmenter.settings import SegmenterSettings

_MAX_CLASS_SHARE = 0.75  # of a crop; as in mmsegmentation's configs for VOC and ADE20K
_MIN_SIDE = 8  # mmsegmentation's transforms fail on images of one or two pixels
_MAX_CACHED_BYTES = 2**30  # of a training on one machine, in all processes that load images
_PR_SET_PDEATHSIG = 1  # of Linux's prctl: the signal sent to a process when its parent ends
_META_KEYS = ("img_id", "img_path", "ori_shape", "img_shape", "scale_factor", "flip")


class PseudoLabelled(Dataset):
    """Augmented samples in mmsegmentation's format, indexed by their position in their sequence.

    The sequence is endless. Each sample depends only on the seed, which is not negative, and its
    position, so that a resumed training sees the same samples as an uninterrupted one. Masks are
    resized to the image that ``read`` returns, shrunk to the ``limits`` of a network;
    mmengine writes ``metainfo`` into checkpoints.
    """

    def __init__(
        self,
        pairs: Sequence[TrainingPair],
        settings: SegmenterSettings,
        seed: int,
        metainfo: Mapping[str, Any],
        read: ImageReader = ImageReader(),  # noqa: B008
        limits: Limits = Limits(),  # noqa: B008
    ) -> None:
        self.metainfo = dict(metainfo)
        self._pairs = [pair for pair in pairs for _ in range(pair.repeats)]
        self._seed, self._read, self._limits = seed, read, limits
        self._transforms, self._pack = _build_transforms(settings)
        self._cache: dict[str, dict[str, np.ndarray]] = {}
        self._cached_bytes = 0
        self._order: tuple[int, np.ndarray] | None = None

    def __len__(self) -> int:
        return len(self._pairs)

    def __getitem__(self, position: int) -> dict[str, Any]:
        """Returns ``inputs`` (3×h×w uint8 tensor, BGR) and ``data_samples`` (SegDataSample).

        A file that cannot be read is a UserError.
        """
        epoch, place = divmod(position, len(self._pairs))
        if self._order is None or self._order[0] != epoch:
            generator = np.random.default_rng([self._seed, epoch])
            self._order = epoch, generator.permutation(len(self._pairs))
        sample = self._load(self._pairs[self._order[1][place]])
        # The transforms use the global generators, which are seeded and then restored.
        numpy_state, python_state = np.random.get_state(), random.getstate()
        state = np.random.SeedSequence([self._seed, position]).generate_state(4)
        np.random.seed(state)
        random.seed(state.tobytes())
        try:
            for transform in self._transforms:
                sample = transform(sample)
        finally:
            np.random.set_state(numpy_state)
            random.setstate(python_state)
        return self._pack(sample)

    def _load(self, pair: TrainingPair) -> dict[str, Any]:
        decoded = self._cache.get(pair.id) or self._decode(pair)
        arrays = {key: array.copy() for key, array in decoded.items()}  # transforms work in place
        size = arrays["img"].shape[:2]
        return {
            "img_id": pair.id,
            "img_path": str(pair.image),
            "img_shape": size,
            "ori_shape": size,
            **arrays,
            "seg_fields": ["gt_seg_map"],
            "reduce_zero_label": False,
        }

    def _decode(self, pair: TrainingPair) -> dict[str, np.ndarray]:
        """Decodes an image (BGR, as mmsegmentation expects), and its mask.

        They are cached, because decoding a photograph of 24 megapixels takes longer than an
        iteration: up to 1 GiB on a machine, of which each process that loads images has its share.
        """
        try:
            image, _ = self._read(Sample(pair.id, pair.image))
            image = self._limits.fit(image)
            mask = Image.fromarray(read_labels(pair.mask, max_pixels=self._read.max_pixels))
            labels = np.array(mask.resize(image.shape[1::-1], Image.Resampling.NEAREST))
        except (ImageError, UserError, OSError) as error:
            what = f"training image {pair.id} or its mask"
            raise UserError(f"{what} cannot be read ({error}): repair or remove it") from error
        missing = [(0, max(0, _MIN_SIDE - side)) for side in image.shape[:2]]
        arrays = {
            "img": np.pad(image[:, :, ::-1], [*missing, (0, 0)], "edge"),
            "gt_seg_map": np.pad(labels, missing, constant_values=IGNORE),
        }
        size = sum(array.nbytes for array in arrays.values())
        loader, on_machine = get_worker_info(), int(os.environ.get("LOCAL_WORLD_SIZE", 1))
        sharing = on_machine * (loader.num_workers if loader else 1)
        if self._cached_bytes + size <= _MAX_CACHED_BYTES // sharing:
            self._cache[pair.id] = arrays
            self._cached_bytes += size
        return arrays


class Labelled(Dataset):
    """Whole images with their ground truth; those without a ground-truth mask are skipped."""

    def __init__(
        self, samples: Sequence[Sample], read: ImageReader, about: dict[str, Any], limits: Limits
    ) -> None:
        self.metainfo = about
        self._samples = [s for s in samples if s.mask is not None]
        self._read, self._limits = read, limits

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Returns ``inputs`` (3×h×w uint8 tensor, BGR) and ``data_samples`` (SegDataSample).

        A file that cannot be read, or a mask of another size, is a UserError.
        """
        from mmseg.structures import SegDataSample

        sample = self._samples[index]
        try:
            image, size = self._read(sample)
            truth = torch.from_numpy(sample.mask.read().astype(np.int64))
            if tuple(truth.shape) != size:
                raise ImageError("the mask is not of the image's size")
        except (ImageError, UserError, OSError) as error:
            raise UserError(
                f"validation image {sample.id} or its mask cannot be read ({error}): repair or"
                " remove it"
            ) from error
        # mmsegmentation resizes predictions to ori_shape, also if the image was shrunk.
        image = self._limits.fit(image)
        metainfo = {"ori_shape": size, "img_shape": image.shape[:2], "img_id": sample.id}
        labelled = SegDataSample(metainfo=metainfo, gt_sem_seg=PixelData(data=truth[None]))
        bgr = np.ascontiguousarray(image[:, :, ::-1].transpose(2, 0, 1))
        return {"inputs": torch.from_numpy(bgr), "data_samples": labelled}


def build_loader(
    dataset: Dataset, indices: Iterable[int], batch_size: int, workers: int
) -> DataLoader:
    """Returns a loader of samples in this order, in batches as mmengine expects them."""
    return DataLoader(
        dataset,
        batch_size=batch_size,
        sampler=indices,
        num_workers=workers,
        collate_fn=pseudo_collate,
        worker_init_fn=_end_with_parent,
        # The workers inherit the transforms, whose classes cannot be pickled.
        multiprocessing_context="fork" if workers and sys.platform == "linux" else None,
    )


def positions(
    batch_size: int, start: int, iterations: int, rank: int = 0, processes: int = 1
) -> list[int]:
    """Returns the samples that a process loads, by their positions in the endless sequence.

    They are those after iteration ``start``; each process gets a consecutive part of every batch.
    """
    share = batch_size // processes
    firsts = range(start * batch_size + rank * share, iterations * batch_size, batch_size)
    return [first + place for first in firsts for place in range(share)]


def _build_transforms(settings: SegmenterSettings) -> tuple[list[Any], Any]:
    """Returns mmsegmentation's augmentations, and what makes a sample of their result."""
    import_mmseg()
    from mmcv.transforms import RandomResize
    from mmseg.datasets import transforms as available

    class RandomScale(RandomResize):
        """Resizes an image by a random factor; mmcv's class starts from one size for all images."""

        def transform(self, results: dict[str, Any]) -> dict[str, Any]:
            self.scale = results["img"].shape[1::-1]
            return super().transform(results)

    class QuickCrop(available.RandomCrop):
        """Crops at random; mmsegmentation's class sorts the labels of a crop to count them."""

        def crop_bbox(self, results: dict[str, Any]) -> tuple[int, int, int, int]:
            """Returns top, bottom, left and right of the first crop that no class dominates."""
            height, width = results["img"].shape[:2]
            margins = [max(side - size, 0) for side, size in zip((height, width), self.crop_size)]
            for _ in range(11):  # as often as mmsegmentation's class
                top, left = (np.random.randint(0, margin + 1) for margin in margins)
                box = top, top + self.crop_size[0], left, left + self.crop_size[1]
                counts = np.bincount(self.crop(results["gt_seg_map"], box).ravel())[:IGNORE]
                most = self.cat_max_ratio * counts.sum()
                if np.count_nonzero(counts) > 1 and counts.max() < most:
                    break
            return box

    crop, ratios = (settings.crop_size, settings.crop_size), tuple(settings.scale_range)
    transforms = [
        RandomScale(scale=crop, ratio_range=ratios, resize_type="mmseg.Resize", keep_ratio=True),
        QuickCrop(crop_size=crop, cat_max_ratio=_MAX_CLASS_SHARE),
        available.RandomFlip(prob=0.5),
    ]
    if settings.photometric_distortion:
        transforms.append(available.PhotoMetricDistortion())
    return transforms, available.PackSegInputs(meta_keys=_META_KEYS)


def _end_with_parent(worker: int) -> None:
    """Makes a process that loads images end with its parent, however the parent ends.

    PyTorch notices after seconds, during which the process would keep the folder's lock, which it
    inherited. Ctrl-C reaches every process of a terminal; only the process that trains handles it.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.platform != "linux":  # elsewhere processes are spawned and inherit no lock
        return
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != multiprocessing.parent_process().pid:  # it ended first
        os.kill(os.getpid(), signal.SIGKILL)
