"""Self-training: what a segmenter sees in the training images becomes the next round's masks.

A segmenter averages over the errors of the single masks that it learned from. Its own predictions,
without the pixels that it is unsure of and the classes that an image does not show, may therefore
be better masks than those; and what it sees in an image is a tag. No ground truth is read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.datasets.sample import ImageReader, Sample
from pipeline.errors import ImageError
from pipeline.fingerprints import fingerprint_file
from pipeline.masks.labels import resized_argmax, to_labels
from pipeline.masks.stage import mask_files
from pipeline.store import StageFolder
from pipeline.sweep import Images, read_through, sweep
from pipeline.tags.stage import finish_tags, record_tags

ALGORITHM = 1
"""Raised when the same configuration would give another result than before."""

_MOST_AHEAD = 4

Probabilities = Callable[[np.ndarray], np.ndarray]
"""Image, H×W×3 uint8 → (n+1)×H×W float32, which sum to one; the background is the first."""


@dataclass(frozen=True)
class SelfTrainingSettings:
    """How predictions become tags and masks.

    Attributes:
        tag_region: the share of an image, that of its surest pixels, whose mean probability is a
            class's score.
        tag_threshold: a class whose score reaches it is a tag.
        confidence: pixels below this probability become 255.
        keep_tags: keep the tags of the first round, instead of those that the segmenter sees.
        keep_probability: whether the probabilities are stored too.
    """

    tag_region: float
    tag_threshold: float
    confidence: float
    keep_tags: bool
    keep_probability: bool


@dataclass(frozen=True)
class Relabelled:
    """An image as a segmenter sees it.

    Attributes:
        scores: n float32, one for each class.
        tags: class indices.
        labels: H×W uint8, of the image's full size, before the filter.
        probability: H×W float32, of those labels.
    """

    scores: np.ndarray
    tags: tuple[int, ...]
    labels: np.ndarray
    probability: np.ndarray


def image_scores(probabilities: np.ndarray, region: float) -> np.ndarray:
    """Scores the classes of an image: the mean probability of each one's surest pixels.

    Args:
        probabilities: (n+1)×H×W float32, the background first.
        region: the share of the pixels that is averaged over; at least one pixel is.

    Returns:
        n float32 in [0, 1].
    """
    flat = probabilities[1:].reshape(len(probabilities) - 1, -1)
    count = max(1, round(region * flat.shape[1]))
    return np.partition(flat, -count, axis=1)[:, -count:].mean(1)


def relabel(
    probabilities: np.ndarray,
    size: tuple[int, int],
    settings: SelfTrainingSettings,
    tags: Sequence[int] | None = None,
) -> Relabelled:
    """Labels an image with the best of the background and its tags.

    The probabilities of these are divided by their sum, as if the segmenter knew no other class.

    Args:
        probabilities: (n+1)×h×w float32, the background first.
        size: height and width of the labels.
        settings: see :class:`SelfTrainingSettings`.
        tags: those to keep; none takes what the segmenter sees.
    """
    scores = image_scores(probabilities, settings.tag_region)
    if tags is None:
        tags = tuple(int(k) for k in np.flatnonzero(scores >= settings.tag_threshold))
    keys = np.array(tags, np.int64)
    chosen = probabilities[np.concatenate([[0], keys + 1])]
    channels, probability = resized_argmax(chosen / chosen.sum(0), *size)
    return Relabelled(scores, tuple(tags), to_labels(channels, keys), probability)


def run(
    samples: Sequence[Sample],
    tags_folder: StageFolder,
    masks_folder: StageFolder,
    classes: Sequence[str],
    palette: Sequence[tuple[int, int, int]],
    *,
    segmenter: Callable[[], Probabilities],
    first_tags: Callable[[Sample], Sequence[int]],
    read: ImageReader,
    settings: SelfTrainingSettings,
) -> int:
    """Tags and labels the images of a split anew, and stores both.

    Args:
        samples: the images.
        tags_folder: receives the tags, locked.
        masks_folder: receives the masks, locked.
        classes: the n class names.
        palette: n+1 colours.
        segmenter: builds the segmenter of the round before; called only when it is needed.
        first_tags: returns the tags of the first round.
        read: decodes the images.
        settings: see :class:`SelfTrainingSettings`.

    Returns:
        The number of images that were computed.
    """

    def compute(todo: list[Sample]) -> Iterator[tuple[Sample, Relabelled | ImageError]]:
        def look(images: Images) -> Iterator[tuple[Sample, np.ndarray]]:
            probabilities = segmenter()
            for sample, image in images:
                yield sample, probabilities(image)

        for sample, found in read_through(todo, read, look, _MOST_AHEAD):
            if not isinstance(found, ImageError):
                tags = first_tags(sample) if settings.keep_tags else None
                found = relabel(*found, settings, tags)
            yield sample, found

    def save(sample: Sample, key: str, found: Relabelled) -> None:
        record_tags(tags_folder, sample, key, found.tags, {"scores": found.scores})
        files = mask_files(
            sample.id,
            found.labels,
            found.probability,
            palette,
            confidence=settings.confidence,
            keep_probability=settings.keep_probability,
        )
        masks_folder.write(sample.id, key, files)

    def is_done(sample: Sample, key: str) -> bool:
        return tags_folder.is_done(sample.id, key) and masks_folder.is_done(sample.id, key)

    computed = sweep(
        samples,
        masks_folder,
        input_key=lambda sample: fingerprint_file(sample.image),
        compute=compute,
        save=save,
        is_done=is_done,
    )
    for image_id, reason in masks_folder.failures.items():
        tags_folder.fail(image_id, reason)
    finish_tags(samples, tags_folder, classes)
    masks_folder.finish([s.id for s in samples])
    return computed
