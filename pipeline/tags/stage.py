"""The stage ``tags``: which classes each image shows."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from pipeline.clip.frozen import Resources
from pipeline.clip.shared_pass import AttentionRecorder, SharedPass
from pipeline.datasets.vocabulary import Vocabulary
from pipeline.engine.folder import StageFolder
from pipeline.engine.reading import Name, Reading, Size
from pipeline.engine.registry import Method
from pipeline.engine.settings import facts
from pipeline.engine.stage import Computed, Folders, Item, Output, Stage
from pipeline.errors import ImageError
from pipeline.tags.scores import decode_scores, summarise, tags_output
from pipeline.tags.tagger import ScoredTagOptions, choose_tags, image_threshold


class OfSharedPass(Protocol):
    """A model that also works from the backbone's pass in which an image is tagged."""

    def attention_recorder(self) -> AttentionRecorder:
        """Returns the recorder of one batch's attention."""

    def cams_of_pass(self, shared_pass: SharedPass, tags: Sequence[int]) -> np.ndarray:
        """Returns the result of an image whose tags are known."""


class FollowsTags(Protocol):
    """A stage whose results can come from the same pass of the backbone as tags."""

    name: str

    def input_key(self, image: str, tags: Sequence[int]) -> str:
        """Returns the fingerprint of an image's input, from that of the image and its tags."""

    def output(
        self, image_id: str, input_key: str, tags: Sequence[int], result: np.ndarray, size: Size
    ) -> Output:
        """Returns what is stored for an image."""

    def load(self, inputs: Mapping[str, Path]) -> OfSharedPass:
        """Loads the model."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Tags(Stage):
    """The tags of a split, wherever they come from.

    Attributes:
        vocabulary: the class names.
        method: what finds the tags.
        options: the method's settings.
    """

    name = command = "tags"
    kind = "scores"
    vocabulary: Vocabulary
    method: Method
    options: Any

    def own_settings(self) -> dict[str, Any]:
        """Returns what tags depend on."""
        classes = list(self.vocabulary.classes)
        return {**self.method.facts, **facts(self.options), "classes": classes}

    @property
    def threshold(self) -> Callable[[np.ndarray], float] | None:
        """What an image's scores must exceed to be tags; none where tags are given."""
        return None

    def summary(self, folder: StageFolder, done: Sequence[str]) -> Mapping[str, bytes]:
        """Returns ``scores.npz`` and ``tags.txt``."""
        return summarise(folder, done, self.vocabulary.classes)


@dataclass(frozen=True, kw_only=True, eq=False)
class ScoredTags(Tags):
    """Tags that follow from the scores of a tagger.

    Attributes:
        resources: what the tagger is built from.
        reading: how images are read.
        follower: a stage that is computed in the same pass, if it is run as well.
    """

    decisive = ("method", "clip", "reidentify", "squeeze")
    options: ScoredTagOptions
    resources: Resources
    reading: Reading
    follower: Stage | None = None

    @property
    def serves(self) -> Sequence[Stage]:
        """The stage that is computed in the same pass."""
        return [self.follower] if self.follower else []

    @property
    def threshold(self) -> Callable[[np.ndarray], float]:
        """What an image's scores must exceed to be tags."""
        alpha, min_score = self.options.alpha, self.options.min_score
        return partial(image_threshold, alpha=alpha, min_score=min_score)

    @property
    def thresholds(self) -> Collection[str]:
        """The settings that turn scores into tags; CWR takes its θ from the same α."""
        uses_alpha = getattr(self.options, "reidentify", False)
        return ("min_score",) if uses_alpha else ("min_score", "alpha")

    @property
    def variants(self) -> list[str]:
        """The further rows of scores that are asked for, of those that the method has."""
        return [name for name in self.options.variants if name in self.method.variants]

    def own_settings(self) -> dict[str, Any]:
        """Returns what tags depend on."""
        vocabulary = self.vocabulary
        used = self.resources.facts(vocabulary.tag_names, vocabulary.backgrounds)
        return {**super().own_settings(), **self.reading.decode.facts, **used}

    @property
    def uses_clip(self) -> bool:
        """Whether the method looks at images with CLIP."""
        return self.method.uses_clip

    def unknown_until(self) -> str:
        """Returns "download" where the weights, which are in the key, are not on this machine."""
        return self.resources.unknown_until

    def covers(self, entry: Mapping[str, Any]) -> bool:
        """Tells whether the scores of every variant exist."""
        return {"scores", *self.variants} <= entry["scores"].keys()

    def adapt(self, entry: Mapping[str, Any]) -> dict[str, Any]:
        """Returns an entry with the tags that follow from its scores."""
        tags = self.choose(decode_scores(entry["scores"]["scores"]))
        return {**entry, "tags": list(tags)}

    def prepare(self, item: Item, folders: Folders) -> Item:
        """Returns an item with the inputs of which its follower's result exists."""
        if self.follower is None:
            return item
        known = folders[self.follower.name].inputs(item.sample.id)
        return Item(item.sample, item.input, frozenset(known))

    def load(self, inputs: Mapping[str, Path]) -> tuple[Any, OfSharedPass | None]:
        """Builds the tagger, and the follower's model."""
        tagger = self.method.build(self.options, self.resources)
        return tagger, self.follower and self.follower.load(inputs)

    def compute(self, items: Sequence[Item], model: Callable[[], Any]) -> Computed:
        """Scores images and chooses their tags."""
        follower: FollowsTags | None = self.follower
        options = self.options

        def score(images: Iterator[tuple[Name, np.ndarray]]) -> Iterator[tuple[Name, Any]]:
            tagger, shared = model()
            more = {"listen": shared.attention_recorder} if shared else {}
            return tagger.stream(images, self.variants, **more)

        for item, result in self.reading.through(items, score):
            if isinstance(result, ImageError):
                yield item, result
                continue
            scored, size = result
            tags = choose_tags(scored.scores["scores"], options.alpha, options.min_score)
            outputs = [tags_output(tags, scored.scores)]
            if follower and (key := follower.input_key(item.input, tags)) not in item.given:
                cams = model()[1].cams_of_pass(scored.shared_pass, tags)
                outputs.append(follower.output(item.sample.id, key, tags, cams, size))
            yield item, outputs

    @property
    def shard_size(self) -> int:
        """The number of images that fill a worker's batches."""
        return self.resources.shard_size

    def choose(self, scores: np.ndarray) -> tuple[int, ...]:
        """Returns the tags that follow from an image's scores."""
        return choose_tags(scores, self.options.alpha, self.options.min_score)
