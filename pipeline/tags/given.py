"""``tags=ground_truth`` and ``tags=file``: tags that are given, not computed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import MISSING

from pipeline.clip.frozen import Resources
from pipeline.datasets.lists import read_class_list
from pipeline.engine.registry import register
from pipeline.engine.sample import Labels, Sample
from pipeline.engine.stage import Computed, Folders, Item
from pipeline.errors import ImageError, UserError
from pipeline.files.fingerprints import fingerprint, fingerprint_file, join_keys
from pipeline.files.text import given_path
from pipeline.tags.scores import tags_output
from pipeline.tags.stage import Tags
from pipeline.tags.tagger import TagOptions

TagsOf = Callable[[Sample], Labels]
"""Returns the tags of an image, or raises an ImageError where it has none."""


@dataclass(frozen=True, kw_only=True, eq=False)
class GivenTags(Tags):
    """Tags that are read; each has the score 1.

    The key names where they come from. The tags of an image are part of its input, so that a
    corrected line costs one image.

    Attributes:
        resources: what the reader of tags is built from.
    """

    resources: Resources

    def own_settings(self) -> dict[str, Any]:
        """Returns what tags depend on, except the tags."""
        settings = {**super().own_settings(), **vars(self.resources.quirks)}
        if path := settings.pop("path", None):
            settings["list"] = Path(path).name
        del settings["min_score"]  # there are no scores to compare with it
        return settings

    @cached_property
    def _tags_of(self) -> TagsOf:
        return self.method.build(self.options, self.resources)

    def item(self, sample: Sample, folders: Folders) -> Item:
        """Returns an image with its tags."""
        tags = self._tags_of(sample)
        return Item(sample, join_keys(fingerprint_file(sample.image), fingerprint(tags)), tags)

    def compute(self, items: Sequence[Item], model: Callable[[], Any]) -> Computed:
        """Yields what is given."""
        for item in items:
            scores = np.zeros(len(self.vocabulary.classes), np.float32)
            scores[list(item.given)] = 1
            yield item, [tags_output(item.given, {"scores": scores})]


@dataclass
class GroundTruthOptions(TagOptions):
    """``tags=ground_truth``: the classes that the data set says are in the image."""


@register("tags", "ground_truth", GroundTruthOptions, quirks=("tag_order",), stage=GivenTags)
def read_ground_truth(options: GroundTruthOptions, resources: Resources) -> TagsOf:
    """Returns a reader of the data set's labels."""
    keep_order = resources.quirks.tag_order

    def tags_of(sample: Sample) -> Labels:
        try:
            return sample.listed_labels if keep_order else sample.ground_truth_labels
        except UserError as error:
            if not sample.has_ground_truth:
                raise
            raise ImageError(str(error)) from error

    return tags_of


@dataclass
class TagListOptions(TagOptions):
    """``tags=file``: a list with an image id and class indices from 0 on each line.

    Attributes:
        path: the file, in the format of ``tags.txt``.
    """

    path: str = MISSING


@register("tags", "file", TagListOptions, stage=GivenTags)
def read_list(options: TagListOptions, resources: Resources) -> TagsOf:
    """Returns a reader of a list.

    Raises:
        UserError: the file is missing, or names a class that the vocabulary does not have.
    """
    path = given_path(options.path, "tags.path")
    listed = read_class_list(path, "tags.path", {str(k): k for k in range(resources.num_classes)})

    def tags_of(sample: Sample) -> Labels:
        if sample.id not in listed:
            raise ImageError(f"has no line in {path}")
        return listed[sample.id]

    return tags_of
