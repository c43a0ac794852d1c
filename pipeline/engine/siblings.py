"""Results that a stage computed under other settings, and that these settings would repeat.

A folder's key covers all stages before it, so a corrected tag or another tagger leads to a new
folder of CAMs. The CAMs of most images are the same in both: they are linked, not computed again.
"""

from __future__ import annotations

import os
import shutil
from collections import defaultdict
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from pipeline.files.atomic import cannot_write, temporary_path
from pipeline.files.fingerprints import fingerprint
from pipeline.files.journal import Journal

ENTRIES = "entries.jsonl"


class Siblings:
    """The entries of equal recipe in the folders beside a stage's folder, which are only read."""

    def __init__(self, folder: Path, recipe: str):
        """Reads nothing yet.

        Args:
            folder: the stage's own folder.
            recipe: see :attr:`pipeline.engine.stage.Stage.recipe`.
        """
        self._folder = folder
        self._recipe = recipe

    @cached_property
    def _entries(self) -> dict[str, dict[str, tuple[Path, dict[str, Any]]]]:
        """Image id → input → the sibling's folder and its entry."""
        entries: dict[str, dict[str, tuple[Path, dict[str, Any]]]] = defaultdict(dict)
        for journal in sorted(self._folder.parent.glob(f"*/{ENTRIES}")):
            sibling = journal.parent
            if sibling.is_symlink() or sibling.name == self._folder.name:
                continue
            for entry in Journal(journal).entries.values():
                if entry.get("recipe") == self._recipe:
                    entries[entry["id"]][entry["input"]] = (sibling, entry)
        return entries

    def find(self, image_id: str, input_key: str) -> tuple[Path, dict[str, Any]] | None:
        """Returns an intact result and the folder that holds it, or none."""
        sibling = self._entries.get(image_id, {}).get(input_key)
        return sibling if sibling is not None and holds(*sibling) else None

    def inputs(self, image_id: str) -> set[str]:
        """Returns the inputs of which an image has an intact result."""
        siblings = self._entries.get(image_id, {})
        return {key for key, sibling in siblings.items() if holds(*sibling)}


def holds(folder: Path, entry: Mapping[str, Any]) -> bool:
    """Tells whether the files of an entry are those that were written."""
    return all(_is(folder / name, digest) for name, digest in entry.get("files", {}).items())


def _is(path: Path, digest: str) -> bool:
    try:
        return fingerprint(path.read_bytes()) == digest
    except OSError:
        return False


def link_or_copy(source: Path, target: Path) -> None:
    """Makes a file appear under another name, whole or not at all.

    It is a hard link where the file system has these. Files are replaced and never changed in
    place, so neither name notices when the other is removed or written again.

    Raises:
        UserError: the disk is full or the folder cannot be written to.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = temporary_path(target.parent)
        try:
            try:
                os.link(source, temporary)
            except OSError:  # a file system without links, or another device
                shutil.copyfile(source, temporary)
            temporary.replace(target)
        finally:
            temporary.unlink(missing_ok=True)  # left where both are links to one file already
    except OSError as error:
        raise cannot_write(target, error) from error
