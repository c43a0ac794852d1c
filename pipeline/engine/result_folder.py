"""A folder that receives the results of images, in the process that computes them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.errors import UserError
from pipeline.files.atomic import write_atomically
from pipeline.files.fingerprints import fingerprint
from pipeline.files.journal import Journal, part_path


class ResultFolder:
    """A folder that receives the results of images.

    Attributes:
        path: the folder.
        stage: the stage's name.
        split: the split, or "" for a stage that belongs to no split.
        recipe: see :attr:`pipeline.engine.stage.Stage.recipe`.
    """

    def __init__(self, path: Path, stage: str, split: str, recipe: str = ""):
        self.path = path
        self.stage = stage
        self.split = split
        self.recipe = recipe

    def write(
        self, image_id: str, input_key: str, files: Mapping[str, bytes], **facts: Any
    ) -> None:
        """Stores the files of an image, then its journal entry.

        Args:
            image_id: the image.
            input_key: the fingerprint of the content that the result was made from.
            files: name below the folder → bytes.
            facts: further items of the entry, which JSON can hold.

        Raises:
            UserError: a file cannot be written, or would lie outside the folder.
        """
        for name, data in files.items():
            path = self.path / name
            if not path.resolve().is_relative_to(self.path.resolve()):
                raise UserError(f"image id {image_id!r} leaves the output folder: rename the image")
            write_atomically(path, data)
        if files:
            facts["files"] = {name: fingerprint(data) for name, data in files.items()}
        self.adopt({"id": image_id, "recipe": self.recipe, "input": input_key, **facts})

    def adopt(self, entry: dict) -> None:
        """Stores a journal entry as it is."""
        raise NotImplementedError


class WorkerFolder(ResultFolder):
    """The folder as a worker writes to it, while another process holds its lock.

    Attributes:
        entries: the entries of this shard, in order.
    """

    def __init__(self, path: Path, stage: str, split: str, recipe: str = ""):
        super().__init__(path, stage, split, recipe)
        self.entries: list[dict] = []
        self._journal = Journal(part_path(path))

    def adopt(self, entry: dict) -> None:
        """Stores an entry in a journal of the worker's own, which outlives a killed run."""
        self._journal.append(entry)
        self.entries.append(entry)

    def close(self) -> None:
        """Closes the worker's journal."""
        self._journal.close()
