"""The list of a configuration's stages, with all that each is built from.

image → tags → cams → masks → train → predict → evaluate → report
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path

import torch

from pipeline.cams.stage import ComputedCams
from pipeline.datasets import load_dataset
from pipeline.datasets.sample import splits_of_run
from pipeline.engine.outcome import Outcome
from pipeline.engine.plan import PlannedStage, plan
from pipeline.engine.run import Run
from pipeline.engine.scan import Images
from pipeline.engine.settings import plain
from pipeline.engine.stage import Review, Stage
from pipeline.engine.store import Store
from pipeline.engine.workers import Executor
from pipeline.errors import UserError
from pipeline.evaluation.about import describe
from pipeline.evaluation.stage import Evaluation
from pipeline.files.fingerprints import remember_in
from pipeline.report.material import gather
from pipeline.report.stage import Report
from pipeline.segmenter.distributed import process_count, process_rank
from pipeline.segmenter.stage import Training
from pipeline.stages.builder import Builder
from pipeline.stages.config import COMMANDS, Config
from pipeline.tags.stage import ScoredTags


@dataclass(frozen=True)
class Pipeline:
    """All stages of a configuration.

    Attributes:
        builder: builds them.
    """

    builder: Builder

    @classmethod
    def open(cls, config: Config) -> Pipeline:
        """Reads the data set of a configuration.

        Raises:
            UserError: the data set, or a setting, cannot be used.
        """
        root = Path(config.output_dir).expanduser().absolute()
        # A dry run writes nothing, not even what would save the next one some reading.
        remember_in(root, write=not config.dry_run)
        if config.runtime.threads:
            torch.set_num_threads(config.runtime.threads)
        workers = config.runtime.workers or torch.multiprocessing.cpu_count()
        dataset = load_dataset(config.dataset, workers)
        builder = Builder(
            config,
            dataset.vocabulary,
            Images(dataset, config.dataset.limit),
            splits_of_run(config.dataset, dataset.splits),
            Store(root, wait=config.runtime.wait),
        )
        return cls(builder)

    def run(self, commands: Sequence[str]) -> Iterator[Outcome]:
        """Runs stages one after the other and yields what each did.

        Raises:
            UserError: a missing input, or a stage that skipped too many images.
        """
        if process_count() > 1 and list(commands) != ["train"]:
            raise UserError("torchrun is for stage=train alone: run the other stages without it")
        return Run(
            self.steps(commands),
            self.builder.images,
            self.builder.store,
            Executor(self.builder.config.executor, self.builder.workers),
            self.builder.config.runtime.max_failures,
            writes=process_rank() == 0,
        )()

    def plan(self, commands: Sequence[str]) -> Iterator[PlannedStage]:
        """Yields what a run would do, without computing or writing anything.

        Raises:
            UserError: what would stop the run.
        """
        return plan(self.steps(commands), self.builder.images, self.builder.store)

    # The list

    @cached_property
    def stages(self) -> list[Stage]:
        """All stages of all rounds on all splits, in their order."""
        # A segmenter is trained on the masks of its split, whatever splits the run works on.
        splits = dict.fromkeys([*self.builder.splits, self.builder.train_split])
        tags = {split: self.builder.tags(split) for split in splits}
        cams = {split: self.builder.cams(split, tags[split]) for split in splits}
        masks: dict[str, Stage] = {
            split: self.builder.masks(split, cams[split]) for split in splits
        }
        stages: list[Stage] = [
            each[split] for each in (tags, cams) for split in self.builder.splits
        ]
        training: Training | None = None
        for number in range(1, self.builder.config.rounds + 1):
            if training is not None:
                masks = {s: self.builder.relabelled(s, training, tags[s]) for s in splits}
            training = self.builder.training(masks[self.builder.train_split], number)
            predictions = [
                self.builder.predictions(split, training) for split in self.builder.splits
            ]
            stages += [masks[split] for split in self.builder.splits]
            stages += self.builder.networks(training, predictions)
        return stages

    @cached_property
    def evaluations(self) -> list[Evaluation]:
        """The evaluation of each round."""
        return [
            Evaluation(
                stages=[stage for stage in self.stages if stage.round == number],
                images=self.builder.images,
                vocabulary=self.builder.vocabulary,
                betas=plain(self.builder.config.cams.background_betas),
                describe=self.describe,
                store=self.builder.store,
                round=number,
            )
            for number in range(1, self.builder.config.rounds + 1)
        ]

    @property
    def report(self) -> Report:
        """The report of all rounds."""
        material = partial(
            gather,
            self.stages,
            self.evaluations[-1],
            self.builder.config.report,
            self.builder.decode,
            self.builder.workers,
        )
        return Report(gather=material, round=self.builder.config.rounds)

    def describe(self, stage: Stage) -> dict[str, str]:
        """Returns what a table says beside the figures of a stage."""
        config = self.builder.config
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
