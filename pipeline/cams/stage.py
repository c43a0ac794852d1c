"""The stage ``cams``: for every tag of an image, where it is."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from pipeline.cams.affinity import MeanAttention
from pipeline.cams.clip_es import ClipEs
from pipeline.clip.shared_pass import SharedPass
from pipeline.datasets.sample import ImageReader, Sample
from pipeline.engine.folder import ResultFolder
from pipeline.errors import ImageError
from pipeline.files.fingerprints import fingerprint, fingerprint_file, join_keys
from pipeline.sweep import Images, Todo, Work, by_sample, read_through

ALGORITHM = 1
"""Raised when the same configuration would give another result than before, beyond rounding."""


@dataclass(frozen=True)
class Cams:
    """The maps of one image.

    Attributes:
        keys: K int64 class indices.
        cams: K×h×w float16 in [0, 1], on the patch grid.
        size: height and width of the image in pixels.
    """

    keys: np.ndarray
    cams: np.ndarray
    size: tuple[int, int]

    def resized(self, height: int, width: int) -> np.ndarray:
        """Returns the maps at an image's size, K×height×width float32 (bilinear)."""
        if not len(self.keys):
            return np.zeros((0, height, width), np.float32)
        maps = torch.from_numpy(self.cams.astype(np.float32)).unsqueeze(0)
        return F.interpolate(maps, (height, width), mode="bilinear", align_corners=False)[0].numpy()


class MapsAlongsideTags:
    """Computes maps from the pass in which their images are tagged, and stores them.

    See :class:`pipeline.tags.stage.Alongside`.
    """

    def __init__(self, folder: ResultFolder, method: Callable[[], ClipEs]):
        """Prepares for images.

        Args:
            folder: the maps' folder.
            method: builds the method; called only when there is something to compute.
        """
        self._folder = folder
        self._build = method

    @cached_property
    def _method(self) -> ClipEs:
        return self._build()

    def listen(self) -> MeanAttention:
        """Returns what listens to the attentions of one batch."""
        return self._method.attention_recorder()

    def compute(self, sample: Sample, seen: SharedPass, tags: Sequence[int]) -> np.ndarray | None:
        """Returns the maps of an image whose tags are just known, unless they are there already."""
        if self._folder.is_done(sample.id, input_key(sample, tags)):
            return None
        return self._method.cams(seen, tags)

    def save(
        self, sample: Sample, tags: Sequence[int], size: tuple[int, int], result: np.ndarray
    ) -> None:
        """Stores the maps of an image, whose full height and width are ``size``."""
        cams = Cams(np.array(tags, np.int64), result, size)
        _write(self._folder, sample, input_key(sample, tags), cams)


def input_key(sample: Sample, tags: Sequence[int]) -> str:
    """Returns the fingerprint of what an image's maps are made from."""
    return join_keys(fingerprint_file(sample.image), fingerprint(tags))


def mapping(
    folder: ResultFolder,
    *,
    method: Callable[[], ClipEs],
    read: ImageReader,
    workers: int,
    most_ahead: int,
    most_unwritten: int,
) -> Work:
    """Returns how the maps of images are computed, each of which is given with its tags.

    Args:
        folder: the stage's folder.
        method: builds the method; called only when there is something to compute.
        read: decodes the images.
        workers: threads that decode.
        most_ahead: images that are decoded ahead.
        most_unwritten: results that may wait for the disk.
    """
    method = cache(method)

    def compute(images: list[Todo]) -> Iterator[tuple[Todo, Cams | ImageError]]:
        tags = {todo.sample.id: todo.given for todo in images}

        def maps_of(images: Images) -> Iterator[tuple[Sample, np.ndarray]]:
            return method().stream((sample, image, tags[sample.id]) for sample, image in images)

        found = by_sample(images, lambda s: read_through(s, read, maps_of, most_ahead, workers))
        for todo, result in found:
            if not isinstance(result, ImageError):
                maps, size = result
                result = Cams(np.array(todo.given, np.int64), maps, size)
            yield todo, result

    def save(todo: Todo, cams: Cams) -> None:
        _write(folder, todo.sample, todo.key, cams)

    return Work([folder], compute, save, most_unwritten)


def _write(folder: ResultFolder, sample: Sample, key: str, cams: Cams) -> None:
    folder.write(sample.id, key, {f"{sample.id}.npz": encode_cams(cams)})


def encode_cams(cams: Cams) -> bytes:
    """Returns an image's maps as a compressed ``.npz`` file."""
    buffer = io.BytesIO()
    np.savez_compressed(
        buffer,
        keys=cams.keys,
        cams=cams.cams.astype(np.float16),
        size=np.array(cams.size, np.int64),
    )
    return buffer.getvalue()


def read_cams(path: Path) -> Cams:
    """Reads the maps of an image from its file.

    Raises:
        ImageError: the file is missing or damaged.
    """
    try:
        with np.load(path, allow_pickle=False) as arrays:
            height, width = arrays["size"]
            return Cams(arrays["keys"], arrays["cams"], (int(height), int(width)))
    except Exception as error:  # zipfile, zlib and numpy each have errors of their own
        raise ImageError("its maps are damaged: run stage=cams again") from error
