"""The stage ``masks``: from maps to pseudo masks, palette PNGs of image size."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from pipeline.cams.stage import Cams, read_cams
from pipeline.datasets.sample import ImageReader, Sample
from pipeline.engine.folder import ResultFolder, StageFolder
from pipeline.engine.pool import in_processes
from pipeline.errors import ImageError, UserError
from pipeline.files.fingerprints import fingerprint_file, join_keys
from pipeline.files.images import encode_png
from pipeline.masks.crf import CrfSettings, dense_crf
from pipeline.masks.labels import (
    ignore_unsure,
    resized_argmax,
    stack_background,
    to_grey,
    to_labels,
)
from pipeline.sweep import Todo, Work

ALGORITHM = 1
"""Raised when the same configuration would give another result than before."""

_MOST_UNWRITTEN = 4

UNFILTERED = ".unfiltered"
"""Folder of the masks before the confidence filter, which are what is measured."""

PROBABILITY = ".probability"
"""Folder of the CRF's probability of each pixel's label, as 8-bit grey PNGs of round(255 p)."""


def pseudo_mask(
    image: np.ndarray,
    cams: Cams,
    crf: CrfSettings | None,
    beta: float | None = 1.0,
) -> tuple[np.ndarray, np.ndarray | None]:
    """Labels every pixel of an image.

    Args:
        image: h×w×3 uint8, RGB, perhaps shrunk; the CRF works at this size.
        cams: the image's maps.
        crf: the CRF's constants; none takes the best of the maps and the background.
        beta: β of the background; none where the classes cover everything.

    Returns:
        The labels of the image's full size, uint8, and the CRF's probability of each, float32, or
        none where there is no CRF. An image without tags is background with probability 1.
    """
    if not len(cams.keys):
        labels, probability = np.zeros(cams.size, np.uint8), np.ones(cams.size, np.float32)
        return labels, None if crf is None else probability
    maps = cams.resized(*image.shape[:2])
    if crf is not None and crf.fp16:
        maps = maps.astype(np.float16)
    scores = stack_background(maps, beta)
    if crf is not None:
        # A single class without a background is certain; the CRF wants two.
        scores = dense_crf(image, scores, crf) if len(scores) > 1 else np.ones_like(scores)
    channels, probability = resized_argmax(scores.astype(np.float32), *cams.size)
    labels = to_labels(channels, cams.keys, background=beta is not None)
    return labels, None if crf is None else probability


def input_key(sample: Sample, cams: StageFolder) -> str:
    """Returns the fingerprint of what an image's mask is made from."""
    return join_keys(fingerprint_file(sample.image), cams.output_key(sample.id))


def masking(
    folder: ResultFolder,
    cams: Path,
    palette: Sequence[tuple[int, int, int]],
    *,
    read: ImageReader,
    crf: CrfSettings | None,
    confidence: float,
    beta: float | None,
    workers: int,
    keep_probability: bool = False,
) -> Work:
    """Returns how the masks of images are computed, in processes.

    Args:
        folder: the stage's folder.
        cams: the folder of the maps.
        palette: n+1 colours.
        read: decodes the images.
        crf: see :func:`pseudo_mask`.
        confidence: pixels whose CRF probability is below this become 255; 0 keeps all.
        beta: see :func:`pseudo_mask`.
        workers: processes.
        keep_probability: whether the probabilities are stored too, below ``PROBABILITY``.

    Raises:
        UserError: probabilities are to be kept, but there is no CRF to give them.
    """
    if keep_probability and crf is None:
        raise UserError(
            "masks.keep_probability needs a CRF, which masks.crf=null leaves out: choose"
            " masks=crf_weighted or masks.keep_probability=false"
        )

    compute_one = partial(
        _compute,
        cams=cams,
        palette=palette,
        read=read,
        crf=crf,
        confidence=confidence,
        beta=beta,
        keep_probability=keep_probability,
    )

    def compute(images: list[Todo]) -> Iterator[tuple[Todo, dict[str, bytes] | ImageError]]:
        portable = (todo.for_worker() for todo in images)
        yield from in_processes(portable, compute_one, min(workers, len(images)))

    def save(todo: Todo, files: dict[str, bytes]) -> None:
        folder.write(todo.sample.id, todo.key, files)

    return Work([folder], compute, save, most_unwritten=_MOST_UNWRITTEN)


def _compute(
    todo: Todo,
    *,
    cams: Path,
    palette: Sequence[tuple[int, int, int]],
    read: ImageReader,
    crf: CrfSettings | None,
    confidence: float,
    beta: float | None,
    keep_probability: bool,
) -> dict[str, bytes] | ImageError:
    """Does one image, in whatever process."""
    try:
        image, _ = read(todo.sample)
        maps = read_cams(cams / f"{todo.sample.id}.npz")
        labels, probability = pseudo_mask(image, maps, crf, beta)
    except ImageError as error:
        return error
    return mask_files(
        todo.sample.id,
        labels,
        probability,
        palette,
        confidence=confidence,
        keep_probability=keep_probability,
    )


def mask_files(
    image_id: str,
    labels: np.ndarray,
    probability: np.ndarray | None,
    palette: Sequence[tuple[int, int, int]],
    *,
    confidence: float,
    keep_probability: bool,
) -> dict[str, bytes]:
    """Returns the files of an image's mask, by their names below the stage's folder.

    Args:
        image_id: the image.
        labels: H×W uint8, before the filter.
        probability: H×W float32, of those labels; none where it is not known.
        palette: n+1 colours.
        confidence: pixels below this probability become 255.
        keep_probability: whether the probabilities are stored too.
    """
    unsure = probability is not None and confidence > 0
    filtered = ignore_unsure(labels, probability, confidence) if unsure else labels
    files = {f"{image_id}.png": encode_png(filtered, palette)}
    if keep_probability:
        files[f"{PROBABILITY}/{image_id}.png"] = encode_png(to_grey(probability))
    if confidence > 0:
        files[f"{UNFILTERED}/{image_id}.png"] = encode_png(labels, palette)
    return files
