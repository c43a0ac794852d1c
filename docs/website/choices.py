"""What pages describe: the choices of the configuration, with their presets."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from omegaconf import OmegaConf

from pipeline.commands.settings_help import Choice
from pipeline.files.shipped import CONFIGS


def title_of(choice: Choice) -> str:
    """Returns the choice as it is typed, or the group."""
    return f"{choice.group}={choice.name}" if choice.name else choice.group or "other keys"


def page_of(choice: Choice) -> str:
    """Returns the name of the page of a choice."""
    return re.sub(r"\W", "-", title_of(choice))


def presets(choice: Choice) -> Iterator[Path]:
    """Yields the files of settings in ``configs/`` that choose what a page describes."""
    for path in sorted((CONFIGS / choice.group).glob("*.yaml")) if choice.group else ():
        listed = [d for d in OmegaConf.load(path).get("defaults", []) if isinstance(d, str)]
        base = next((name for name in listed if name != "_self_"), path.stem)
        if not choice.name or choice.name in (base, path.stem):
            yield path
