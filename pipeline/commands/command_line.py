"""The common parts of the tools' command lines: exit codes, parser, next command."""

import argparse
import atexit
import gc
import os
import re
import shlex
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from pkgutil import resolve_name
from typing import TYPE_CHECKING, NoReturn

from pipeline.engine.children import protect_children
from pipeline.errors import ImageError, UserError, as_started, command, missing_library, shown, tell
from pipeline.segmenter.distributed import process_rank

if TYPE_CHECKING:
    from pipeline.segmenter.predict import Segmenter

USER_ERROR = 2
BROKEN_PIPE = 141

_RANK_ZERO_FIRST = 3.0  # seconds that the other processes of torchrun wait with an error

RESUMABLE = "interrupted: run the same command again to go on"

_EXHAUSTED = re.compile(
    "annot allocate memory|can't allocate memory|can't start new thread|failed to map segment"
    "|out of memory|Resource temporarily unavailable|Too many open files"
)
"""Messages of the system, PyTorch and Python when memory, processes or files reach a limit."""

_PLACE = re.compile(r'File "(.+)", line (\d+)')  # in a traceback


def answer(run: Callable[[Sequence[str]], None] | str, when_interrupted: str = RESUMABLE) -> None:
    """Runs a tool on its command line; an error that the user can fix ends with exit code 2.

    The tool is a function of the arguments, or the name "module:function" of one. SIGTERM ends it
    as Ctrl-C does, with 143 instead of 130; ``when_interrupted`` is what it then says. Output
    escapes what the terminal cannot show. File names are UTF-8 in every locale.

    Of the processes that torchrun started, the first reports what all of them meet. Torchrun ends
    the others, so that another one reports an error only if it is its own.
    """
    if sys.getfilesystemencoding() != "utf-8" and os.environ.get("PYTHONUTF8") != "1":
        os.execve(sys.executable, sys.orig_argv, {**os.environ, "PYTHONUTF8": "1"})
    protect_children()
    _prepare_output()
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        run = resolve_name(run) if isinstance(run, str) else run
        collect_garbage()
        run(sys.argv[1:])
        print(end="", flush=True)
        return
    except BrokenPipeError:  # the reader ended, as in --help | head
        # Or Python would report it once more when it flushes at the end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(BROKEN_PIPE)
    except KeyboardInterrupt as error:
        message, code = when_interrupted, 128 + (error.args or (signal.SIGINT,))[0]
        message = message if process_rank() == 0 else ""
    except Exception as error:
        if (explained := _explain(error) or _explain_plugin(error)) is None:
            raise
        if os.environ.get("HYDRA_FULL_ERROR") == "1":
            traceback.print_exception(error)
        message, code = f"error: {explained}", USER_ERROR
        if process_rank() > 0:
            time.sleep(_RANK_ZERO_FIRST)
    if message:
        tell(message)
    sys.exit(code)


def _prepare_output() -> None:
    """Escapes what the terminal cannot show; what is printed to a closed stream is lost.

    Otherwise a file that is opened later would have its number, and receive what libraries print.
    """
    for number, name in ((1, "stdout"), (2, "stderr")):
        try:
            os.write(number, b"")
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), number)
            os.set_inheritable(number, True)
        stream = getattr(sys, name)
        if stream is None or getattr(stream, "closed", False):
            setattr(sys, name, Path(os.devnull).open("w"))  # noqa: SIM115
        with suppress(AttributeError):  # streams of notebooks lack it
            getattr(sys, name).reconfigure(errors="backslashreplace")


def collect_garbage() -> None:
    """Looks for garbage from now on, if it did not before, but not among what was imported."""
    if not gc.isenabled():
        gc.freeze()
        atexit.register(gc.unfreeze)  # else libraries complain of what they find alive at the end
        gc.enable()


def _interrupt(number: int, _: object) -> None:
    signal.signal(number, signal.SIG_IGN)  # timeout sends it twice
    raise KeyboardInterrupt(number)


