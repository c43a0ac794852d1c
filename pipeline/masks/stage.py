"""The stage ``masks``: from maps to pseudo masks, palette PNGs of image size."""

from __future__ import annotations

import gc
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

import numpy as np
from joblib import Parallel, delayed
from PIL import Image

from pipeline.cams.stage import Cams, read_cams
from pipeline.datasets.sample import ImageReader, Sample
from pipeline.errors import ImageError
from pipeline.fingerprints import fingerprint_file, join_keys
from pipeline.images import encode_png
from pipeline.masks.crf import CrfSettings, dense_crf
from pipeline.masks.labels import ignore_unsure, resized_argmax, stack_background, to_labels
from pipeline.store import StageFolder
from pipeline.sweep import sweep

ALGORITHM = 1
"""Raised when the same configuration would give another result than before."""

UNFILTERED = ".unfiltered"
"""Folder of the masks before the confidence filter, which are what is measured."""


def pseudo_mask(
    image: np.ndarray,
    cams: Cams,
    crf: CrfSettings | None,
    confidence: float,
    beta: float | None = 1.0,
) -> tuple[np.ndarray, np.ndarray]:
    """Labels every pixel of an image.

    Args:
        image: h×w×3 uint8, RGB, perhaps shrunk; the CRF works at this size.
        cams: the image's maps.
        crf: the CRF's constants; none takes the best of the maps and the background.
        confidence: pixels whose highest CRF probability is below this become 255; 0 keeps all.
        beta: β of the background; none where the classes cover everything.

    Returns:
        The labels of the image's full size before and after the filter, each uint8.
    """
    if not len(cams.keys):
        labels = np.zeros(cams.size, np.uint8)
        return labels, labels
    maps = cams.resized(*image.shape[:2])
    if crf is not None and crf.fp16:
        maps = maps.astype(np.float16)
    scores = stack_background(maps, beta)
    if crf is not None:
        # A single class without a background is certain; the CRF wants two.
        scores = dense_crf(image, scores, crf) if len(scores) > 1 else np.ones_like(scores)
    channels, probability = resized_argmax(scores.astype(np.float32), *cams.size)
    labels = to_labels(channels, cams.keys, background=beta is not None)
    if crf is None:
        return labels, labels
    return labels, ignore_unsure(labels, probability, confidence)


def input_key(sample: Sample, cams: StageFolder) -> str:
    """Returns the fingerprint of what an image's mask is made from."""
    return join_keys(fingerprint_file(sample.image), cams.output_key(sample.id))


def run(
    samples: Sequence[Sample],
    folder: StageFolder,
    cams: StageFolder,
    palette: Sequence[tuple[int, int, int]],
    *,
    read: ImageReader,
    crf: CrfSettings | None,
    confidence: float,
    beta: float | None,
    workers: int,
) -> int:
    """Computes and stores the masks of every image, in processes.

    Args:
        samples: the images of a split that have maps.
        folder: the stage's folder, locked.
        cams: the folder of the maps.
        palette: n+1 colours.
        read: decodes the images.
        crf: see :func:`pseudo_mask`.
        confidence: see :func:`pseudo_mask`.
        beta: see :func:`pseudo_mask`.
        workers: processes.

    Returns:
        The number of images that were computed.
    """

    def compute(todo: list[Sample]) -> Iterator[tuple[Sample, dict[str, bytes] | ImageError]]:
        results = Parallel(workers, return_as="generator")(
            delayed(_compute)(s, cams.path / f"{s.id}.npz", palette, read, crf, confidence, beta)
            for s in todo
        )
        yield from zip(todo, results)

    computed = sweep(
        samples,
        folder,
        input_key=lambda s: input_key(s, cams),
        compute=compute,
        save=lambda sample, key, files: folder.write(sample.id, key, files),
    )
    folder.finish([s.id for s in samples])
    return computed


def _compute(
    sample: Sample,
    cams: Path,
    palette: Sequence[tuple[int, int, int]],
    read: ImageReader,
    crf: CrfSettings | None,
    confidence: float,
    beta: float | None,
) -> dict[str, bytes] | ImageError:
    """Does one image, in whatever process."""
    _spare_the_collector()
    try:
        image, _ = read(sample)
        labels, filtered = pseudo_mask(image, read_cams(cams), crf, confidence, beta)
    except ImageError as error:
        return error
    files = {f"{sample.id}.png": encode_png(filtered, palette)}
    if confidence > 0:
        files[f"{UNFILTERED}/{sample.id}.png"] = encode_png(labels, palette)
    return files


@cache
def _spare_the_collector() -> None:
    """Takes what is imported out of garbage collection, once in a process.

    joblib's workers collect garbage after every image; with torch imported that takes a sixth of
    the time of a CRF.
    """
    gc.freeze()


def read_labels(path: Path) -> np.ndarray:
    """Reads a mask that this stage, or the stage ``predict``, wrote: H×W uint8."""
    with Image.open(path) as image:
        return np.asarray(image)
