"""Runs the stages of a job, or shows what they would compute."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace

from omegaconf import DictConfig
from rich.console import Console

from pipeline.clip.method_stage import MethodStage
from pipeline.commands.command_line import collect_garbage, next_command, print_notes
from pipeline.commands.status import nothing_to_compute, plan_table
from pipeline.datasets.demo import without_drawing
from pipeline.datasets.settings import RENDERED
from pipeline.datasets.sources import find_size
from pipeline.engine.results import FAILURES
from pipeline.engine.run import Outcome
from pipeline.errors import SAME_SETTINGS, NeedsStage, UserError, command, shown, tell
from pipeline.files.download import size_text
from pipeline.report.tables.latest import tables_of_run
from pipeline.report.tables.published import remark_on_clip
from pipeline.segmenter.distributed import process_rank
from pipeline.segmenter.settings import SegmenterSettings
from pipeline.stages.config import METHODS, read_config
from pipeline.stages.pipeline import Pipeline, parse_stages, requested_stages
from pipeline.stages.weights import missing_weights, named

_MAX_NAMED = 5  # skipped images of a step


def run_job(composed: DictConfig, combination: Sequence[str], given: Sequence[str]) -> None:
    """Runs the stages of a job, or of a study's ``combination``; prints what was written where."""
    collect_garbage()
    # Of several processes that torchrun started, the first one prints.
    console = Console(soft_wrap=True, highlight=False, markup=False, quiet=process_rank() > 0)
    if combination:
        console.print(f"\n{', '.join(combination)}")
    config = read_config(composed)
    requested = requested_stages(config)
    with without_drawing() if config.dry_run else nullcontext():
        # The report names a command without corrections, which it replaces, and with tags.
        kept = [a for a in given if not a.lstrip("+").startswith("tags.corrections=")]
        stages = None if "tags" in requested else "[tags,cams,masks,report]"
        again = "" if combination else next_command(kept, stages)
        pipeline = replace(Pipeline.open(config), command=again)
        print_notes(notes_on(pipeline, requested, given))
        with append_command(pipeline, requested, given):
            if config.dry_run:
                show_plan(pipeline, requested, console)
                console.print(f"next: {next_command(given)}")
                return
            outcome, measured = None, []
            for outcome in pipeline.run(requested):
                console.print(describe_outcome(outcome))
                if outcome.stage == "evaluate":
                    measured.append(outcome.split)
                for image_id, reason in [*outcome.left_out.items()][:_MAX_NAMED]:
                    tell(f"left out: {shown(image_id)}: {reason}")
                if (more := len(outcome.left_out) - _MAX_NAMED) > 0:
                    tell(f"left out: {more} more, see {outcome.path / FAILURES}")
                print_notes(filter(None, [outcome.note]))
                if outcome.path.suffix == ".md":
                    console.print("\n" + outcome.path.read_text(encoding="utf-8"))
                    console.print(f"written to {outcome.path}")
    if measured and "report" not in requested:
        tables = tables_of_run(pipeline.builder.store.root, measured)
        console.print("".join(f"\n{table.title}\n{table.text}" for table in tables))
    if combination or outcome is None:
        return
    every = parse_stages("all")
    if outcome.path.suffix == ".html":
        console.print(f"next: open {outcome.path} in a browser")
    elif following := every[every.index(requested[-1]) + 1 :]:
        of_run = (s for split in pipeline.builder.splits for s in pipeline.builder.images.of(split))
        if following[0] == "evaluate" and not any(s.has_ground_truth for s in of_run):
            del following[0]
        console.print(f"next: {next_command(given, following[0])}")


@contextmanager
def append_command(
    pipeline: Pipeline, requested: Sequence[str], given: Sequence[str]
) -> Iterator[None]:
    """Completes an error by the settings, and by the command if it advises to run a stage.

    It runs all stages that those need that were requested; what is cached takes no time.
    """
    try:
        yield
    except NeedsStage as error:
        builder, commands = pipeline.builder, {error.stage, *requested}
        for stage in reversed(builder.stages):
            if stage.command in commands:
                commands |= {need.command for need in stage.needs.values()}
        if "train" in commands and builder.train_split not in builder.splits:
            given = [a for a in given if not a.lstrip("+").startswith("dataset.split=")]
            given.append(f"dataset.split=[{','.join([builder.train_split, *builder.splits])}]")
        advised = next_command(given, f"[{','.join(parse_stages([*commands]))}]")
        raise UserError(f"{error}: {advised}") from error
    except UserError as error:
        settings = next_command(given).removeprefix(f"{command()} ")
        raise UserError(str(error).replace(SAME_SETTINGS, settings)) from error


