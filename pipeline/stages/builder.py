"""Builds the stages of a configuration, each from what it needs."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache, cached_property, partial
from typing import Any

from pipeline.cams.stage import CamStage, ComputedCams
from pipeline.clip.device import settle_precision
from pipeline.clip.frozen import FrozenClip
from pipeline.clip.image_text import releases
from pipeline.clip.second import SECONDS, FrozenSecond
from pipeline.clip.settings import OPEN_BORDER, MethodOptions
from pipeline.configuration.registry import Quirk, imported
from pipeline.datasets.corrected import Corrections, saved
from pipeline.engine.sample import ByName, Sample
from pipeline.engine.scan import key_unknown_until
from pipeline.engine.stage import OfSplit, PerImage, Stage
from pipeline.errors import UserError
from pipeline.files.text import given_path
from pipeline.masks.stage import CorrectableMasks, Masks, MaskStage
from pipeline.segmenter.data import masks_of_stage
from pipeline.segmenter.self_training import SegmenterMasks, SegmenterTags
from pipeline.segmenter.settings import PUBLISHED, SegmenterSettings, side_divisor, whole_patches
from pipeline.segmenter.stage import Predictions, Training
from pipeline.stages.config import Config
from pipeline.stages.parts import Parts
from pipeline.tags.options import ScoredTagOptions, TagOptions
from pipeline.tags.stage import ScoredTags, Tags
from pipeline.tags.standardised import ScoreStatistics, StandardisedTags

_PREFETCHED = 4  # images that are decoded ahead of a segmenter


@dataclass(frozen=True)
class Builder(Parts):
    """Builds stages. It reads no weights, and a split only where masks are corrected."""

    # From images to pseudo masks

    def per_split(self, split: str) -> dict[str, PerImage]:
        """Returns the stages of a split that :data:`PER_SPLIT` names."""
        stages: dict[str, PerImage] = {}
        for command, build in PER_SPLIT.items():
            stages[command] = build(self, split, stages)
        return stages

    def tags(self, split: str, before: Mapping[str, PerImage]) -> Tags:
        """Returns the stage of a split's tags, with what is learned for them."""
        options, corrections = self.config.tags, self._corrections(split)
        is_scored = isinstance(options, ScoredTagOptions) and self.images is not None
        if is_scored and options.fit_split:
            self.images.of(options.fit_split)  # which refuses an unknown split
        if not is_scored or not options.standardise:
            return self._tags_by_method(split, options, corrections)
        options = replace(options, fit_split=options.fit_split or self.train_split)
        raw_options = options if options.method.learns else replace(options, fit_split=None)
        raw = partial(self._tags_by_method, options=raw_options, title="before standardising")
        uses = {}
        if "class" in options.standardise:
            uses["learned"] = ScoreStatistics(
                split=options.fit_split,
                before={"raw": raw(options.fit_split)},
                images=self.images,
                store=self.store,
                refit=options.refit,
                steps=options.standardise,
            )
        return StandardisedTags(
            split=split,
            before={"raw": raw(split)},
            uses=uses,
            corrections=corrections,
            **self.by_method(options),
        )

    def _tags_by_method(
        self,
        split: str,
        options: TagOptions,
        corrections: Corrections = Corrections(),  # noqa: B008  it is frozen
        title: str = "",
    ) -> Tags:
        """Returns the stage of the tags that follow from a method, without standardising."""
        method, uses = options.method, {}
        if method.learns and self.images is not None:
            options = replace(options, fit_split=options.fit_split or self.train_split)
            uses = self._learned(options, options.fit_split)
        depends = method.batch_of and self.images is not None
        return (method.stage or ScoredTags)(
            split=split,
            title=title,
            uses=uses,
            dependent_batch=method.batch_of(options, self.config.compat) if depends else 0,
            annotations=cache(partial(self.annotations, split, group="tags")),
            corrections=corrections,
            **self.by_method(options),
        )

    def _learned(
        self, options: MethodOptions, split: str, quirks: Sequence[Quirk] = (), **more: object
    ) -> dict[str, OfSplit]:
        """Returns the stage that learns for a method from a split, as "learned"."""
        given = {"split": split, "store": self.store, "refit": options.refit, **more}
        learn = imported(options.method.learns)
        return {"learned": learn(**given, **self.by_method(options, quirks))}

    def _bank(self, command: str, quirks: Sequence[Quirk] = ()) -> dict[str, OfSplit]:
        """Returns the stage that learns for CAMs, or for the label maps of their method."""
        cams, title = self.config.cams, f"for {command}"
        return self._learned(cams, cams.learns_from, quirks, command=command, title=title)

    def _corrections(self, split: str) -> Corrections:
        table = Corrections()
        if tags := self.corrections.get(split):
            path = given_path(self.config.tags.corrections, "tags.corrections")
            table = Corrections(tags, path.name, saved(path))
        # Where masks are made without tags, corrected ones say nothing of tags.
        reads_tags = masks_stage(self.config).from_cams and not self.config.cams.method.stage
        masks = self.corrected_masks(split) if reads_tags else Corrections()
        return masks.tags_beside(table, self.vocabulary.classes)

    def cams(self, split: str, before: Mapping[str, PerImage]) -> CamStage:
        """Returns the stage of a split's CAMs, of the tags ``before``."""
        method = self.config.cams.method
        return (method.stage or ComputedCams)(
            split=split,
            before={} if method.stage else {"tags": before["tags"]},
            uses=self._bank("cams") if self.images and self.config.cams.learns_from else {},
            **self.by_method(self.config.cams),
        )

    def masks(self, split: str, before: Mapping[str, PerImage]) -> MaskStage:
        """Returns the stage of a split's pseudo masks, of the CAMs ``before`` if it reads them."""
        stage, cams = masks_stage(self.config), self.config.cams
        is_from_images = stage.takes_any_image and not stage.from_cams
        dense = cams if is_from_images and cams.method.family == "dense" else None
        learns = dense and self.images and cams.learns_from
        quirks = [each for each in cams.method.quirks if dense and each is not OPEN_BORDER]
        return stage(
            split=split,
            before={"cams": before["cams"]} if stage.from_cams else {},
            uses=self._bank("masks", self.config.masks.method.quirks) if learns else {},
            cams=cams,
            annotations=cache(partial(self.annotations, split)),
            corrected=self.corrected_masks(split),
            files=dense,
            **self.by_method(self.config.masks, quirks, dense),
        )

    # Training and prediction

    @property
    def train_split(self) -> str:
        """The split that a segmenter is trained on."""
        return self.images.dataset.train_split

    def _validation_samples(self) -> Sequence[Sample]:
        """Returns the images that a segmenter is measured on while it trains, which have masks."""
        if self.config.segmenter.validation_interval:
            for split in self.splits:
                if split == self.train_split:
                    continue
                if labelled := [s for s in self.images.of(split) if s.mask is not None]:
                    return labelled
        return ()

    @cached_property
    def tower(self) -> FrozenClip | FrozenSecond | None:
        """The frozen vision transformer that a decoder reads; none for timm's, and without one."""
        options = self.config.segmenter
        if options.decoder is None or options.backbone is None:
            return self.clip if options.decoder else None
        releases()  # which registers second backbones as well
        if options.backbone not in SECONDS:
            return None
        given = None if options.pretrained == PUBLISHED else options.pretrained
        settings, kind = ("segmenter.backbone", "segmenter.pretrained"), "dino_vitb8"
        return FrozenSecond(settings, kind, options.backbone, given, self.device, precision="fp32")

    @cached_property
    def network(self) -> SegmenterSettings:
        """The segmenter's settings, whose crops hold whole patches of a vision transformer."""
        options, patch_size = self.config.segmenter, None
        if self.tower is not None:
            patch_size = self.tower.origin.dimensions.patch_size
        elif options.backbone:
            from pipeline.segmenter.architecture import timm_maps  # takes seconds to import

            patch_size = timm_maps(options.backbone).patch_size
        usual = self.config.dataset.training.crop_size
        divisor = side_divisor(patch_size, options.decoder)
        return replace(options, crop_size=whole_patches(options.crop_size, divisor, usual))

    def training(self, masks: CorrectableMasks, number: int) -> Training:
        """Returns the stage that trains a segmenter on masks."""
        options = self.config.segmenter
        settle_precision(options.test.precision, self.device, "segmenter.test.precision")
        repeats = ByName.fromkeys(masks.corrected.masks, options.repeat_corrected)
        return Training(
            split=self.train_split,
            round=number,
            before={"masks": masks},
            options=options,
            seed=self.config.seed,
            device=self.device,
            vocabulary=self.vocabulary,
            decode=self.reader,
            source=partial(masks_of_stage, masks, self.images, self.store, repeats),
            tower=self.tower,
            fitted=lambda: self.network,
            validation=self._validation_samples,
        )

    def predictions(self, split: str, training: Training) -> Predictions:
        """Returns the stage of a segmenter's predictions for a split."""
        return Predictions(
            split=split,
            round=training.round,
            uses={"segmenter": training},
            options=self.config.segmenter,
            test=self.config.segmenter.test,
            device=self.device,
            vocabulary=self.vocabulary,
            reader=replace(self.reader, prefetch=_PREFETCHED),
        )

    def relabelled(
        self, split: str, training: Training, tags: Tags
    ) -> tuple[SegmenterTags, SegmenterMasks]:
        """Returns tags and masks of the round after a training, which that segmenter predicts."""
        options = self.config.self_training
        shared: dict[str, Any] = {
            "split": split,
            "round": training.round + 1,
            "before": {"first_tags": tags} if options.keep_tags else {},
            "uses": {"segmenter": training},
            "options": options,
            "test": self.config.segmenter.test,
            "background": self.config.masks.beta is not None,
            "corrections": tags.corrections,
            "refiner": self._refiner(split) if options.refine else None,
            "device": self.device,
            "vocabulary": self.vocabulary,
            "reader": replace(self.reader, prefetch=_PREFETCHED),
        }
        masks = SegmenterMasks(**shared, corrected=self.corrected_masks(split))
        return SegmenterTags(**shared, rider=masks), masks

    def _refiner(self, split: str) -> Masks:
        """Returns the first round's masks, with a refiner of probabilities instead of CAMs."""
        masks = self.per_split(split)["masks"]
        if type(masks) is not Masks or getattr(masks.options, "crf", "") is None:
            raise UserError(
                "self_training.refine requires a refiner of probabilities: leave it out, or give"
                " masks=crf, pamr or par"
            )
        # Corrected masks pass unrefined, and the confidence is that of the later round.
        options = replace(masks.options, beta=None, confidence=0.0, corrections=None)
        return replace(masks, options=options, corrected=Corrections())

    # The lists

    @cached_property
    def trainings(self) -> list[Training]:
        """The training of each round."""
        first, found = self.per_split(self.train_split), list[Training]()
        for number in range(1, self.config.rounds + 1):
            # A segmenter is trained on the masks of its split, whatever splits the run works on.
            before = self.relabelled(self.train_split, found[-1], first["tags"]) if found else ()
            found.append(self.training(before[1] if before else first["masks"], number))
        return found

    def of_split(self, split: str) -> list[PerImage]:
        """Returns the stages of all rounds on a split, whether the run works on it or not."""
        first = self.per_split(split)
        found = [s for s in first.values() if s.name != "masks" or self.only_split in (None, split)]
        for training in self.trainings:
            found.append(self.predictions(split, training))
            if training.round < self.config.rounds:
                found += self.relabelled(split, training, first["tags"])
        return found

    @cached_property
    def stages(self) -> list[Stage]:
        """All stages of all rounds on all splits, in their order."""
        found = [*self.trainings, *(s for split in self.splits for s in self.of_split(split))]
        order = [*PER_SPLIT, Training.command, Predictions.command]
        return sorted(found, key=lambda stage: (stage.round, order.index(stage.command)))

    @cached_property
    def _on_splits(self) -> dict[str, dict[tuple[str, int, str], PerImage]]:
        """Split → the stages by what is one on each: name, round, title; if they can be built."""
        found = {}
        for split in self.images.dataset.splits:
            with suppress(UserError):
                every = (each for stage in self.of_split(split) for each in stage.chain)
                own = [each for each in every if each.split == split and isinstance(each, PerImage)]
                found[split] = {(each.name, each.round, each.title): each for each in own}
        return found

    def counterparts(self, stage: Stage) -> dict[str, list[str]]:
        """Returns what the run is on each split up to a stage, where all keys are known.

        Corrections belong to splits, so keys differ. A network is one for all, and not named; its
        masks are those of each split. See :data:`~pipeline.engine.records.Counterparts`.
        """
        found, places = {}, [(each.name, each.round, each.title) for each in stage.chain]
        for split, stages in self._on_splits.items():
            same = [stages[place] for place in places if place in stages]
            with suppress(UserError):
                if same and not any(key_unknown_until(each, {}) for each in same):
                    found[split] = [*dict.fromkeys(f"{each.name}/{each.key}" for each in same)]
        return found


def masks_stage(config: Config) -> type[MaskStage]:
    """Returns the class of the stage of pseudo masks."""
    return config.masks.method.stage or Masks


PER_SPLIT: dict[str, Callable[[Builder, str, Mapping[str, PerImage]], PerImage]] = {
    "tags": Builder.tags,
    "cams": Builder.cams,
    "masks": Builder.masks,
}
"""Command → what builds its stage for a split, from the stages before it. Training follows."""
