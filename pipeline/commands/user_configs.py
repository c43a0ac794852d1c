"""A user's own configurations, in folders that the command line names: data that runs no code."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from pipeline.errors import UserError

_FORBIDDEN = {"_target_": "a program", "searchpath": "further folders"}
"""Key → what it names."""


def refuse_programs(arguments: Sequence[str]) -> None:
    """Makes sure that no file in ``--config-dir`` or ``--config-path`` makes Hydra run a program.

    Hydra calls the ``_target_`` of callbacks, launchers and sweepers.

    Raises:
        UserError: a file names a program, or further folders that could hold such files.
    """
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--config-dir", "-cd")
    parser.add_argument("--config-path", "-cp")
    parser.add_argument("--config-name", "-cn")
    options, others = parser.parse_known_args(list(arguments))
    if any(argument.lstrip("+~").startswith("hydra.searchpath") for argument in others):
        raise UserError("hydra.searchpath is not allowed: name one folder with --config-dir")
    for folder in filter(None, (options.config_dir, options.config_path)):
        for path in sorted(Path(folder).expanduser().rglob("*.y*ml")):
            for key, value in _pairs(path):
                if isinstance(key, str) and key in _FORBIDDEN:
                    raise UserError(
                        f"{path} names {_FORBIDDEN[key]} ({key}: {value}), which configurations"
                        " must not do: remove it"
                    )


def _pairs(path: Path) -> Iterator[tuple[Any, Any]]:
    """Yields the keys of a YAML file at any depth, with their values."""
    try:
        pending = [yaml.safe_load(path.read_text(encoding="utf-8"))]
    except (OSError, ValueError, yaml.YAMLError):
        return  # Hydra cannot read such a file either, and reports it
    seen = set()
    while pending:
        node = pending.pop()
        if not isinstance(node, dict | list) or id(node) in seen:
            continue
        seen.add(id(node))  # an anchor may contain itself
        if isinstance(node, dict):
            yield from node.items()
            node = node.values()
        pending += node
