"""The stage ``tags``: which classes each image shows."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from pipeline.clip.method_stage import MethodStage
from pipeline.engine.folder import StageFolder
from pipeline.engine.kinds import TAGS
from pipeline.engine.reading import Name
from pipeline.engine.settings import joined
from pipeline.engine.stage import Computed, Folders, Item, Stage
from pipeline.errors import ImageError
from pipeline.tags.scores import decode_scores, remark_on_tags, summarise, tags_output
from pipeline.tags.tagger import ScoredTagOptions, TagOptions, choose_tags, problem_with

if TYPE_CHECKING:
    from pipeline.cams.stage import ComputedCams


@dataclass(frozen=True, kw_only=True, eq=False)
class Tags(MethodStage):
    """The tags of a split, wherever they come from."""

    name = command = "tags"
    kind = TAGS
    options_base = TagOptions
    threshold: ClassVar[Callable[[np.ndarray], float] | None] = None
    """Returns what an image's scores must exceed to be tags; none where tags are given."""

    def own_settings(self) -> dict[str, Any]:
        """Returns what tags depend on; their files hold a score for each class."""
        settings = super().own_settings()
        classes = {"classes": list(self.vocabulary.classes)}
        return settings if "classes" in self.method.reads else joined(settings, classes)

    def loaded(self, inputs: Mapping[str, Path]) -> Sequence[Path]:
        """Returns the file of what was learned, on which the tags of every image depend."""
        learned = self.needs.get("learned")
        path = inputs["learned"] / learned.file if learned else None
        return [path] if path and path.is_file() else []

    def summary(self, folder: StageFolder, done: Sequence[str]) -> Mapping[str, bytes]:
        """Returns ``scores.npz`` and ``tags.txt``."""
        return summarise(folder, done, self.vocabulary.classes)

    def remark(self, folder: StageFolder, ids: Collection[str]) -> str:
        """Says so if no image has a tag, or if all have the same, from which nothing is learned."""
        return remark_on_tags(folder, ids, self.vocabulary.classes)


@dataclass(frozen=True, kw_only=True, eq=False)
class ScoredTags(Tags):
    """Tags that follow from the scores of a tagger, whose options have ``alpha``.

    Attributes:
        follower: the stage of CAMs that is computed in the same pass, if it is run as well.
    """

    decisive = ("method", "clip", "reidentify", "squeeze")
    options_base = ScoredTagOptions
    follower: ComputedCams | None = None

    def option_facts(self) -> dict[str, Any]:
        """Returns the settings of the method, without those of what may follow."""
        return {k: v for k, v in super().option_facts().items() if k not in ("standardise", "z")}

    @property
    def serves(self) -> Sequence[Stage]:
        """The stage that is computed in the same pass."""
        return [self.follower] if self.follower else []

    def threshold(self, scores: np.ndarray) -> float:
        """Returns what an image's scores, n float32 in [0, 1], must exceed to be tags."""
        low, high = float(scores.min()), float(scores.max())
        return max(low + self.options.alpha * (high - low), self.options.min_score)

    @property
    def thresholds(self) -> Collection[str]:
        """The settings that turn scores into tags; CWR takes its θ from the same α."""
        uses_alpha = getattr(self.options, "reidentify", False)
        return ("min_score",) if uses_alpha else ("min_score", "alpha")

    @property
    def variants(self) -> list[str]:
        """The further rows of scores that are asked for, of those that the method has."""
        return [name for name in self.options.variants if name in self.method.variants]

    def covers(self, entry: Mapping[str, Any]) -> bool:
        """Tells whether the scores of every variant exist."""
        return {"scores", *self.variants} <= entry["scores"].keys()

    def adapt(self, entry: Mapping[str, Any]) -> dict[str, Any]:
        """Returns an entry with the tags that follow from its scores."""
        tags = self.choose(decode_scores(entry["scores"]))
        return {**entry, "tags": list(tags)}

    def prepare(self, item: Item, folders: Folders) -> Item:
        """Returns an item with the inputs of which its follower's result exists."""
        if self.follower is None:
            return item
        known = folders[self.follower.name].inputs(item.sample.id)
        return replace(item, given=frozenset(known))

    def load(self, inputs: Mapping[str, Path]) -> tuple[Any, Any]:
        """Builds the tagger, and the follower's method."""
        return super().load(inputs), self.follower and self.follower.load(inputs)

    def compute(self, items: Sequence[Item], model: Callable[[], Any]) -> Computed:
        """Scores images and chooses their tags."""
        follower, options = self.follower, self.options

        def score(images: Iterator[tuple[Name, np.ndarray]]) -> Iterator[tuple[Name, Any]]:
            tagger, cam_method = model()
            more = {"cam_hooks": cam_method.hooks} if cam_method else {}
            return tagger.stream(images, self.variants, **more)

        for item, result in self.reading.through(items, score, self.chosen):
            if isinstance(result, ImageError):
                yield item, result
                continue
            scored, size = result
            if problem := problem_with(scored.scores, self.resources.num_classes):
                raise self.wrong(problem, item.sample.id)
            tags = choose_tags(scored.scores["scores"], options.alpha, options.min_score)
            outputs = [tags_output(tags, scored.scores)]
            if follower and (key := follower.input_key(item.input, tags)) not in item.given:
                # The follower's own turn says why an image has no CAMs.
                with suppress(ImageError):
                    cams = model()[1].cams_of_pass(scored.shared_pass, tags)
                    outputs.append(follower.output(item.sample.id, key, tags, cams, size))
            yield item, outputs

    def choose(self, scores: np.ndarray) -> tuple[int, ...]:
        """Returns the tags that follow from an image's scores."""
        return choose_tags(scores, self.options.alpha, self.options.min_score)
