"""The stage ``tags``: the classes that each image shows."""

from abc import abstractmethod
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import numpy as np

from pipeline.clip.method_stage import MethodStage
from pipeline.configuration.settings import joined
from pipeline.datasets.corrected import Corrections, refuse_unknown
from pipeline.engine.kinds import TAGS
from pipeline.engine.records import MANIFEST, read_manifest
from pipeline.engine.results import Results
from pipeline.engine.sample import Sample
from pipeline.engine.stage import Computed, Decoded, Item, Output
from pipeline.engine.writer import Writer
from pipeline.errors import ImageError
from pipeline.tags.remarks import find_near_synonyms, remarks_on_tags
from pipeline.tags.scores import decode_scores, summarise, tags_output
from pipeline.tags.tagger import Scored, ScoredTagOptions, TagOptions, choose_tags, image_threshold


@dataclass(frozen=True, kw_only=True, eq=False)
class Tags(MethodStage):
    """The tags of a split, wherever they come from.

    Attributes:
        corrections: the tags of images in place of those that are found. They come last: scores
            stay as they are, and nothing is learned from them.
    """

    name = command = "tags"
    kind = TAGS
    options_base = TagOptions
    corrections: Corrections = Corrections()

    certain: ClassVar[Sequence[float]] = ()
    """Scores that leave no doubt; without any, the lowest and the highest score of an image."""

    threshold: ClassVar[Callable[[np.ndarray], float] | None] = None
    """What an image's scores, n float32 in [0, 1], must exceed; none where tags are given."""

    row: ClassVar[str] = "scores"
    """The row of scores from which tags follow."""

    @property
    def thresholds(self) -> Collection[str]:
        """The setting that replaces tags."""
        return ("corrections",)

    def own_settings(self) -> dict[str, Any]:
        """Returns what tags depend on; their files hold a score for each class."""
        settings = joined(super().own_settings(), self.corrections.key_facts)
        classes = {"classes": list(self.vocabulary.classes)}
        return settings if "classes" in self.options.method.reads else joined(settings, classes)

    def own_legend(self) -> Mapping[str, Mapping[str, Any]]:
        """Returns the file of corrections."""
        return self.corrections.legend

    def check(self) -> None:
        """Refuses a correction of an image that the split does not have."""
        super().check()
        if corrected := self.corrections.tags:
            known = self.images.known_ids(self.split)
            refuse_unknown(corrected, known, self.split, self.options.corrections)

    @abstractmethod
    def choose(self, scores: np.ndarray) -> Sequence[int]:
        """Returns the tags that follow from an image's scores, n float32."""

    def output(self, item: Item, rows: Mapping[str, np.ndarray]) -> Output:
        """Returns what is stored of an image, by its rows of scores."""
        facts = self.corrections.apply(item.sample.id, self.choose(rows[self.row]))
        return tags_output(**facts, scores=rows)

    def found(self, entry: Mapping[str, Any]) -> Sequence[int] | None:
        """Returns the tags of an entry before any correction; none if it lacks a variant."""
        return self.choose(decode_scores(entry["scores"], self.row))

    def adapt(self, entry: Mapping[str, Any]) -> dict[str, Any] | None:
        """Returns an entry with the tags that this stage gives its image."""
        if (found := self.found(entry)) is None:
            return None
        kept = {name: value for name, value in entry.items() if name != "found"}
        return {**kept, **self.corrections.apply(entry["id"], found)}

    def summary(self, results: Results, done: Sequence[Sample]) -> Mapping[str, bytes]:
        """Returns what :func:`~pipeline.tags.scores.summarise` does."""
        return summarise(results, done, self.vocabulary.classes)

    def statistics(self, writer: Writer, done: Sequence[Sample]) -> Mapping[str, Any]:
        """Returns how many images have tags, corrected tags, and each class."""
        classes, entries = self.vocabulary.classes, writer.results.entries
        of_images = [entries[sample.id] for sample in done]
        images = Counter(k for entry in of_images for k in entry["tags"])
        return {
            "tagged": sum(bool(entry["tags"]) for entry in of_images),
            "corrected": sum("found" in entry for entry in of_images),
            "classes": {name: images[k] for k, name in enumerate(classes)},
        }

    def remark(self, results: Results, ids: Collection[str]) -> str:
        """Returns what :func:`~pipeline.tags.remarks.remarks_on_tags` does."""
        return "; ".join(remarks_on_tags(results, ids, self.vocabulary.classes))


