"""The common parts of the tools' command lines: exit codes, parser, next command."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

from pipeline.errors import ImageError, UserError
from pipeline.files.atomic import MENDABLE, cannot_write

USER_ERROR = 2
INTERRUPTED = 130


def answer(run: Callable[[Sequence[str]], None], when_interrupted: str = "interrupted") -> None:
    """Runs a tool on its command line; an error that the user can fix ends with exit code 2.

    Args:
        run: the tool; receives its arguments.
        when_interrupted: the message after Ctrl-C.
    """
    try:
        run(sys.argv[1:])
        return
    except (UserError, ImageError) as error:
        message, code = f"error: {error}", USER_ERROR
    except OSError as error:
        if error.errno not in MENDABLE:
            raise
        message, code = f"error: {cannot_write(error.filename, error)}", USER_ERROR
    except KeyboardInterrupt:
        message, code = when_interrupted, INTERRUPTED
    print(message, file=sys.stderr)
    sys.exit(code)


def next_command(arguments: Sequence[str], stage: str | None = None) -> str:
    """Returns the command line of ``tools/run_stage.py`` to run next.

    Args:
        arguments: those of the finished run.
        stage: the stage to run next; without it, the run that ``dry_run=true`` only planned.
    """
    dropped = ("dry_run", "hydra.sweep.dir") if stage is None else ("stage",)
    kept = [a for a in arguments if a.lstrip("+").partition("=")[0] not in dropped]
    if stage is not None:
        # Hydra takes settings only beside others.
        settings = [n for n, a in enumerate(kept) if "=" in a and not a.startswith("-")]
        kept.insert(settings[0] if settings else len(kept), f"stage={stage}")
    return shlex.join(["python", "tools/run_stage.py", *kept])


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one sentence, and whose examples keep their lines."""

    def __init__(self, prog: str, description: str, examples: str = "") -> None:
        super().__init__(
            prog=f"python tools/{prog}",
            description=description,
            epilog=examples,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )

    def error(self, message: str) -> NoReturn:
        """Reports wrong usage.

        Raises:
            UserError: always.
        """
        raise UserError(f"{message}; --help shows the options")
