"""The command line of the benchmark, which a checkout holds in ``tools/``, not the package."""

import sys
from collections.abc import Sequence
from importlib import import_module

from pipeline.errors import UserError
from pipeline.files.shipped import HOME


def run(arguments: Sequence[str]) -> None:
    """Runs the benchmark of this checkout."""
    if not (HOME / "tools" / "benchmark").is_dir():
        raise UserError(
            "the benchmark is part of a checkout of the repository, and not of the installed"
            " package: run python tools/benchmark.py in a checkout"
        )
    if str(HOME) not in sys.path:
        sys.path.insert(0, str(HOME))
    import_module("tools.benchmark.command").run(arguments)
