"""Runs stages of the pipeline; ``--help`` shows the stages, the keys, and examples.

python tools/run_stage.py stage=tags                    one stage
python tools/run_stage.py stage=[tags,cams]             a list
python tools/run_stage.py                               all of them, on the demo
python tools/run_stage.py stage=status                  what is cached
python tools/run_stage.py dry_run=true                  what would be computed, and how long
python tools/run_stage.py dataset=folder dataset.root=DIR dataset.classes=[cat,cup] clip=vit_b16
"""

from __future__ import annotations

import difflib
import os
import re
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, NoReturn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from pipeline.commands.command_line import next_command
from pipeline.commands.given_values import refuse_other_types
from pipeline.commands.user_configs import refuse_programs
from pipeline.errors import ImageError, UserError
from pipeline.files.atomic import MENDABLE, cannot_write

if TYPE_CHECKING:
    from rich.console import Console

    from pipeline.engine.outcome import Outcome

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
USER_ERROR = 2
INTERRUPTED = 130


def run(config: DictConfig) -> None:
    """Runs what ``stage`` asks for and says what was written where.

    Raises:
        UserError: something that the user can fix.
    """
    from rich.console import Console

    from pipeline.engine.store import Store
    from pipeline.report.status import status_table

    console = Console(soft_wrap=True, highlight=False, markup=False)
    refuse_other_types(config, HydraConfig.get().runtime.choices)
    if config.stage == "status":
        root = Path(config.output_dir).expanduser().absolute()
        Console(width=max(console.width, 160)).print(status_table(Store(root)))
        return

    from pipeline import keys, stages
    from pipeline.cams import from_files
    from pipeline.project import Project
    from pipeline.segmenter.distributed import process_rank

    console.quiet = process_rank() > 0  # of several that torchrun started, the first speaks

    hydra_config = HydraConfig.get()
    if hydra_config.mode == RunMode.MULTIRUN:
        console.print(f"\n{', '.join(hydra_config.overrides.task)}")
    plain = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    requested = stages.parse_stages(plain["stage"])
    if plain["dry_run"]:
        show_plan(plain, requested, console)
        return
    project = Project(plain)
    for name in project.vocabulary.dropped:
        print(f"note: {name} is a class, and is left out of the backgrounds", file=sys.stderr)
    tagging = "tags" in requested and plain["tags"]["method"] in keys.USES_CLIP
    mapping = "cams" in requested and not from_files.is_chosen(plain)
    is_elsewhere = plain["clip"]["name"] == "demo" and plain["dataset"]["name"] != "demo"
    if is_elsewhere and (tagging or mapping):
        note = "note: the demo CLIP knows ten drawn objects; on photographs use clip=vit_b16"
        print(note, file=sys.stderr)
    outcome = None
    for outcome in stages.run(project, requested):
        console.print(describe(outcome))
        if outcome.path.suffix == ".md":
            console.print("\n" + outcome.path.read_text(encoding="utf-8"))
            console.print(f"written to {outcome.path}")
    if hydra_config.mode == RunMode.MULTIRUN or outcome is None:
        return
    if outcome.path.suffix == ".html":
        console.print(f"next: open {outcome.path} in a browser")
    elif following := list(stages.STAGES)[list(stages.STAGES).index(requested[-1]) + 1 :]:
        console.print(f"next: {next_command(sys.argv[1:], following[0])}")


def describe(outcome: Outcome) -> str:
    """Says in a line what a stage did for a split, and where the result lies."""
    left_out = f", {outcome.left_out} left out" if outcome.left_out else ""
    done = f"{outcome.computed} computed now, {outcome.cached} from the cache"
    images = f"{outcome.images} images, {done}{left_out}"
    if outcome.stage in ("report", "evaluate"):
        images = f"{outcome.images} images{left_out}" if left_out else ""
    counted = f"{images}  →  ".lstrip()
    return f"{outcome.stage:9} {outcome.split:16} {counted}{outcome.path}"


