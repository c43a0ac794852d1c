"""The list: which stages a configuration asks for. The only place that knows which there are.

image → tags → cams → masks → train → predict → evaluate → report
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig

import pipeline.cams.clip_es
import pipeline.cams.imported
import pipeline.masks.pseudo_mask
import pipeline.tags.baseline
import pipeline.tags.given
import pipeline.tags.tagclip  # noqa: F401  these register their methods
from pipeline.cams.method import CamOptions
from pipeline.cams.stage import CamStage, ComputedCams
from pipeline.clip.device import choose_batches, choose_device, choose_precision, keep_freed_memory
from pipeline.clip.frozen import FrozenClip, Resources, quirks_of
from pipeline.clip.settings import ClipSettings, ImageSettings, Quirks, RuntimeSettings
from pipeline.datasets import find_reader, load_dataset
from pipeline.datasets.sample import ImageReader, Sample, choose_splits
from pipeline.datasets.settings import split_names
from pipeline.datasets.vocabulary import Vocabulary
from pipeline.engine.configuration import to_config
from pipeline.engine.outcome import Outcome
from pipeline.engine.plan import PlannedStage, plan
from pipeline.engine.reading import Reading
from pipeline.engine.registry import Method, method_of
from pipeline.engine.run import Run
from pipeline.engine.scan import Images
from pipeline.engine.settings import setting
from pipeline.engine.stage import Review, Stage
from pipeline.engine.store import Store
from pipeline.engine.workers import Executor, ExecutorSettings, WorkerSettings
from pipeline.errors import UserError
from pipeline.evaluation.about import describe
from pipeline.evaluation.stage import Evaluation
from pipeline.files.file_memory import FileMemory
from pipeline.files.fingerprints import remember_in
from pipeline.files.text import did_you_mean
from pipeline.masks.refiner import MaskOptions
from pipeline.masks.stage import Masks
from pipeline.report.material import ReportSettings, gather
from pipeline.report.stage import Report
from pipeline.segmenter.data import FolderMasks, GroundTruthMasks, StageMasks
from pipeline.segmenter.distributed import process_count, process_rank
from pipeline.segmenter.self_training import SegmenterMasks, SelfTrainingSettings
from pipeline.segmenter.settings import SegmenterSettings
from pipeline.segmenter.stage import Predictions, Training
from pipeline.tags.stage import ScoredTags, Tags
from pipeline.tags.tagger import TagOptions

COMMANDS = ("tags", "cams", "masks", "train", "predict", "evaluate", "report")
"""What ``stage=`` takes, in the order of the pipeline."""

_SHOWN = "it chooses what is done and shown, not how"


@dataclass
class Config:
    """The whole configuration: a field for each group, and the keys at the root."""

    tags: Any
    cams: Any
    masks: Any
    dataset: Any
    clip: ClipSettings
    compat: Quirks
    images: ImageSettings
    segmenter: SegmenterSettings
    self_training: SelfTrainingSettings
    executor: Any
    runtime: RuntimeSettings
    report: ReportSettings
    stage: Any = setting("all", changes="nothing", why=_SHOWN)
    experiment_name: str | None = setting(None, changes="nothing", why=_SHOWN)
    output_dir: str = setting("outputs", changes="nothing", why=_SHOWN)
    dry_run: bool = setting(False, changes="nothing", why=_SHOWN)
    rounds: int = setting(1, at_least=1, changes="nothing", why="each round has keys of its own")
    seed: int = setting(0, at_least=0)


def executor_settings(name: str) -> type[ExecutorSettings]:
    """Returns the class of an executor's settings.

    Raises:
        UserError: there is no such executor.
    """
    from pipeline.engine.dask_pool import DaskSettings

    known = {"local": ExecutorSettings, "processes": WorkerSettings, "dask": DaskSettings}
    if name not in known:
        hint = did_you_mean(name, known)
        raise UserError(f"there is no executor {name}: {hint}choose from {', '.join(known)}")
    return known[name]


def read_config(composed: DictConfig) -> Config:
    """Returns a composed configuration as typed settings, after all checks.

    Raises:
        UserError: an unknown key, or a value of another type or outside its range.
    """
    by_name = {"dataset": lambda name: find_reader(name)[1], "executor": executor_settings}
    return to_config(composed, Config, by_name)


def parse_stages(requested: str | Iterable[str]) -> list[str]:
    """Returns the requested stages in their order; "all" stands for every one.

    Raises:
        UserError: a name that is not a stage.
    """
    names = [requested] if isinstance(requested, str) else list(requested)
    known = (*COMMANDS, "all")
    for name in names:
        if name == "status":
            raise UserError("stage=status stands alone: leave the other stages out")
        if name not in known:
            hint = did_you_mean(name, (*known, "status"))
            raise UserError(f"there is no stage {name}: {hint}choose from {', '.join(known)}")
    return [command for command in COMMANDS if command in names or "all" in names]


@dataclass(frozen=True)
class Pipeline:
    """All stages of a configuration. Building them reads no split and no weights.

    Attributes:
        config: the configuration.
        vocabulary: the class names.
        images: the images of the run; none builds stages for Python's :class:`Labeller` alone.
        splits: the splits that the run works on.
        store: the output directory.
    """

    config: Config
    vocabulary: Vocabulary
    images: Images | None = None
    splits: Sequence[str] = ()
    store: Store | None = None

    @cached_property
    def device(self) -> str:
        """Torch's name of the device."""
        device = choose_device(self.config.runtime.device)
        if torch.device(device).type == "cpu":
            keep_freed_memory()
        return device

    @cached_property
    def clip(self) -> FrozenClip:
        """The frozen CLIP."""
        config, runtime = self.config, self.config.runtime
        choose_precision(runtime.precision, self.device)
        return FrozenClip(
            model=config.clip.model,
            pretrained=config.clip.pretrained,
            checkpoint=config.clip.checkpoint,
            device=self.device,
            precision=runtime.precision,
            max_patches=config.images.most_patches,
            position_fp16=config.compat.position_fp16,
            batches=choose_batches(vars(runtime), self.device),
            root=self.store.root if self.store else None,
        )

    @cached_property
    def decode(self) -> ImageReader:
        """Decodes images."""
        config = self.config
        return ImageReader(
            apply_exif=not config.compat.exif,
            max_pixels=config.dataset.max_pixels,
            longest_side=config.images.longest_side,
        )

    @cached_property
    def workers(self) -> int:
        """The number of processes and threads beside a model."""
        return self.config.runtime.workers or torch.multiprocessing.cpu_count()

    @cached_property
    def reading(self) -> Reading:
        """How stages read images."""
        return Reading(self.decode, self.workers, self.clip.batches.waiting)

    def resources(self, method: Method) -> Resources:
        """Returns what a method is built from: only what it declares."""
        return Resources(
            vocabulary=self.vocabulary,
            device=self.device,
            clip=self.clip if method.uses_clip else None,
            quirks=quirks_of(self.config.compat, method.quirks),
        )

    @classmethod
    def open(cls, config: Config) -> Pipeline:
        """Reads the data set of a configuration.

        Raises:
            UserError: the data set, or a setting, cannot be used.
        """
        root = Path(config.output_dir).expanduser().absolute()
        # A dry run writes nothing, not even what would save the next one some reading.
        memory = FileMemory(root)
        remember_in(dict(memory) if config.dry_run else memory)
        if config.runtime.threads:
            torch.set_num_threads(config.runtime.threads)
        workers = config.runtime.workers or torch.multiprocessing.cpu_count()
        dataset = load_dataset(config.dataset, workers)
        offered = config.dataset.default_splits or dataset.splits
        wanted = split_names(config.dataset.split) or [s for s in offered if s in dataset.splits]
        return cls(
            config,
            dataset.vocabulary,
            Images(dataset, config.dataset.limit),
            choose_splits(wanted, list(dataset.splits)),
            Store(root, wait=config.runtime.wait),
        )

    def run(self, commands: Sequence[str]) -> Iterator[Outcome]:
        """Runs stages one after the other and yields what each did.

        Raises:
            UserError: a missing input, or a stage that skipped too many images.
        """
        if process_count() > 1 and list(commands) != ["train"]:
            raise UserError("torchrun is for stage=train alone: run the other stages without it")
        return Run(
            self.steps(commands),
            self.images,
            self.store,
            Executor(self.config.executor, self.workers),
            self.config.runtime.max_failures,
            writes=process_rank() == 0,
        )()

    def plan(self, commands: Sequence[str]) -> Iterator[PlannedStage]:
        """Yields what a run would do, without computing or writing anything.

        Raises:
            UserError: what would stop the run.
        """
        return plan(self.steps(commands), self.images, self.store)

    # From images to pseudo masks

    def tags(self, split: str) -> Tags:
        """Returns the stage of a split's tags."""
        options: TagOptions = self.config.tags
        method = method_of(options)
        common = {"split": split, "vocabulary": self.vocabulary, "method": method}
        if method.stage:
            return method.stage(options=options, **common)
        resources = self.resources(method)
        return ScoredTags(options=options, resources=resources, reading=self.reading, **common)

    def cams(self, split: str, tags: Tags) -> CamStage:
        """Returns the stage of a split's CAMs."""
        options: CamOptions = self.config.cams
        method = method_of(options)
        common = {
            "split": split,
            "vocabulary": self.vocabulary,
            "method": method,
            "options": options,
            "reading": self.reading,
        }
        if method.stage:
            return method.stage(**common)
        return ComputedCams(resources=self.resources(method), needs={"tags": tags}, **common)

    def masks(self, split: str, cams: CamStage) -> Masks:
        """Returns the stage of a split's pseudo masks."""
        options: MaskOptions = self.config.masks
        method = method_of(options)
        return Masks(
            split=split,
            vocabulary=self.vocabulary,
            method=method,
            options=options,
            resources=self.resources(method),
            decode=self.decode,
            needs={"cams": cams},
        )

    # Training and prediction

    @property
    def train_split(self) -> str:
        """The split that a segmenter is trained on."""
        return self.images.dataset.train_split

    def _train_samples(self) -> Sequence[Sample]:
        return self.images.of(self.train_split)

    def _validation_samples(self) -> Sequence[Sample]:
        """Returns the images that a segmenter is measured on while it trains, which have masks."""
        if self.config.segmenter.validation_interval:
            for split in self.splits:
                if split != self.train_split:
                    labelled = [s for s in self.images.of(split) if s.mask is not None]
                    if labelled:
                        return labelled
        return ()

    def training(self, masks: Stage, number: int) -> Training:
        """Returns the stage that trains a segmenter on masks."""
        options = self.config.segmenter
        needs = {"masks": masks}
        if options.masks is not None and number == 1:
            data, needs = FolderMasks(options.masks, self._train_samples), {}
        else:
            weighted = options.pixel_weights is not None
            if weighted and not self.config.masks.keep_probability:
                raise UserError(
                    "segmenter.pixel_weights needs the CRF's probabilities: make the masks with"
                    " masks=crf_weighted"
                )
            data = StageMasks(masks, self.images, self.store, weighted)
        return Training(
            split="",
            round=number,
            needs=needs,
            options=options,
            seed=self.config.seed,
            device=self.device,
            vocabulary=self.vocabulary,
            decode=self.decode,
            data=data,
            validation=self._validation_samples,
        )

    def predictions(self, split: str, training: Training) -> Predictions:
        """Returns the stage of a segmenter's predictions for a split."""
        return Predictions(
            split=split,
            round=training.round,
            needs={"segmenter": training},
            options=self.config.segmenter,
            device=self.device,
            vocabulary=self.vocabulary,
            reading=replace(self.reading, prefetch=4),
        )

    def relabelled(self, split: str, training: Training, tags: Tags) -> Stage:
        """Returns the masks of the round after a training, which that segmenter predicts."""
        options = self.config.self_training
        return SegmenterMasks(
            split=split,
            round=training.round + 1,
            needs={"segmenter": training, **({"first_tags": tags} if options.keep_tags else {})},
            options=options,
            test=self.config.segmenter.test,
            keep_probability=self.config.masks.keep_probability,
            device=self.device,
            vocabulary=self.vocabulary,
            reading=replace(self.reading, prefetch=4),
        )

    # The list

    @cached_property
    def stages(self) -> list[Stage]:
        """All stages of all rounds on all splits, in their order."""
        # A segmenter is trained on the masks of its split, whatever splits the run works on.
        splits = dict.fromkeys([*self.splits, self.train_split])
        tags = {split: self.tags(split) for split in splits}
        cams = {split: self.cams(split, tags[split]) for split in splits}
        masks: dict[str, Stage] = {split: self.masks(split, cams[split]) for split in splits}
        stages: list[Stage] = [each[split] for each in (tags, cams) for split in self.splits]
        training: Training | None = None
        for number in range(1, self.config.rounds + 1):
            if training is not None:
                masks = {s: self.relabelled(s, training, tags[s]) for s in splits}
            training = self.training(masks[self.train_split], number)
            predictions = [self.predictions(split, training) for split in self.splits]
            stages += [masks[split] for split in self.splits]
            stages += self._with_comparison(training, predictions)
        return stages

    def _with_comparison(self, training: Training, predictions: list[Predictions]) -> list[Stage]:
        """Returns a network and its predictions, and those of a fully supervised one."""
        if not self.config.segmenter.ceiling:
            return [training, *predictions]
        supervised = replace(
            training,
            title="ground truth",
            needs={},
            accompanies=training,
            data=GroundTruthMasks(self._train_samples),
        )
        beside = [
            replace(
                each,
                title="ground truth",
                needs={"segmenter": supervised},
                accompanies=each,
            )
            for each in predictions
            if each.split != self.train_split
        ]
        return [training, supervised, *predictions, *beside]

    @cached_property
    def evaluations(self) -> list[Evaluation]:
        """The evaluation of each round."""
        return [
            Evaluation(
                stages=[stage for stage in self.stages if stage.round == number],
                images=self.images,
                vocabulary=self.vocabulary,
                betas=self.config.cams.background_betas,
                describe=self.describe,
                store=self.store,
                round=number,
            )
            for number in range(1, self.config.rounds + 1)
        ]

    @property
    def report(self) -> Report:
        """The report of all rounds."""
        material = partial(
            gather,
            self.stages,
            self.evaluations[-1],
            self.config.report,
            self.decode,
            self.workers,
        )
        return Report(gather=material, round=self.config.rounds)

    def describe(self, stage: Stage) -> dict[str, str]:
        """Returns what a table says beside the figures of a stage."""
        config = self.config
        return describe(
            stage,
            experiment=config.experiment_name,
            dataset=config.dataset,
            clip=config.clip,
            quirks=config.compat,
            precision=config.runtime.precision,
            segmenter=config.segmenter.name,
        )

    def steps(self, commands: Collection[str]) -> list[Stage | Review]:
        """Returns the steps that were asked for, in their order.

        Stages that can share a pass of the backbone, and are asked for together, do so.
        """
        chosen: list[Stage | Review] = [s for s in self.stages if s.command in commands]
        cams = {stage.split: stage for stage in chosen if isinstance(stage, ComputedCams)}
        for index, stage in enumerate(chosen):
            if isinstance(stage, ScoredTags) and stage.split in cams and _share(stage, cams):
                chosen[index] = replace(stage, follower=cams[stage.split])
        reviews = [*self.evaluations, self.report]
        chosen += [review for review in reviews if review.command in commands]
        return sorted(chosen, key=lambda step: (step.round, COMMANDS.index(step.command)))


def _share(tags: ScoredTags, cams: dict[str, ComputedCams]) -> bool:
    can_share = tags.method.shares_pass and cams[tags.split].method.shares_pass
    return can_share and not getattr(tags.options, "squeeze", False)
