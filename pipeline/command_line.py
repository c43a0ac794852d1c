"""What the command lines of the tools have in common."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

from pipeline.errors import UserError
from pipeline.files import MENDABLE, cannot_write

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
        print(f"error: {error}", file=sys.stderr)
        sys.exit(USER_ERROR)
    except OSError as error:
        if error.errno not in MENDABLE:
            raise
        print(f"error: {cannot_write(error.filename, error)}", file=sys.stderr)
        sys.exit(USER_ERROR)
    except KeyboardInterrupt:
        print(when_interrupted, file=sys.stderr)
        sys.exit(INTERRUPTED)


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
