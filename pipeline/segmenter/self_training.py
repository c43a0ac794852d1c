"""Self-training: a segmenter's predictions for the training images are the next round's masks.

A segmenter averages over the errors of the single masks that it learned from. Its own predictions,
without the pixels that it is unsure of and without the classes that an image does not show, may
therefore be better masks than those. They are tags as well. No ground truth is read.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.cams.cams import Cams
from pipeline.configuration.settings import key_facts
from pipeline.datasets.corrected import Corrections
from pipeline.engine.kinds import MASKS, TAGS
from pipeline.engine.pool import in_processes
from pipeline.engine.sample import Sample
from pipeline.engine.stage import Computed, Decoded, Folders, Item, Outputs
from pipeline.errors import ImageError
from pipeline.files.fingerprints import fingerprint
from pipeline.masks.labels import best_labels
from pipeline.masks.refiner import Labelled, labelled
from pipeline.masks.stage import CorrectableMasks, Masks
from pipeline.segmenter.settings import SelfTrainingSettings
from pipeline.segmenter.stage import Segmenting
from pipeline.tags.scores import read_tags, tags_output
from pipeline.tags.stage import Tags

if TYPE_CHECKING:
    from pipeline.segmenter.predict import Segmenter


_Seen = tuple[Item, np.ndarray, np.ndarray, Cams]
"""An image on the way to the refiner: what it is, its scores, its pixels and probabilities."""


def chosen_probabilities(
    probabilities: np.ndarray,
    size: tuple[int, int],
    settings: SelfTrainingSettings,
    tags: Sequence[int] | None = None,
    background: bool = True,
) -> tuple[np.ndarray, Cams]:
    """Tags an image by a segmenter's probabilities, and chooses those of its tags.

    Args:
        probabilities: (n+1)×h×w float32, the background first.
        size: height and width of the image.
        settings: how they become tags.
        tags: those to keep; none takes what the segmenter sees.
        background: whether pixels may be background; an image without tags always is.

    Returns:
        The n scores of the classes, float32, and the probabilities of the background, whose key is
        −1, and of the tags. These are divided by their sum, as if the segmenter knew no other
        class. A refiner takes them for CAMs that cover everything.
    """
    flat = probabilities[1:].reshape(len(probabilities) - 1, -1)
    surest = max(1, round(settings.tag_region * flat.shape[1]))
    scores = np.partition(flat, -surest, axis=1)[:, -surest:].mean(1)
    tags = seen(scores, settings) if tags is None else tags
    keys = np.array([*[-1] * (background or not tags), *tags])
    chosen = probabilities[keys + 1].clip(1e-30)  # the sum over the tags alone could be 0
    return scores, Cams(keys, chosen / chosen.sum(0), size)


def best_of(_: np.ndarray, cams: Cams) -> Labelled:
    """Labels pixels by their largest probability; the arguments are those of a refiner."""
    return best_labels(cams.cams, cams)


def _label(refine: Callable[[np.ndarray, Cams], Labelled], found: _Seen) -> Labelled | ImageError:
    """Labels an image, in whatever process."""
    return labelled(refine, *found[2:])


def seen(scores: np.ndarray, settings: SelfTrainingSettings) -> tuple[int, ...]:
    """Returns the classes that a segmenter sees in an image, by its n scores."""
    return tuple(int(k) for k in np.flatnonzero(scores >= settings.tag_threshold))


@dataclass(frozen=True, kw_only=True, eq=False)
class _Relabelling(CorrectableMasks, Segmenting):
    """The tags or the masks of a later round, from one prediction of the network before.

    Probabilities are averaged over the scales of ``test``, and pass the ``refiner`` of the first
    round's masks, if there is one. Tags of ``corrections`` are kept.
    """

    command = "masks"
    thresholds = ("corrections",)  # those of an image are part of its inputs
    options: SelfTrainingSettings
    background: bool
    corrections: Corrections = Corrections()
    refiner: Masks | None = None

    def own_settings(self) -> dict[str, Any]:
        """Returns what the probabilities depend on besides the network."""
        refiner = {"refiner": self.refiner.refiner_facts} if self.refiner else {}
        return {
            "method": "segmenter",
            **refiner,
            **self.reader.key_facts,
            "scales": list(self.test.scales),
            "flip": self.test.flip,
            "precision": self.test.precision,
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
        seen_by = (self._look(model(), *each) for each in images)
        refine = best_of if self.refiner is None else self.refiner.load({})
        workers = self.reader.threads if self.refiner and not self.refiner.batch_size else 1
        label = partial(_label, refine)
        for (item, scores, _, cams), found in in_processes(seen_by, label, workers):
            yield item, self._outputs(item, scores, cams.classes[cams.classes >= 0], found)

    def _look(self, segmenter: "Segmenter", item: Item, image: np.ndarray) -> _Seen:
        probabilities = segmenter.probabilities(image, self.test.scales, self.test.flip)
        kept, _ = item.given
        scores, cams = chosen_probabilities(
            probabilities, item.size, self.options, kept, self.background
        )
        return item, scores, image, cams

    def _outputs(
        self, item: Item, scores: np.ndarray, tags: np.ndarray, found: Labelled | ImageError
    ) -> Outputs | ImageError:
        if isinstance(found, ImageError):
            return found
        more, (_, first) = {}, item.given
        if item.sample.id in self.corrections.tags:
            more["found"] = seen(scores, self.options) if first is None else first
        tags_of_image = tags_output(tuple(map(int, tags)), {"scores": scores}, **more)
        return {SegmenterTags.name: tags_of_image, **self.stored(item, *found)}


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