def describe_outcome(outcome: Outcome) -> str:
    """Returns a line on what a stage did for a split, and where the result lies."""
    counts = [f"{outcome.images} images"]
    if outcome.stage not in ("report", "evaluate"):
        cached = outcome.images - len(outcome.left_out) - outcome.computed - outcome.reused
        counts += [f"{outcome.computed} computed now", f"{cached} from the cache"]
    if outcome.reused:
        counts.append(f"{outcome.reused} reused from other settings")
    if outcome.left_out:
        without = f" ({n} without an entry)" if (n := len(outcome.absent)) else ""
        counts.append(f"{len(outcome.left_out)} left out{without}")
    counted = f"{', '.join(counts)}  →  " if len(counts) > 1 else "→  "
    return f"{outcome.stage:9} {outcome.split:16} {counted}{outcome.path}"


def notes_on(pipeline: Pipeline, requested: Sequence[str], given: Sequence[str]) -> Iterator[str]:
    """Yields what the user should know of data set, settings and presets, a sentence each."""
    builder = pipeline.builder
    config = builder.config
    for name in builder.vocabulary.dropped:
        yield f"{name} is a class, and is left out of the backgrounds"
    yield from builder.images.dataset.notes
    for group in METHODS:
        yield from getattr(config, group).without_effect(group)
    if config.tags.corrections and (chosen := pipeline.reads_no_tags):
        yield f"tags.corrections does not change masks, because {chosen} does not read tags"
    if corrections := builder.corrections:
        splits = {*builder.splits, *([builder.train_split] if "train" in requested else ())}
        of_run = ((split, s.id) for split in splits for s in builder.images.of(split))
        if not any(image_id in corrections.get(split, ()) for split, image_id in of_run):
            yield (
                f"{config.tags.corrections} corrects no image of this run: see dataset.split and"
                " dataset.limit"
            )
    is_given = config.segmenter.repeat_corrected != SegmenterSettings.repeat_corrected
    if is_given and not config.masks.corrections:
        yield "segmenter.repeat_corrected has no effect without masks.corrections"
    # Of presets of methods, those that were typed.
    for preset in (config.experiment_name or "", *(argument.lstrip("+") for argument in given)):
        if remark := remark_on_clip(preset, config.clip.name):
            yield remark
    is_elsewhere = config.clip.name == "demo" and config.dataset.name not in RENDERED
    stages = (s for s in pipeline.stages(requested) if isinstance(s, MethodStage))
    if is_elsewhere and any(stage.options.method.uses_clip for stage in stages):
        yield "the demo CLIP recognises only ten drawn objects; on photographs use clip=vit_b16"


def show_plan(pipeline: Pipeline, requested: Sequence[str], console: Console) -> None:
    """Shows what stages would compute, up to what would stop the run; loads and writes nothing."""
    planned = []
    try:
        for row in pipeline.plan(requested):
            planned.append(row)
            print_notes(filter(None, [row.note]))
        splits = {stage.split for stage in pipeline.stages(requested)}
        samples = (s for split in splits for s in pipeline.builder.images.of(split))
        if undrawn := sum(not sample.is_there for sample in samples):
            print_notes([f"the run first draws {undrawn:,} scenes"])
        if missing := missing_weights(pipeline.builder, requested):
            clip, sizes = pipeline.builder.config.clip, {}
            for key, source in missing.items():
                of = {"clip": "CLIP", "segmenter": "network"}
                what = of.get(key.partition(".")[0], "second backbone")
                model = clip.model if what == "CLIP" else ""
                size = size_text(find_size(model, clip.pretrained or "", source.urls[0]))
                sizes.setdefault(what, {})[model or source.urls[0]] = size  # CLIP's of all files
            said = ", ".join(f"{what}: {' and '.join(s.values())}" for what, s in sizes.items())
            print_notes([f"the run first downloads the weights {named(missing.values())} ({said})"])
        if any(row.stage == "segmenter" and row.to_compute for row in planned):
            print_notes([f"the network is {pipeline.builder.config.segmenter.name}"])
    finally:
        if planned:
            Console(width=max(console.width, 120)).print(plan_table(planned))
    if sentence := nothing_to_compute(planned):
        console.print(sentence)