def _explain(error: Exception) -> object:
    """Returns the sentence for an error that the user can fix, none for a bug in this program."""
    if isinstance(error, (UserError, ImageError)):
        return error
    if type(error).__module__.partition(".")[0] in ("hydra", "omegaconf"):
        from pipeline.configuration.hydra import explain  # imports Hydra

        return explain(error)
    if type(error).__name__ == "OutOfMemoryError":  # torch's, of a GPU
        return (
            "the GPU's memory ran out: lower runtime.batch_size and runtime.crop_batch_size, raise"
            " segmenter.accumulate in a training, or end other programs that use the GPU"
        )
    if isinstance(error, UnboundLocalError):  # of joblib, if it cannot open a pipe
        error = error.__context__ or error
    is_of_system = isinstance(error, (OSError, RuntimeError, ImportError))
    if isinstance(error, MemoryError) or (is_of_system and _EXHAUSTED.search(str(error))):
        return (
            "memory, or the number of processes, threads or files, is at its limit: close programs,"
            " raise the limits of this shell (ulimit -v, -u and -n), or give smaller batches"
        )
    if isinstance(error, ImportError):
        return missing_library(error)
    from pipeline.files.atomic import MENDABLE, cannot_write, needs_shared_memory  # needs psutil

    if isinstance(error, OSError) and (error.errno in MENDABLE or needs_shared_memory(error)):
        return cannot_write(error.filename, error, "read or write")
    return None


def _explain_plugin(error: Exception) -> str | None:
    """Returns the sentence for an exception of a plug-in, with the last line of its own file."""
    from pipeline.configuration.registry import methods, module_files

    theirs = [method for method in methods() if not method.is_ours]
    files = {str(path) for m in theirs for module in m.modules for path in module_files(module)}
    lines = "".join(traceback.format_exception(error))  # those of a worker, too
    if not (places := [place for place in _PLACE.findall(lines) if place[0] in files]):
        return None
    what = "; ".join([f"{type(error).__name__}: {error}", *getattr(error, "__notes__", ())])
    file, line = places[-1]
    return f"{file}, line {line}: {shown(what)} (HYDRA_FULL_ERROR=1 shows the traceback)"


def print_notes(notes: Iterable[str]) -> None:
    """Prints what the user should know on stderr."""
    for note in notes:
        tell(f"note: {note}")


def check_folder(path: Path, option: str, remedy: str) -> None:
    """Raises a UserError unless an argument is a folder; ``remedy`` says what to give instead.

    ``option`` is "" for an argument without a name.
    """
    if not path.is_dir():
        raise UserError(f"{option} {path} is not a folder: give {remedy}".lstrip())


def next_command(arguments: Sequence[str], stage: str | None = None) -> str:
    """Returns the command line to run after ``tools/run_stage.py`` with some arguments.

    It is that of the next stage, or without one, of the run that ``dry_run=true`` only planned.
    """
    dropped = ("dry_run",) if stage is None else ("dry_run", "stage")
    kept = [a for a in arguments if a.lstrip("+").partition("=")[0] not in dropped]
    asked = [f"stage={stage}"] if stage is not None else []
    return f"{command()} {shlex.join([*asked, *kept])}".rstrip()


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one sentence; examples, those of NAME.txt, keep their lines."""

    def __init__(self, prog: str, description: str, examples: str = "") -> None:
        file = Path(__file__).with_name(prog).with_suffix(".txt")
        if not examples and file.is_file():
            examples = file.read_text(encoding="utf-8")
        super().__init__(
            prog=command(prog.removesuffix(".py")),
            description=description,
            epilog=as_started(examples),
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        self._tool = prog

    def error(self, message: str) -> NoReturn:
        """Raises a UserError for wrong usage, which says what to do instead of a removed option."""
        from pipeline.configuration.removed import REMOVED_WORDS  # imports YAML

        for option in re.findall(r"--\w+", message):
            if instead := REMOVED_WORDS.get(f"{self._tool} {option}"):
                raise UserError(f"{option} was removed: {instead}")
        raise UserError(f"{message}; --help shows the options")


def fraction(text: str) -> float:
    """Reads an option's number from 0 to 1."""
    with suppress(ValueError):
        if 0 <= float(text) <= 1:
            return float(text)
    raise argparse.ArgumentTypeError(f"{shown(text)} is not a number from 0 to 1")


def add_checkpoint(parser: Parser) -> None:
    """Adds the options that :func:`load_segmenter` reads."""
    add = parser.add_argument
    checkpoint = "an output directory such as outputs/folder, a checkpoint, or an ONNX file"
    add("--checkpoint", required=True, type=_checkpoint, metavar="MODEL", help=checkpoint)
    best = "of a folder, use the checkpoint with the highest validation mIoU"
    add("--best", action="store_true", help=best)


def load_segmenter(options: argparse.Namespace, device: str = "cpu") -> "Segmenter":
    """Reads the segmenter that a command line names; raises as ``Segmenter.from_run`` does."""
    from pipeline.segmenter.predict import Segmenter  # imports PyTorch

    return Segmenter.from_run(options.checkpoint, device, "best" if options.best else "last")


def _checkpoint(text: str) -> Path:
    """Returns the path of a checkpoint, or of the folder of the latest in that of a run."""
    latest = Path(text, "segmenter", "latest")
    return latest if latest.is_dir() else Path(text)
