"""Self-training: what a segmenter sees in the training images becomes the next round's masks.

A segmenter averages over the errors of the single masks that it learned from. Its own predictions,
without the pixels that it is unsure of and the classes that an image does not show, may therefore
be better masks than those; and what it sees in an image is a tag. No ground truth is read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

from pipeline.datasets.sample import ImageReader, Sample
from pipeline.engine.folder import ResultFolder
from pipeline.errors import ImageError
from pipeline.masks.labels import resized_argmax, to_labels
from pipeline.masks.stage import mask_files
from pipeline.sweep import Images, Todo, Work, by_sample, read_through
from pipeline.tags.stage import record_tags

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


def relabelling(
    tags_folder: ResultFolder,
    masks_folder: ResultFolder,
    palette: Sequence[tuple[int, int, int]],
    *,
    segmenter: Callable[[], Probabilities],
    read: ImageReader,
    settings: SelfTrainingSettings,
) -> Work:
    """Returns how images are tagged and labelled anew.

    With ``settings.keep_tags`` an image is given with its tags of the first round.

    Args:
        tags_folder: receives the tags.
        masks_folder: receives the masks.
        palette: n+1 colours.
        segmenter: builds the segmenter of the round before; called only when it is needed.
        read: decodes the images.
        settings: see :class:`SelfTrainingSettings`.
    """
    segmenter = cache(segmenter)

    def compute(images: list[Todo]) -> Iterator[tuple[Todo, Relabelled | ImageError]]:
        def look(images: Images) -> Iterator[tuple[Sample, np.ndarray]]:
            for sample, image in images:
                yield sample, segmenter()(image)

        for todo, found in by_sample(images, lambda s: read_through(s, read, look, _MOST_AHEAD)):
            if not isinstance(found, ImageError):
                found = relabel(*found, settings, todo.given)
            yield todo, found

    def save(todo: Todo, found: Relabelled) -> None:
        record_tags(tags_folder, todo.sample, todo.key, found.tags, {"scores": found.scores})
        files = mask_files(
            todo.sample.id,
            found.labels,
            found.probability,
            palette,
            confidence=settings.confidence,
            keep_probability=settings.keep_probability,
        )
        masks_folder.write(todo.sample.id, todo.key, files)

    return Work([masks_folder, tags_folder], compute, save)
