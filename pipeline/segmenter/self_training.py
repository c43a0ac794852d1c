"""Self-training: a segmenter's predictions for the training images are the next round's masks.

A segmenter averages over the errors of the single masks that it learned from. Its own predictions,
without the pixels that it is unsure of and without the classes that an image does not show, may
therefore be better masks than those. They are tags as well. No ground truth is read.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from pipeline.configuration.settings import key_facts
from pipeline.datasets.corrected import Corrections
from pipeline.engine.kinds import MASKS, TAGS
from pipeline.engine.sample import Sample
from pipeline.engine.stage import Computed, Decoded, Folders, Item
from pipeline.files.fingerprints import fingerprint
from pipeline.masks.labels import resized_argmax
from pipeline.masks.stage import CorrectableMasks
from pipeline.segmenter.settings import SelfTrainingSettings, TestSettings
from pipeline.segmenter.stage import Segmenting
from pipeline.tags.scores import read_tags, tags_output
from pipeline.tags.stage import Tags


class Relabelled(NamedTuple):
    """An image as a segmenter sees it."""

    scores: np.ndarray  # n float32, one for each class
    tags: tuple[int, ...]  # class indices
    labels: np.ndarray  # H×W uint8, of the image's full size, before the filter
    probability: np.ndarray  # H×W float32, of those labels


def relabel(
    probabilities: np.ndarray,
    size: tuple[int, int],
    settings: SelfTrainingSettings,
    tags: Sequence[int] | None = None,
    background: bool = True,
) -> Relabelled:
    """Labels an image, as a :class:`Relabelled`, with the best of its tags and the background.

    The probabilities of these are divided by their sum, as if the segmenter knew no other class.

    Args:
        probabilities: (n+1)×h×w float32, the background first.
        size: height and width of the labels.
        settings: how they become tags.
        tags: those to keep; none takes what the segmenter sees.
        background: whether pixels may be background; an image without tags always is.
    """
    flat = probabilities[1:].reshape(len(probabilities) - 1, -1)
    surest = max(1, round(settings.tag_region * flat.shape[1]))
    scores = np.partition(flat, -surest, axis=1)[:, -surest:].mean(1)
    if tags is None:
        tags = seen(scores, settings)
    labels = np.array([*[0] * (background or not tags), *(k + 1 for k in tags)], np.uint8)
    chosen = probabilities[labels].clip(1e-30)  # the sum over the tags alone could be 0
    channels, probability = resized_argmax(chosen / chosen.sum(0), *size)
    return Relabelled(scores, tuple(tags), labels[channels], probability)


def seen(scores: np.ndarray, settings: SelfTrainingSettings) -> tuple[int, ...]:
    """Returns the classes that a segmenter sees in an image, by its n scores."""
    return tuple(int(k) for k in np.flatnonzero(scores >= settings.tag_threshold))


@dataclass(frozen=True, kw_only=True, eq=False)
class _Relabelling(CorrectableMasks, Segmenting):
    """The tags or the masks of a later round, from one prediction of the network before.

    Probabilities are averaged over the scales of ``test``. Tags of ``corrections`` are kept.
    """

    command = "masks"
    thresholds = ("corrections",)  # those of an image are part of its inputs
    options: SelfTrainingSettings
    test: TestSettings
    background: bool
    corrections: Corrections = Corrections()

    def own_settings(self) -> dict[str, Any]:
        """Returns what the probabilities depend on besides the network."""
        return {
            "method": "segmenter",
            **self.reader.key_facts,
            "scales": list(self.test.scales),
            "flip": self.test.flip,
            "background": self.background,
            **self.corrections.key_facts,
        }

    def own_legend(self) -> Mapping[str, Mapping[str, Any]]:
        """Returns the files of corrections."""
        return {**super().own_legend(), **self.corrections.legend}

    def item(self, sample: Sample, folders: Folders) -> Item:
        """Returns an image, with the tags that it keeps: those of the first round, or corrected."""
        tags, found = self.corrections.tags.get(sample.id), None
        read = {"corrected": tags}
        if "first_tags" in folders:
            tags = read_tags(folders["first_tags"], sample)
            found = folders["first_tags"].entries[sample.id].get("found")
            read = {"first_tags.tags": tags, "first_tags.found": found}
        inputs = {n: fingerprint(list(keys)) for n, keys in read.items() if keys is not None}
        return super().item(sample, folders).reading(inputs, (tags, found))

    def compute(self, images: Decoded, model: Callable[[], Any]) -> Computed:
        """Tags and labels images anew."""
        for item, image in images:
            probabilities = model().probabilities(image, self.test.scales, self.test.flip)
            kept, first = item.given
            relabelled = relabel(probabilities, item.size, self.options, kept, self.background)
            masks = self.stored(item, relabelled.labels, relabelled.probability)
            found = {}
            if item.sample.id in self.corrections.tags:
                found["found"] = seen(relabelled.scores, self.options) if first is None else first
            tags = tags_output(relabelled.tags, {"scores": relabelled.scores}, **found)
            yield item, {SegmenterTags.name: tags, **masks}


@dataclass(frozen=True, kw_only=True, eq=False)
class SegmenterMasks(_Relabelling):
    """The masks of a later round: the predictions of the segmenter of the round before."""

    name = "masks"
    kind = MASKS
    algorithm = 2

    def own_settings(self) -> dict[str, Any]:
        """Returns what the masks depend on besides the network and the tags."""
        return {**super().own_settings(), **key_facts(self.options)}


@dataclass(frozen=True, kw_only=True, eq=False)
class SegmenterTags(_Relabelling):
    """The tags of a later round; the masks ride with them."""

    name = "tags"
    kind = TAGS
    certain = Tags.certain
    summary, statistics = Tags.summary, Tags.statistics

    def own_settings(self) -> dict[str, Any]:
        """Returns what the tags depend on besides the network and the first tags."""
        return {
            **super().own_settings(),
            "classes": list(self.vocabulary.classes),
            **key_facts(self.options, without=["confidence"]),
        }

    @property
    def threshold(self) -> Callable[[np.ndarray], float] | None:
        """The threshold that scores must reach to be tags; none where the first tags are kept."""
        threshold = self.options.tag_threshold
        return None if self.options.keep_tags else lambda scores: threshold