def show_plan(config: dict[str, Any], requested: Sequence[str], console: Console) -> None:
    """Shows what stages would compute; loads no model and writes nothing.

    Raises:
        UserError: what the run would end with; what comes before it is shown.
    """
    from rich.console import Console

    from pipeline.planning.plan import plan, without_writing
    from pipeline.planning.table import plan_table, total_time
    from pipeline.project import Project

    planned = []
    with without_writing(config) as harmless:
        try:
            for row in plan(Project(harmless), requested):
                planned.append(row)  # an error leaves those before it
        finally:
            if planned:
                Console(width=max(console.width, 120)).print(plan_table(planned))
    console.print(total_time(planned))
    console.print(f"next: {next_command(sys.argv[1:])}")


@hydra.main(config_path="../configs", config_name="config", version_base="1.3")
def compose(config: DictConfig) -> None:
    """Receives the composed configuration from Hydra, and ends with one sentence on errors."""
    # Errors end here, since Hydra would add lines of its own to them.
    try:
        run(config)
    except (UserError, ImageError, OmegaConfBaseException) as error:
        fail(error)
    except OSError as error:
        if error.errno not in MENDABLE:
            raise
        fail(cannot_write(error.filename, error))
    except KeyboardInterrupt:
        print("interrupted: run the same command again to go on", file=sys.stderr)
        sys.exit(INTERRUPTED)


def main() -> None:
    """Runs the command line; errors of the user end with one sentence and exit code 2."""
    # Hydra prints errors and exits with 1 on its own unless it is told to raise them.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    try:
        refuse_programs(sys.argv[1:])
        with ExitStack() as stack:
            names = [argument.lstrip("+").lower() for argument in sys.argv]
            if "dry_run=true" in names:
                # Where Hydra writes down what a multirun consists of. Its parser takes settings
                # only where others are.
                folder = stack.enter_context(TemporaryDirectory())
                sys.argv.insert(names.index("dry_run=true"), f"hydra.sweep.dir={folder}")
            compose()
    except (UserError, HydraException, OmegaConfBaseException) as error:
        fail(error)


def fail(error: Exception) -> NoReturn:
    """Ends the program with a sentence on stderr."""
    print(f"error: {explain(error)}", file=sys.stderr)
    sys.exit(USER_ERROR)


def explain(error: Exception) -> str:
    """Returns an error as one sentence with the remedy; Hydra's own take several lines."""
    text = " ".join(line.strip() for line in str(error).splitlines() if line.strip())
    if isinstance(error, MissingMandatoryValue):
        return f"{error.full_key} is missing: give it, {error.full_key}=…"
    if match := re.search(r"Could not override '([^']+)'", text):
        hint = nearest_name(match[1], all_keys())
        return (
            f"there is no key {match[1]}: {hint}python tools/run_stage.py --cfg job shows them all"
        )
    choices = r"Could not find '(\w+)/([^']+)' Available options in '\w+': (.*?) Config search"
    if match := re.search(choices, text):
        group, choice, known = match.groups()
        names = [name for name in known.split() if name != "default"]  # what the others build on
        hint = nearest_name(choice, names)
        return f"there is no {group}={choice}: {hint}choose from {', '.join(names)}"
    return text


def nearest_name(wrong: str, known: Sequence[str]) -> str:
    """Returns the nearest of what is known as a question, or nothing."""
    last = wrong.rpartition(".")[2]
    elsewhere = [name for name in known if name.rpartition(".")[2] == last]
    near = elsewhere[:1] or difflib.get_close_matches(wrong, known, 1)
    return f"did you mean {near[0]}? " if near else ""


def all_keys() -> list[str]:
    """Returns every key of the configuration with its default choices, groups among them."""
    GlobalHydra.instance().clear()
    with hydra.initialize_config_dir(str(CONFIGS), version_base="1.3"):
        config = OmegaConf.to_container(hydra.compose("config"))
    pending, keys = [("", config)], []
    while pending:
        prefix, node = pending.pop()
        for name, value in node.items():
            keys.append(f"{prefix}{name}")
            if isinstance(value, dict):
                pending.append((f"{prefix}{name}.", value))
    return keys


if __name__ == "__main__":
    main()
