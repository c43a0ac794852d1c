"""``tags=ground_truth`` and ``tags=file``: tags that are given, not computed."""

from abc import abstractmethod
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from pipeline.datasets.lists import read_class_list
from pipeline.engine.progress import note
from pipeline.engine.sample import ByName, Labels, Sample
from pipeline.engine.stage import Computed, Decoded, Folders, Item
from pipeline.errors import ImageError, NoEntry, UserError
from pipeline.files.fingerprints import fingerprint
from pipeline.files.text import given_path
from pipeline.tags.stage import Tags
from pipeline.tags.tagger import image_threshold


@dataclass(frozen=True, kw_only=True, eq=False)
class GivenTags(Tags):
    """Tags that are read, with scores that are 1 unless a file says otherwise.

    The key names where they come from. What is said of an image is one of its inputs, so that a
    corrected line costs one image.
    """

    reads_images = False

    @abstractmethod
    def given(self, sample: Sample) -> Mapping[int, float]:
        """Returns class → score; raises a NoEntry where there is nothing, or another ImageError."""

    def item(self, sample: Sample, folders: Folders) -> Item:
        """Returns an image with the scores that it is given."""
        given = sorted(self.given(sample).items())
        said = given if self.threshold else [k for k, _ in given]
        return super().item(sample, folders).reading({"given": fingerprint(said)}, dict(given))

    def compute(self, images: Decoded, model: Callable[[], Any]) -> Computed:
        """Yields what is given."""
        for item, _ in images:
            scores = np.zeros(self.resources.num_classes, np.float32)
            scores[[*item.given]] = [*item.given.values()]
            yield item, {self.name: self.output(item, {"scores": scores})}

    def choose(self, scores: np.ndarray) -> list[int]:
        """Returns the tags that were given, or that follow from scores."""
        threshold = self.threshold(scores) if self.threshold else 0.0
        return np.flatnonzero(scores > threshold).tolist()


@dataclass(frozen=True, kw_only=True, eq=False)
class GroundTruthTags(GivenTags):
    """The data set's labels."""

    def given(self, sample: Sample) -> Mapping[int, float]:
        """Returns an image's labels."""
        if not sample.has_ground_truth:
            raise NoEntry("has no ground truth, which tags=ground_truth requires")
        try:
            return dict.fromkeys(sample.ground_truth_labels, 1.0)
        except UserError as error:
            raise ImageError(str(error)) from error


@dataclass(frozen=True, kw_only=True, eq=False)
class ListedTags(GivenTags):
    """The tags of a list, or those that follow from scores in a file."""

    certain = (0.0, 1.0)

    @property
    def thresholds(self) -> Collection[str]:
        """The settings that turn scores into tags."""
        return (*super().thresholds, *self.options.thresholds)

    @cached_property
    def threshold(self) -> Callable[[np.ndarray], float] | None:
        """The threshold of scores, of which 0, that of what the file does not name, is one."""
        if not (settings := self.options.thresholds):
            return None
        return lambda scores: image_threshold(np.append(scores, 0), **settings)

    def check(self) -> None:
        """Refuses a file of scores that cannot be read, and says what in it is left out."""
        super().check()
        if self.threshold:
            note(*self.annotations("path").notes)

    def own_settings(self) -> dict[str, Any]:
        """Returns what tags depend on, except the tags."""
        unused = ("alpha", "min_score")  # by a list; those of scores are added again
        settings = {k: v for k, v in super().own_settings().items() if k not in unused}
        return settings | self.options.thresholds

    @cached_property
    def _listed(self) -> ByName[Labels]:
        indices = {str(k): k for k in range(self.resources.num_classes)}
        return read_class_list(given_path(self.options.path, "tags.path"), "tags.path", indices)

    def given(self, sample: Sample) -> Mapping[int, float]:
        """Returns what a line, or an entry, says of an image."""
        try:
            if self.threshold:
                return self.annotations("path").find(sample.id).scores
            if sample.id in self._listed:
                return dict.fromkeys(self._listed[sample.id], 1.0)
            raise NoEntry(f"has no line in {self.options.path}", self._listed)
        except NoEntry:
            if sample.id in self.corrections.tags:
                return {}
            raise
