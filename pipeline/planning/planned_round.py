"""What the stages of one round would do, each by the rules by which it would do it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace
from functools import cached_property, partial

from pipeline import keys
from pipeline.cams import from_files
from pipeline.cams import stage as cams_stage
from pipeline.clip.downloads import is_on_disk
from pipeline.datasets.sample import Sample
from pipeline.engine.store import StageFolder
from pipeline.errors import ImageError, UserError
from pipeline.files.fingerprints import fingerprint_file
from pipeline.masks import stage as masks_stage
from pipeline.planning.known_tags import known_tags_key
from pipeline.planning.planned_stage import PlannedStage
from pipeline.planning.speeds import Speeds
from pipeline.project import Project
from pipeline.segmenter import stage as segmenter_stage
from pipeline.tags import stage as tags_stage

_DOWNLOAD = "download"


class PlannedRound:
    """The plan of one round of self-training."""

    def __init__(self, project: Project, stages: Sequence[str], before: PlannedRound | None):
        """Finds out nothing yet.

        Args:
            project: that of the round.
            stages: what would be run.
            before: the round before; none for the first.
        """
        self.project = project
        self.stages = stages
        self.before = before
        # (stage, split) → the images that will have a result, and the ids of those that have none
        # yet, or may get another.
        self.found: dict[tuple[str, str], tuple[list[Sample], set[str]]] = {}
        # Of the segmenter and of the ceiling: the folder, where it is known, and what has to run
        # before it is trained.
        self.networks: dict[bool, tuple[StageFolder | None, str]] = {}

    def plan(self, stage: str) -> Iterator[PlannedStage]:
        """Yields what a stage would do; those before it were asked for first.

        Raises:
            UserError: what the run would end with.
        """
        if self.before is None:
            yield from getattr(self, f"_{stage}")()
        elif stage not in ("tags", "cams"):  # those of the first round stay
            rows = self._relabel() if stage == "masks" else getattr(self, f"_{stage}")()
            for row in rows:
                round_name = f"round {self.project.round}"
                yield replace(row, split=f"{row.split}, {round_name}" if row.split else round_name)

    @cached_property
    def speeds(self) -> Speeds:
        """What was measured below the output directory."""
        return Speeds(self.project.store)

    @cached_property
    def has_weights(self) -> bool:
        """Whether the names of folders can be known without a download."""
        return is_on_disk(self.project.config["clip"])

    # Stages that do images

    def _tags(self) -> Iterator[PlannedStage]:
        project, method = self.project, self.project.config["tags"]["method"]
        uses_clip = method in keys.USES_CLIP
        for split in project.splits:
            samples = project.samples(split)
            if uses_clip and not self.has_weights:
                yield self._unknown("tags", split, samples, _DOWNLOAD)
                continue
            folder = project.tags_folder(split)
            is_done, input_key = None, tags_stage.input_key
            if uses_clip:
                is_done = tags_stage.has_scores(folder, project.method.variants)
            else:
                input_key = known_tags_key(project)
            yield self._images(folder, samples, set(), input_key, is_done)

    @cached_property
    def has_folders(self) -> bool:
        """Whether the names of the folders of maps, and of what hangs on them, can be known."""
        return self.has_weights or from_files.is_chosen(self.project.config)

    def _cams(self) -> Iterator[PlannedStage]:
        project, tags = self.project, self.project.config["tags"]
        if from_files.is_chosen(project.config):
            key = partial(
                from_files.input_key, maps=from_files.given_folder(project.config["cams"])
            )
            for split in project.splits:
                yield self._images(project.cams_folder(split), project.samples(split), set(), key)
            return
        shares = "tags" in self.stages and tags["method"] == "tagclip" and not tags["squeeze"]
        for split in project.splits:
            if not self.has_weights:
                yield self._unknown("cams", split, project.samples(split), _DOWNLOAD)
                continue
            samples, unsure = self._inputs("tags", split)
            folder = project.cams_folder(split)
            tags_of = partial(tags_stage.read_tags, project.tags_folder(split))
            yield self._images(
                folder,
                samples,
                unsure,
                lambda s, tags_of=tags_of: cams_stage.input_key(s, tags_of(s)),
                after="tags",
                shares=shares,
            )

    def _masks(self) -> Iterator[PlannedStage]:
        for split in self.project.splits:
            if not self.has_folders:
                yield self._unknown("masks", split, self.project.samples(split), _DOWNLOAD)
                continue
            samples, unsure = self._inputs("cams", split)
            cams = self.project.cams_folder(split)
            folder = self.project.masks_folder(split)
            input_key = partial(masks_stage.input_key, cams=cams)
            yield self._images(folder, samples, unsure, input_key, after="cams")

    def _relabel(self) -> Iterator[PlannedStage]:
        project = self.project
        if "train" not in self.stages and not self.before._segmenter(False)[1]:
            project.trained_before()  # says what is missing
        trained, after = self.before.network(False)
        for split in project.splits:
            samples = project.samples(split)
            if after:
                folder = trained and project.masks_folder(split)
                yield self._unknown("masks", split, samples, after, folder)
                continue
            tags, masks = project.tags_folder(split), project.masks_folder(split)
            yield self._images(
                masks,
                samples,
                set(),
                lambda sample: fingerprint_file(sample.image),
                lambda sample, key, tags=tags, masks=masks: (
                    tags.is_done(sample.id, key) and masks.is_done(sample.id, key)
                ),
            )

    def _predict(self) -> Iterator[PlannedStage]:
        project = self.project
        for ceiling in [False, True] if project.has_ceiling else [False]:
            trained, after = self.network(ceiling)
            for split in project.splits:
                if ceiling and split == project.dataset.train_split:
                    continue
                samples = project.samples(split)
                folder = trained and project.predictions_folder(split, ceiling)
                if after:
                    row = self._unknown("predictions", split, samples, after, folder)
                else:
                    row = self._images(folder, samples, set(), segmenter_stage.input_key)
                yield replace(row, split=f"{split}{' (ground truth)' * ceiling}")

    # The segmenter, and what looks back

    def _train(self) -> Iterator[PlannedStage]:
        project = self.project
        for ceiling in [False, True] if project.has_ceiling else [False]:
            folder, after = self._segmenter(ceiling)
            split = project.dataset.train_split
            trained = folder is not None and segmenter_stage.is_trained(folder)
            samples = project.samples(split) if after else project.training_data(ceiling)[0]
            todo = 0 if trained else len(samples)
            yield PlannedStage(
                stage="train",
                split=f"{split}{' (ground truth)' * ceiling}",
                images=len(samples),
                cached=len(samples) - todo if folder is not None else None,
                to_compute=todo,
                after=after,
                is_most=bool(after),
                seconds=self._seconds("segmenter", folder, 1) if todo else 0.0,
                key=folder.key if folder is not None else "",
            )
            self.networks[ceiling] = (folder, "" if trained else after or "train")

    def network(self, ceiling: bool) -> tuple[StageFolder | None, str]:
        """Returns a segmenter's folder, and what has to run before it is trained.

        Raises:
            UserError: it is not trained, and nothing that was asked for would train it.
        """
        if ceiling not in self.networks:
            folder, after = self._segmenter(ceiling)
            if not after and not segmenter_stage.is_trained(folder):
                raise UserError("no segmenter was trained on these masks: run stage=train first")
            self.networks[ceiling] = (folder, after)
        return self.networks[ceiling]

    def _segmenter(self, ceiling: bool) -> tuple[StageFolder | None, str]:
        """Returns a segmenter's folder, or none and what has to run before it is known."""
        project = self.project
        own = ceiling or (self.before is None and project.config["segmenter"]["masks"] is not None)
        if not own:
            if self.before is None and not self.has_folders:
                return None, _DOWNLOAD
            _, unsure = self.found.get(("masks", project.dataset.train_split), ((), ()))
            if unsure:
                return None, "masks"
            if self.before is not None and (after := self.before.network(False)[1]):
                return None, after
        return project.segmenter_folder(ceiling), ""

    def _evaluate(self) -> Iterator[PlannedStage]:
        makes = {"tags", "cams", "masks", "predict"} & set(self.stages)
        if not makes and self.has_weights:
            project = self.project
            finders = (project.tags_folder, project.cams_folder, project.masks_folder)
            if not any(find(split).entries for find in finders for split in project.splits):
                raise UserError("there is nothing to evaluate: run stage=tags first")
        yield PlannedStage("evaluate", "")

    def _report(self) -> Iterator[PlannedStage]:
        yield PlannedStage("report", "")

    # What they have in common

    def _inputs(self, stage: str, split: str) -> tuple[list[Sample], set[str]]:
        """Returns the images that a stage gives, and the ids of those that it still has to do.

        Raises:
            UserError: it was not run on all of them, and is not among the stages.
        """
        if (stage, split) in self.found:
            return self.found[stage, split]
        return self.project.available(split, stage), set()

    def _images(
        self,
        folder: StageFolder,
        samples: Sequence[Sample],
        unsure: Collection[str],
        input_key: Callable[[Sample], str],
        is_done: Callable[[Sample, str], bool] | None = None,
        after: str = "",
        shares: bool = False,
    ) -> PlannedStage:
        """Plans a stage whose folder is known, as :func:`pipeline.sweep.sweep` would do it."""
        is_done = is_done or (lambda sample, key: folder.is_done(sample.id, key))
        pending, left_out = set(), set()
        for sample in samples:
            if sample.id in unsure:
                continue
            try:
                if not is_done(sample, input_key(sample)):
                    pending.add(sample.id)
            except (ImageError, OSError, ValueError):
                left_out.add(sample.id)
        usable = [s for s in samples if s.id not in left_out]
        self.found[folder.stage, folder.split] = (usable, pending | set(unsure))
        todo = len(pending) + len(unsure)
        timed = len(pending) if shares else todo
        return PlannedStage(
            stage=folder.stage,
            split=folder.split,
            images=len(samples),
            cached=len(usable) - todo,
            to_compute=todo,
            after=after if unsure else "",
            is_most=any(image_id in folder.entries for image_id in unsure),
            seconds=self._seconds(folder.stage, folder, timed) if timed else 0.0,
            with_tags=shares and bool(unsure) and not pending,
            key=folder.key,
        )

    def _unknown(
        self,
        stage: str,
        split: str,
        samples: Sequence[Sample],
        after: str,
        folder: StageFolder | None = None,
    ) -> PlannedStage:
        """Plans a stage that depends on what is not there yet, for all images of a split."""
        self.found[stage, split] = (list(samples), {s.id for s in samples})
        return PlannedStage(
            stage=stage,
            split=split,
            images=len(samples),
            cached=None if folder is None else 0,
            to_compute=len(samples),
            after=after,
            is_most=folder is None,
            seconds=self._seconds(stage, folder, len(samples)),
            key=folder.key if folder is not None else "",
        )

    def _seconds(self, stage: str, folder: StageFolder | None, images: int) -> float | None:
        config = self.project.config
        if folder is not None:
            configuration = folder.configuration
        elif stage == "predictions":
            configuration = {"test": config["segmenter"]["test"], "segmenter": config["segmenter"]}
        else:
            configuration = config.get(stage)
        return self.speeds.estimate(stage, configuration or {}, images)
