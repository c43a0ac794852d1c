"""``tags=ground_truth`` and ``tags=file``: tags that are given, not computed."""

from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.datasets.lists import read_class_list
from pipeline.engine.sample import Labels, Sample
from pipeline.engine.stage import Computed, Decoded, Folders, Item
from pipeline.errors import ImageError, NoEntry, UserError
from pipeline.files.fingerprints import fingerprint, fingerprint_image, join_keys
from pipeline.files.text import given_path
from pipeline.tags.scores import tags_output
from pipeline.tags.stage import Tags


@dataclass(frozen=True, kw_only=True, eq=False)
class GivenTags(Tags):
    """Tags that are read; each has the score 1.

    The key names where they come from. The tags of an image are part of its input, so that a
    corrected line costs one image.
    """

    reads_images = False

    def own_settings(self) -> dict[str, Any]:
        """Returns what tags depend on, except the tags: there are no scores and no pixels."""
        decoding = self.reader.facts
        return {k: v for k, v in super().own_settings().items() if k not in decoding}

    @abstractmethod
    def tags_of(self, sample: Sample) -> Labels:
        """Returns an image's tags; raises a NoEntry where it has none, or another ImageError."""

    def item(self, sample: Sample, folders: Folders) -> Item:
        """Returns an image with its tags."""
        tags = self.tags_of(sample)
        return Item(sample, join_keys(fingerprint_image(sample.image), fingerprint(tags)), tags)

    def compute(self, images: Decoded, model: Callable[[], Any]) -> Computed:
        """Yields what is given."""
        for item, _ in images:
            scores = np.zeros(self.resources.num_classes, np.float32)
            scores[list(item.given)] = 1
            facts = self.corrections.apply(item.sample.id, item.given)
            yield item, {self.name: tags_output(**facts, scores={"scores": scores})}

    def found(self, entry: Mapping[str, Any]) -> list[int]:
        """Returns the tags that were given."""
        return entry.get("found", entry["tags"])


@dataclass(frozen=True, kw_only=True, eq=False)
class GroundTruthTags(GivenTags):
    """The data set's labels."""

    def tags_of(self, sample: Sample) -> Labels:
        """Returns an image's labels."""
        if not sample.has_ground_truth:
            raise NoEntry("has no ground truth, which tags=ground_truth requires")
        try:
            return sample.ground_truth_labels
        except UserError as error:
            raise ImageError(str(error)) from error


@dataclass(frozen=True, kw_only=True, eq=False)
class ListedTags(GivenTags):
    """The tags of a list. The key holds its file's name."""

    def own_settings(self) -> dict[str, Any]:
        """Returns what tags depend on, except the tags."""
        settings = super().own_settings()
        return {**settings, "list": Path(settings.pop("path")).name}

    @cached_property
    def _listed(self) -> Mapping[str, Labels]:
        indices = {str(k): k for k in range(self.resources.num_classes)}
        return read_class_list(given_path(self.options.path, "tags.path"), "tags.path", indices)

    def tags_of(self, sample: Sample) -> Labels:
        """Returns the tags on an image's line."""
        if sample.id not in self._listed and sample.id not in self.corrections.tags:
            raise NoEntry(f"has no line in {self.options.path}", self._listed)
        return self._listed.get(sample.id, ())
