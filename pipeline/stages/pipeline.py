"""The list of a configuration's stages, with all that each is built from.

image → tags → cams → masks → train → predict → evaluate → report
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from pipeline.cams.stage import ComputedCams
from pipeline.clip.device import is_cpu, keep_freed_memory
from pipeline.datasets import load_dataset
from pipeline.datasets.folder import load_folder
from pipeline.datasets.settings import splits_of_run
from pipeline.engine.learned import Learned
from pipeline.engine.plan import PlannedStage, in_round, plan
from pipeline.engine.pool import count_cores
from pipeline.engine.progress import course
from pipeline.engine.run import Outcome, Run
from pipeline.engine.sample import Images, Splits
from pipeline.engine.stage import Stage
from pipeline.engine.store import Store
from pipeline.engine.workers import Executor
from pipeline.errors import UserError, check_choice, shown
from pipeline.evaluation import stage as evaluation
from pipeline.files.atomic import write_atomically
from pipeline.files.fingerprints import remember_in
from pipeline.files.text import given_path
from pipeline.report.page import stage as report
from pipeline.segmenter.distributed import process_count, process_rank
from pipeline.stages.builder import PER_SPLIT, Builder, masks_stage
from pipeline.stages.config import CONFIG, Config, record
from pipeline.stages.weights import fetch_weights
from pipeline.tags.stage import ScoredTags

_FILES = (*evaluation.FILES, *report.FILES, CONFIG)

COMMANDS = (*PER_SPLIT, "train", "predict", "evaluate", "report")
"""The values of ``stage=``, in the order of the pipeline."""


def parse_stages(requested: str | Sequence[str]) -> list[str]:
    """Returns the requested stages in order, every one for "all"; a UserError for other names."""
    names = [requested] if isinstance(requested, str) else requested
    if not isinstance(names, list | tuple) or not names:
        raise UserError(
            f"stage={shown(requested or [])} names no stage: choose from {', '.join(COMMANDS)}"
        )
    for name in names:
        if name == "status":
            raise UserError("stage=status cannot be combined with other stages: leave them out")
        check_choice(f"there is no stage {shown(name)}", name, (*COMMANDS, "all", "status"))
    return [command for command in COMMANDS if command in names or "all" in names]


def requested_stages(config: Config) -> list[str]:
    """Returns the stages that a configuration asks for, as :func:`parse_stages` does.

    Where masks are not made from CAMs, "all" skips the stages before them that no other reads.
    """
    names = parse_stages(config.stage)
    if "all" not in config.stage or masks_stage(config).from_cams:
        return names
    keeps_tags = config.rounds > 1 and config.self_training.keep_tags
    spared = {"cams"} if keeps_tags else {"tags", "cams"}
    return [name for name in names if name not in spared or name in config.stage]


@dataclass(frozen=True)
class Pipeline:
    """All stages of a configuration; the report repeats the ``command`` line of the run."""

    builder: Builder
    command: str = ""
    _checked: dict[tuple[str, ...], list[Stage]] = field(default_factory=dict)

    @classmethod
    def open(cls, config: Config) -> Pipeline:
        """Reads the data set of a configuration; raises a UserError if it cannot be used."""
        root = given_path(config.output_dir, "output_dir").absolute()
        # A dry run writes nothing that would save the next one some reading, except the index of a
        # large file of masks.
        remember_in(root, write=not config.dry_run)
        if config.runtime.threads:
            import torch

            torch.set_num_threads(config.runtime.threads)
        dataset = load_dataset(config.dataset, config.runtime.workers or count_cores())
        vocabulary, further = dataset.vocabulary, Splits()
        for name, folder in config.cams.folders.items():
            settings = replace(config.dataset, root=folder)
            further[name] = partial(load_folder, settings, name, name, vocabulary)
        builder = Builder(
            config,
            vocabulary,
            Images(dataset, config.dataset.limit, further),
            splits_of_run(config.dataset, dataset.splits),
            Store(root, wait=config.runtime.wait),
        )
        return cls(builder)

    @property
    def reads_no_tags(self) -> str:
        """The choice of the configuration by which masks are made without tags, or ""."""
        stages = self.builder.per_split(self.builder.splits[0])
        if "cams" not in stages["masks"].before:
            return stages["masks"].chosen
        return stages["cams"].chosen if "tags" not in stages["cams"].before else ""

    def run(self, commands: Sequence[str]) -> Iterator[Outcome]:
        """Runs stages one after the other and yields what each did.

        Raises a UserError for a missing input or a stage that skipped too many images, and an
        ImportError if OpenCV, which a training requires, lacks a library of the system.
        """
        if process_count() > 1 and list(commands) != ["train"]:
            raise UserError(
                "torchrun is only for stage=train: run the other stages without it, and without"
                " its RANK and WORLD_SIZE in the environment"
            )
        builder, config = self.builder, self.builder.config
        if (one_pass := config.runtime.one_pass) is None:
            one_pass = not is_cpu(builder.device)
        if is_cpu(builder.device):
            keep_freed_memory()
        stages = self.stages(commands)
        fetch_weights(builder, commands)
        with Run(
            builder.images,
            builder.store,
            Executor(config.executor, builder.workers, one_pass=one_pass),
            config.runtime.max_failures,
            files=_FILES,
            writes=process_rank() == 0,
            counterparts=builder.counterparts,
        ) as run:
            if run.writes:
                write_atomically(builder.store.root / CONFIG, record(config, self.command))
            course["of"] = len({(stage.round, stage.command) for stage in stages})
            course["of"] += config.rounds * ("evaluate" in commands) + ("report" in commands)
            for number in range(1, config.rounds + 1):
                yield from run.compute(stage for stage in stages if stage.round == number)
                if "evaluate" in commands:
                    outcomes, course["stage"] = [], course["stage"] + 1
                    for outcome in self._evaluation(number).measure(commands):
                        outcomes.append(outcome)
                        yield outcome
                    run.refuse_failures(outcomes)
            if "report" in commands:
                course["stage"] += 1
                yield from report.write(
                    builder.stages,
                    self._evaluation(config.rounds),
                    config.report,
                    read=builder.reader,
                    corrections=builder.corrections,
                    command=self.command,
                    workers=builder.workers,
                )

    def plan(self, commands: Sequence[str]) -> Iterator[PlannedStage]:
        """Yields what a run would do, writing nothing; raises the UserError that would stop it."""
        builder, scans = self.builder, {}
        builder.store.check(_FILES)
        stages = self.stages(commands)
        for number in range(1, builder.config.rounds + 1):
            of_round = [stage for stage in stages if stage.round == number]
            yield from plan(of_round, builder.images, builder.store, scans)
            if "evaluate" in commands:
                self._evaluation(number).require_results(commands)
                yield PlannedStage("evaluate", in_round("", number))
        if "report" in commands:
            yield PlannedStage("report", in_round("", builder.config.rounds))

    def _evaluation(self, number: int) -> evaluation.Evaluation:
        builder = self.builder
        return evaluation.Evaluation(
            stages=[stage for stage in builder.stages if stage.round == number],
            images=builder.images,
            vocabulary=builder.vocabulary,
            config=builder.config,
            store=builder.store,
            counterparts=builder.counterparts,
        )

    def stages(self, commands: Collection[str]) -> list[Stage]:
        """Returns the stages that were asked for, in their order; they are checked once.

        CAMs that can share a pass of the backbone with tags, and are asked for together with them,
        ride with these. Before a stage come those that learn what it uses, unless that is there.
        Raises a UserError if a stage that was asked for cannot be computed with its settings.
        """
        if (found := self._checked.get((*commands,))) is not None:
            return found
        chosen = [stage for stage in self.builder.stages if stage.command in commands]
        computed = [stage for stage in chosen if isinstance(stage, ComputedCams)]
        cams = {stage.split: stage for stage in computed if stage.options.shares_pass}
        for index, stage in enumerate(chosen):
            shares = isinstance(stage, ScoredTags) and stage.options.shares_pass
            if shares and stage.split in cams:
                chosen[index] = replace(stage, rider=cams[stage.split])
        stages, shown_split = with_needs(chosen), self.builder.config.report.split
        if "report" in commands and shown_split is not None:
            wrong = f"report.split={shown(shown_split)} is not a split of this run"
            check_choice(wrong, shown_split, self.builder.splits)
        for stage in stages:
            stage.check()
        self._checked[(*commands,)] = stages
        return stages


def with_needs(stages: Iterable[Stage], found: dict[Stage, None] | None = None) -> list[Stage]:
    """Returns stages, each after those stages of its own command that it needs.

    What is only needed to learn something that need not be learned is not among them. Those
    ``found`` already come first.
    """
    found = {} if found is None else found
    for stage in stages:
        if stage not in found:
            is_settled = isinstance(stage, Learned) and stage.is_settled()
            needs = () if is_settled else stage.needs.values()
            with_needs((need for need in needs if need.command == stage.command), found)
            found[stage] = None
    return [*found]