@dataclass(frozen=True, kw_only=True, eq=False)
class ScoredTags(Tags):
    """Tags that follow from the scores of a tagger, whose options have ``alpha``.

    Its rider are CAMs of a method that can share the tagger's pass.
    """

    takes_any_image = True
    options_base = ScoredTagOptions

    def option_facts(self) -> dict[str, Any]:
        """Returns the settings of the method, without those of what may follow."""
        return {k: v for k, v in super().option_facts().items() if k not in ("standardise", "z")}

    @property
    def threshold(self) -> Callable[[np.ndarray], float]:
        """See :func:`~pipeline.tags.tagger.image_threshold`."""
        return partial(image_threshold, alpha=self.options.alpha, min_score=self.options.min_score)

    @property
    def thresholds(self) -> Collection[str]:
        """The settings that turn scores into tags; CWR takes its θ from the same α."""
        own = ("min_score",) if self.options.uses_alpha else ("min_score", "alpha")
        return (*super().thresholds, *own)

    @property
    def variants(self) -> list[str]:
        """The further rows of scores that are asked for, of those that the method has."""
        return [name for name in self.options.variants if name in self.options.method.variants]

    def found(self, entry: Mapping[str, Any]) -> Sequence[int] | None:
        """Returns the tags that follow from an entry's scores, if it has the variants."""
        is_covered = {"scores", *self.variants} <= entry["scores"].keys()
        return super().found(entry) if is_covered else None

    def checked(self, scored: Scored, image_id: str = "") -> dict[str, np.ndarray]:
        """Returns an image's scores, each n float32; a UserError if they cannot be used."""
        number, given = self.resources.num_classes, getattr(scored, "scores", None)
        rows = given if isinstance(given, Mapping) else {}
        if "scores" not in rows:
            raise self.wrong("no scores", image_id)
        rows = {name: self.numbers(name, row, image_id, 0) for name, row in rows.items()}
        for name, row in rows.items():
            if row.shape != (number,):
                shape = "×".join(map(str, row.shape)) or "one"
                raise self.wrong(f"{shape} {name} for {number} classes", image_id)
        return {name: row.astype(np.float32) for name, row in rows.items()}

    def compute(self, images: Decoded, model: Callable[[], Any]) -> Computed:
        """Scores images and chooses their tags."""
        options, corrected = self.options, self.corrections.tags
        hooks = {"cam_hooks": self.rider.hooks} if self.rider else {}
        for item, scored in model().stream(images, self.variants, **hooks):
            if isinstance(scored, ImageError):
                yield item, scored
                continue
            scores, image_id = self.checked(scored, item.sample.id), item.sample.id
            facts = {"tags": choose_tags(scores["scores"], options.alpha, options.min_score)}
            if image_id in corrected:
                facts = self.corrections.apply(image_id, facts["tags"])
            outputs = {self.name: tags_output(**facts, scores=scores)}
            if self.rider:
                outputs |= self.rider.of_pass(item, scored.shared_pass, facts["tags"])
            yield item, outputs

    def statistics(self, writer: Writer, done: Sequence[Sample]) -> Mapping[str, Any]:
        """Returns what is counted of the tags, and near-synonyms among the names that CLIP read."""
        known = writer.results.statistics.get("near_synonyms", [])
        if writer.computed:
            known = self.near_synonyms()
        elif writer.reused:  # from a folder of the same own key, whose names are the same
            manifests = (read_manifest(p.parent) for p in writer.path.parent.glob(f"*/{MANIFEST}"))
            same = (m.get("statistics", {}) for m in manifests if m.get("own_key") == self.own_key)
            known = next((s["near_synonyms"] for s in same if "near_synonyms" in s), known)
        counted = super().statistics(writer, done)
        return {**counted, "near_synonyms": known} if known else counted

    def near_synonyms(self) -> list[list[str]]:
        """Returns what :func:`~pipeline.tags.remarks.find_near_synonyms` does, if CLIP scores."""
        clip, vocabulary = self.resources.clip, self.vocabulary
        if clip is None or not self.options.templates:
            return []
        # Those that the tagger has embedded.
        names = vocabulary.tag_names, vocabulary.backgrounds, self.options.templates
        embeddings = clip.embed(*names)[: len(vocabulary.classes)].cpu().numpy()
        if clip.origin.joins_patches:  # without those for patches
            embeddings = embeddings[:, : embeddings.shape[1] * 2 // 3]
        return find_near_synonyms(embeddings, vocabulary.classes)

    def choose(self, scores: np.ndarray) -> tuple[int, ...]:
        """Returns the tags that follow from an image's scores."""
        return choose_tags(scores, self.options.alpha, self.options.min_score)
