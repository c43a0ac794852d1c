"""A user's own configurations, in folders that the command line names: data that runs no code."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from pipeline.errors import UserError

_PROGRAM, _MORE_FOLDERS = "_target_", "searchpath"


def refuse_programs(arguments: Sequence[str]) -> None:
    """Makes sure that no configuration file makes Hydra run a program.

    Hydra calls the ``_target_`` of callbacks, launchers and sweepers.

    Args:
        arguments: the command line; ``--config-dir`` and ``--config-path`` name the folders.

    Raises:
        UserError: a file names a program, or further folders that could hold such files.
    """
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--config-dir", "-cd")
    parser.add_argument("--config-path", "-cp")
    parser.add_argument("--config-name", "-cn")
    options, others = parser.parse_known_args(list(arguments))
    for argument in others:
        if argument.lstrip("+~").startswith(f"hydra.{_MORE_FOLDERS}"):
            raise UserError("hydra.searchpath is not allowed: name one folder with --config-dir")
    for folder in filter(None, (options.config_dir, options.config_path)):
        for path in sorted(Path(folder).expanduser().rglob("*.y*ml")):
            for key, value in _pairs(_read(path)):
                if key in (_PROGRAM, _MORE_FOLDERS):
                    what = "a program" if key == _PROGRAM else "further folders"
                    raise UserError(
                        f"{path} names {what} ({key}: {value}), which configurations must not do:"
                        " remove it"
                    )


def _read(path: Path) -> Any:  # noqa: ANN401
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        # Hydra cannot read such a file either, and reports it.
        return None


def _pairs(node: Any) -> Iterator[tuple[Any, Any]]:  # noqa: ANN401
    pending, seen = [node], set()
    while pending:
        node = pending.pop()
        if not isinstance(node, dict | list) or id(node) in seen:
            continue
        seen.add(id(node))  # an anchor may contain itself
        if isinstance(node, dict):
            yield from node.items()
            pending += node.values()
        else:
            pending += node
