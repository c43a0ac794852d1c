"""The manifest of a stage's folder: whether it is complete, and what its results depend on."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.files.atomic import read_json

MANIFEST = "manifest.json"

_SHAPE = {
    **dict.fromkeys(("stage", "split", "key", "recipe", "host", "input", "checkpoint"), str),
    **dict.fromkeys(("finished", "began"), str),
    **dict.fromkeys(("images", "computed", "left_out"), int),
    **dict.fromkeys(("configuration", "last", "initial_weights"), dict),
    "complete": bool,
    "seconds": int | float,
    **dict.fromkeys(("versions", "files"), {str: str}),
    "accompanies": [str],
}


def read_manifest(folder: Path) -> dict:
    """Returns the manifest of a stage's folder; {} where there is none, or a damaged one."""
    return read_json(folder / MANIFEST, _SHAPE) or {}


def finished_at(manifest: Mapping[str, Any]) -> str:
    """Returns the date and time (UTC) at which a stage was completed; "" if it was not."""
    return manifest.get("finished", "")[:16].replace("T", " ")
