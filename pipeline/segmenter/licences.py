"""Parts of networks that not everybody may use for everything."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipeline.segmenter.architecture import dictionaries

RESTRICTED = {
    "SegformerHead": (
        "SegformerHead of mmsegmentation is under NVIDIA's licence of SegFormer, which allows"
        " research and evaluation, but no commercial use; docs/licences.md names heads without"
        " this restriction"
    ),
}
"""Class in a config of mmsegmentation → a sentence without its full stop."""


def licence_notes(model: Mapping[str, Any]) -> list[str]:
    """Returns what to know of a network's licences, from the ``model`` part of a config."""
    parts = {str(part.get("type")).rpartition(".")[2] for part in dictionaries(model)}
    return [note for part, note in RESTRICTED.items() if part in parts]
