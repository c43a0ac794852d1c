"""Runs stages of the pipeline; ``--help`` shows the stages, the keys, and examples."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, get_type_hints

from omegaconf import OmegaConf
from rich.console import Console

from pipeline.commands.command_line import Parser, next_command, rank
from pipeline.commands.composition import Job, compose_jobs
from pipeline.commands.status import plan_table, status_table, total_time
from pipeline.datasets.demo import redirect_writes
from pipeline.datasets.scenes import RENDERED
from pipeline.engine.configuration import choices, take_plugins
from pipeline.engine.folder import FAILURES
from pipeline.engine.registry import import_plugins
from pipeline.engine.run import Outcome
from pipeline.engine.settings import REQUIRED, defaults, meanings
from pipeline.engine.store import Store
from pipeline.errors import NotLocal, UserError, as_started, shown
from pipeline.files.text import given_path
from pipeline.report.published import remark_on_clip
from pipeline.report.tables import tables_of_run
from pipeline.stages.config import METHODS, Config, read_config
from pipeline.stages.pipeline import Pipeline, parse_stages, requested_stages

_GROUPS = ("images", "runtime", "self_training", "report")  # without choices
_MAX_NAMED = 5  # skipped images of a step


def run_job(job: Job, given: Sequence[str]) -> None:
    """Runs what ``stage`` asks for and prints what was written where; ``given`` was typed."""
    composed, is_multirun = job.config, bool(job.overrides)
    # Of several processes that torchrun started, the first one prints.
    console = Console(soft_wrap=True, highlight=False, markup=False, quiet=rank() > 0)
    if composed.stage == "status":
        if not isinstance(composed.output_dir, str) or not composed.output_dir:
            raise UserError("output_dir is not the name of a folder: give it, output_dir=…")
        root = given_path(composed.output_dir, "output_dir").absolute()
        table = status_table(Store(root))
        if table.row_count:
            Console(width=max(console.width, 160)).print(table)
        else:
            console.print(f"{root} holds no results yet: run {next_command(given, 'tags')}")
        return
    if is_multirun:
        console.print(f"\n{', '.join(job.overrides)}")
    config = read_config(composed)
    requested = requested_stages(config)
    with redirect_writes(config.dataset) if config.dry_run else nullcontext():
        pipeline = Pipeline.open(config)
        print_notes(notes_on(pipeline, requested, given))
        if config.dry_run:
            show_plan(pipeline, requested, console)
            console.print(f"next: {next_command(given)}")
            return
    outcome, measured = None, []
    for outcome in pipeline.run(requested):
        console.print(describe(outcome))
        measured += [outcome.split] * (outcome.stage == "evaluate")
        name_left_out(outcome)
        print_notes(filter(None, [outcome.note]))
        if outcome.path.suffix == ".md":
            console.print("\n" + outcome.path.read_text(encoding="utf-8"))
            console.print(f"written to {outcome.path}")
    if measured and "report" not in requested:
        tables = tables_of_run(pipeline.builder.store.root, measured)
        console.print("".join(f"\n{table.title}\n{table.text}" for table in tables))
    if is_multirun or outcome is None:
        return
    every = parse_stages("all")
    if outcome.path.suffix == ".html":
        console.print(f"next: open {outcome.path} in a browser")
    elif following := every[every.index(requested[-1]) + 1 :]:
        console.print(f"next: {next_command(given, following[0])}")


def describe(outcome: Outcome) -> str:
    """Returns a line on what a stage did for a split, and where the result lies."""
    counts = [f"{outcome.images} images"]
    if outcome.stage not in ("report", "evaluate"):
        counts += [f"{outcome.computed} computed now", f"{outcome.cached} from the cache"]
    if outcome.reused:
        counts.append(f"{outcome.reused} reused from other settings")
    if outcome.left_out:
        counts.append(f"{len(outcome.left_out)} left out")
    counted = f"{', '.join(counts)}  →  " if len(counts) > 1 else "→  "
    return f"{outcome.stage:9} {outcome.split:16} {counted}{outcome.path}"


def name_left_out(outcome: Outcome) -> None:
    """Names the first skipped images of a step on stderr, and the file that names them all."""
    for image_id, reason in [*outcome.left_out.items()][:_MAX_NAMED]:
        print(f"left out: {shown(image_id)}: {reason}", file=sys.stderr)
    if (more := len(outcome.left_out) - _MAX_NAMED) > 0:
        print(f"left out: {more} more, see {outcome.path / FAILURES}", file=sys.stderr)


def print_notes(notes: Iterable[str]) -> None:
    """Prints what the user should know on stderr."""
    for note in notes:
        print(f"note: {note}", file=sys.stderr)


def notes_on(pipeline: Pipeline, requested: Sequence[str], given: Sequence[str]) -> Iterator[str]:
    """Yields what the user should know about data set, settings and presets, a sentence each."""
    builder = pipeline.builder
    config = builder.config
    for name in builder.vocabulary.dropped:
        yield f"{name} is a class, and is left out of the backgrounds"
    yield from builder.images.dataset.notes
    for group in METHODS:
        if hasattr(options := getattr(config, group), "without_effect"):
            yield from options.without_effect(group)
    # Of presets of methods, those that were typed.
    for preset in (config.experiment_name or "", *(argument.lstrip("+") for argument in given)):
        if remark := remark_on_clip(preset, config.clip.name):
            yield remark
    is_elsewhere = config.clip.name == "demo" and config.dataset.name not in RENDERED
    if is_elsewhere and any(getattr(s, "uses_clip", False) for s in pipeline.stages(requested)):
        yield "the demo CLIP knows ten drawn objects; on photographs use clip=vit_b16"


def show_plan(pipeline: Pipeline, requested: Sequence[str], console: Console) -> None:
    """Shows what stages would compute, up to what would stop the run; loads and writes nothing."""
    planned = []
    try:
        for row in pipeline.plan(requested):
            planned.append(row)
            print_notes(filter(None, [row.note]))
        pipeline.fetch_weights(requested, download=False)
    except NotLocal as missing:
        print_notes([f"the run first downloads the weights {missing}"])
    finally:
        if planned:
            Console(width=max(console.width, 120)).print(plan_table(planned))
    console.print(total_time(planned))


def run(arguments: Sequence[str]) -> None:
    """Does what the command line asks for, a job after the other.

    Raises:
        UserError: an argument, a file of settings or what a stage needs cannot be used.
    """
    if {"-h", "--help"} & {*arguments}:
        print(help_text(), end="")
        return
    parser = Parser("run_stage.py", "")
    parser.add_argument("overrides", nargs="*")
    parser.add_argument("--config-dir", "-cd", type=Path)
    parser.add_argument("--multirun", "-m", action="store_true")
    parser.add_argument("--cfg", "-c", choices=["job"])
    options, unknown = parser.parse_known_intermixed_args(arguments)
    if unknown:
        wrong = shown(unknown[0])
        raise UserError(f"unknown option {wrong}: give settings as KEY=VALUE; see --help")
    plugins, overrides = take_plugins(options.overrides)
    import_plugins(plugins)
    for job in compose_jobs(overrides, options.config_dir, options.multirun):
        if options.cfg:
            print(OmegaConf.to_yaml(job.config), end="")
        else:
            run_job(job, arguments)


def help_text() -> str:
    """Returns what ``--help`` shows."""
    names = {group: ", ".join(sorted(names)) for group, names in choices().items()}
    listed = "\n".join(f"  {group}: {names[group]}" for group in sorted(names))
    text = Path(__file__).with_suffix(".txt").read_text(encoding="utf-8")
    return as_started(text).replace("$KEYS", "\n".join(_keys())).replace("$CHOICES", listed)


def _keys() -> Iterator[str]:
    """Yields the keys that every run has, each with its default and its meaning."""
    kinds = get_type_hints(Config)
    for group, kind in {"": Config, **{group: kinds[group] for group in _GROUPS}}.items():
        meaning_of = meanings(kind)
        for name, default in defaults(kind).items():
            if default == REQUIRED:
                continue
            key = f"{group}.{name}={_as_yaml(default)}".lstrip(".")
            meaning = meaning_of.get(name, "").replace("``", "").removesuffix(".")
            yield textwrap.fill(
                f"  {key:33}  {meaning}", 100, subsequent_indent=" " * 37, break_on_hyphens=False
            )


def _as_yaml(value: Any) -> str:  # noqa: ANN401
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)
