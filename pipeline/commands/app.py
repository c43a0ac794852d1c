"""The command line of ``tools/app.py``."""

import os
import re
import shlex
import shutil
import signal
import sys
import tempfile
import webbrowser
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path

from psutil import pid_exists

from pipeline.app import BEGUN, ENDED, LOG, NOT_COMPARED, RUN
from pipeline.commands.command_line import Parser, check_folder
from pipeline.commands.composition import naming_code
from pipeline.commands.console import main
from pipeline.configuration.hydra import take_plugins
from pipeline.configuration.plugins import import_plugins
from pipeline.errors import UserError, shown
from pipeline.files.atomic import canonical_json, open_own, write_atomically
from pipeline.files.lock import FolderLock
from pipeline.files.text import given_path
from pipeline.report.tables.configurations import flatten
from pipeline.stages.config import CONFIG, Config, read_config, read_run

_UPLOADS = "afseg-app-"


def run(arguments: Sequence[str]) -> None:
    """Serves the page until Ctrl-C, or runs what its button starts."""
    if arguments[:1] == [RUN[-1]]:
        return run_started(Path(arguments[1]), arguments[2:])
    parser = Parser("app.py", "Opens a page in a browser, which only this machine can reach.")
    add = parser.add_argument
    words = "photographs or a run, and settings; classes= is short for dataset.classes="
    add("words", nargs="*", metavar="FOLDER or KEY=VALUE", help=words)
    add("--limit", type=int, default=200, metavar="N", help="read at most N photographs; 200")
    add("--port", type=int, help="port of the page; default: a free one")
    add("--no-browser", action="store_true", help="only print the address")
    again = "repeat a finished run with the corrections in FILE and compare, without a page"
    add("--run", metavar="FILE", help=again)
    options = parser.parse_intermixed_args(arguments)
    plugins, words = take_plugins(options.words)
    words = [re.sub(r"^dataset\.(classes|backgrounds)=", r"\1=", word) for word in words]
    import_plugins(plugins)
    settings = dict(word.partition("=")[::2] for word in words if "=" in word)
    folders = [word for word in words if "=" not in word]
    if len(folders) > 1:
        raise UserError(f"{shown(folders[1])} is one folder too many: give one")
    if options.run is not None:
        return run_again(given_path("".join(folders), "the folder"), options.run, settings)
    if find_spec("gradio") is None:
        raise UserError(
            "the app requires gradio: run pip install --editable '.[app]', or pip install gradio"
        )
    if options.limit < 1:
        raise UserError(f"--limit {options.limit} leaves no photograph: give a larger number")
    if settings and folders and Path(folders[0], CONFIG).is_file():
        _check_allowed(Path(folders[0]), read_config(read_run(Path(folders[0]))[0]), settings)
    for folder in folders:
        check_folder(given_path(folder, "the folder"), "", "photographs, or outputs of a run")
    # Gradio reads these when it is imported.
    os.environ |= {"GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_DISABLE_TELEMETRY": "1"}
    for uploads in Path(tempfile.gettempdir()).glob(f"{_UPLOADS}[0-9]*-*"):  # of killed apps
        number = uploads.name.removeprefix(_UPLOADS).partition("-")[0]
        if number.isdigit() and not pid_exists(int(number)):
            shutil.rmtree(uploads, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=f"{_UPLOADS}{os.getpid()}-") as uploads:
        os.environ["GRADIO_TEMP_DIR"] = uploads
        from pipeline.app.page import build_app
        from pipeline.app.server import serve

        def ready(address: str) -> None:
            print(f"open {address}\nCtrl-C ends it", flush=True)
            if not options.no_browser:
                webbrowser.open(address)

        app = build_app(settings, folders, options.limit, options.words)
        try:
            serve(app, options.port, ready)
        except (OSError, OverflowError) as error:
            is_number = isinstance(error, OSError)
            reason = os.strerror(error.errno) if is_number else "it is not a port number"
            raise UserError(
                f"--port {options.port} cannot be used ({reason}): give another, or none"
            ) from error


def run_started(own: Path, command: Sequence[str]) -> None:
    """Runs a command that an app starts, under the lock by which every app knows that it runs."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # in scripts, "&" has it ignored
    with FolderLock(own):
        (own / ENDED).unlink(missing_ok=True)
        log = open_own(own / LOG, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND)
        print(BEGUN, flush=True)
        os.dup2(log, 1)
        os.dup2(log, 2)
        sys.argv[1:] = command
        try:
            sys.exit(main())
        except BaseException as error:  # unless it is killed
            code = getattr(error, "code", 1) or 0
            write_atomically(own / ENDED, canonical_json({"code": code}))
            raise


def run_again(folder: Path, corrections: str, allowed: Mapping[str, str]) -> None:
    """Runs what an output directory records once more, with a file of corrections in it.

    The file is looked for from where one stands, then in the output directory. The run has the
    working directory that it had. Settings that name code, a command or an address are refused
    unless they are ``allowed``, since what is recorded may be another person's.
    """
    from pipeline.commands import compare
    from pipeline.commands.running import run_job

    folder, given = folder.resolve(), given_path(corrections, "--run").absolute()
    file = given if given.is_file() else folder / corrections
    composed, directory, line = read_run(folder)
    _check_allowed(folder, read_config(composed), allowed)
    if not directory.is_absolute() or Path(directory, composed.output_dir).resolve() != folder:
        raise UserError(f"{folder} was moved since it was written: use the command")
    os.chdir(directory)
    composed.dry_run, composed.tags.corrections = False, str(file)
    if composed.stage != "all" and "tags" not in composed.stage:
        composed.stage = ["tags", "cams", "masks", "report"]
    run_job(composed, (), [word for word in shlex.split(line) if "=" in word])
    try:
        compare.run([str(folder), "--output", str(folder / "comparison.html")])
    except UserError as error:
        print(f"{NOT_COMPARED}: {error}")


def _check_allowed(folder: Path, config: Config, allowed: Mapping[str, str]) -> None:
    found = dict(_naming_code(config))
    if refused := [f"{key}={found[key]}" for key in found if allowed.get(key) != found[key]]:
        raise UserError(
            f"{folder / CONFIG} has {' and '.join(map(shown, refused))}: give that to the app, too,"
            " or run the command that the report shows"
        )
    if useless := [f"{key}={value}" for key, value in allowed.items() if key not in found]:
        raise UserError(
            f"{shown(useless[0])} changes nothing, since the run has the settings in"
            f" {folder / CONFIG}: leave it out, or run the command that the report shows"
        )


def _naming_code(config: Config) -> Iterator[tuple[str, str]]:
    """Yields the settings that name code, a command or an address."""
    if config.executor.name != "local":  # whose settings are given with it
        yield "executor", config.executor.name
    restricted = naming_code()
    for key, value in flatten(asdict(config)).items():
        is_code = key in restricted and not re.fullmatch(restricted[key], str(value))
        if isinstance(value, str) and (is_code or "://" in value or value.startswith("hf:")):
            yield key, value
