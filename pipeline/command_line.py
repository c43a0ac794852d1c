"""What the command lines of the tools have in common."""

from __future__ import annotations

import argparse
from typing import NoReturn

from pipeline.errors import UserError


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
