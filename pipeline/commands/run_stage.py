"""Runs stages of the pipeline; ``--help`` shows the stages, the keys, and examples."""

import gc
from collections.abc import Sequence
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from pipeline.commands.command_line import Parser, next_command
from pipeline.commands.composition import compose_jobs
from pipeline.commands.settings_help import help_on, listed_choices
from pipeline.configuration.hydra import choices, take_plugins
from pipeline.configuration.plugins import import_plugins
from pipeline.errors import UserError, as_started, shown
from pipeline.files.text import given_path


def run(arguments: Sequence[str]) -> None:
    """Does what the command line asks for, a job after the other."""
    gc.disable()  # while stages are imported, of which nothing is garbage
    if {"-h", "--help", "help"} & {*arguments}:
        plugins, words = take_plugins([a for a in arguments if not a.startswith("-")])
        import_plugins(plugins)
        asked = [word for word in words if word != "help"] if "help" in words else ()
        print("\n".join(map(help_on, asked)) or help_text(), end="")
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
    for config, combination in compose_jobs(overrides, options.config_dir, options.multirun):
        if options.cfg:
            print(OmegaConf.to_yaml(config), end="")
        elif config.stage == "status":
            _show_status(config, arguments)
        else:
            from pipeline.commands.running import run_job  # imports all stages

            run_job(config, combination, arguments)


def _show_status(config: DictConfig, given: Sequence[str]) -> None:
    from rich.console import Console

    from pipeline.commands.status import status_table
    from pipeline.engine.results import Results, describe_ways
    from pipeline.engine.store import Store

    if not isinstance(root := config.output_dir, str) or not root or "\0" in root:
        raise UserError("output_dir is not the name of a folder: give it, output_dir=…")
    root = given_path(root, "output_dir").absolute()
    folders, console = Store(root).folders(), Console(soft_wrap=True, markup=False)
    if folders:
        Console(width=max(console.width, 160)).print(status_table(root, folders))
        said = (describe_ways(Results(path)) for path, _ in folders)
        for text in dict.fromkeys(filter(None, said)):
            console.print(f"note: {text}", highlight=False)
    else:
        given_in = (name for name in ("masks", "cams") if "path" in config[name])
        next_one = next_command(given, next(given_in, "tags"))
        console.print(f"{root} holds no results yet: run {next_one}", highlight=False)


def help_text() -> str:
    """Returns what ``--help`` shows, with the choices of each group."""
    text = as_started(Path(__file__).with_suffix(".txt").read_text(encoding="utf-8"))
    return text.replace("$CHOICES", "\n".join(map(listed_choices, sorted(choices()))))
