"""What the command lines of the tools have in common."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

from pipeline.errors import UserError
from pipeline.files.atomic import MENDABLE, cannot_write

USER_ERROR = 2
INTERRUPTED = 130


def answer(run: Callable[[Sequence[str]], None], when_interrupted: str = "interrupted") -> None:
    """Runs a tool on its command line; what the user can fix ends in a sentence and exit code 2.

    Args:
        run: the tool, on its arguments.
        when_interrupted: what Ctrl-C is answered with.
    """
    try:
        run(sys.argv[1:])
    except UserError as error:
        fail(str(error))
    except OSError as error:
        if error.errno not in MENDABLE:
            raise
        fail(str(cannot_write(error.filename, error)))
    except KeyboardInterrupt:
        print(when_interrupted, file=sys.stderr)
        sys.exit(INTERRUPTED)


def fail(sentence: str) -> NoReturn:
    """Ends the program with a sentence on stderr and exit code 2."""
    print(f"error: {sentence}", file=sys.stderr)
    sys.exit(USER_ERROR)


def next_command(arguments: Sequence[str], stage: str | None = None) -> str:
    """Returns the command line of ``tools/run_stage.py`` that goes on after another.

    Args:
        arguments: those of the run that was.
        stage: the stage that comes next; none runs what was only looked at, ``dry_run=true``.
    """
    dropped = ("dry_run", "hydra.sweep.dir") if stage is None else ("stage",)
    kept = [a for a in arguments if a.lstrip("+").partition("=")[0] not in dropped]
    if stage is not None:
        # Hydra takes settings only where others are.
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
        """Raises what the program answers with one sentence.

        Raises:
            UserError: always.
        """
        raise UserError(f"{message}; --help shows what there is")
