"""The folder of a stage: its manifest, and the results of images that it receives."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.engine.entries import Inputs
from pipeline.errors import UserError, shown
from pipeline.files.atomic import Complete, read_json, write_atomically
from pipeline.files.fingerprints import fingerprint
from pipeline.files.journal import open_journal, part_path

MANIFEST = "manifest.json"

_SHAPE = {
    **dict.fromkeys(("stage", "split", "key", "recipe", "host", "input", "checkpoint"), str),
    "command": str,
    **dict.fromkeys(("finished", "began", "run", "first_run"), str),
    **dict.fromkeys(("images", "computed", "left_out"), int),
    **dict.fromkeys(("configuration", "last", "initial_weights"), dict),
    "complete": bool,
    "seconds": int | float,
    **dict.fromkeys(("versions", "files"), {str: str}),
    "machines": {str: int},
    "made_from": {str: [str]},
    "legend": {str: Complete(file=str, images=int, date=str)},
    "statistics": {
        **dict.fromkeys(("tagged", "corrected", "background_until"), int),
        **dict.fromkeys(("flat", "background"), int | float),
        "classes": {str: int},
        "near_synonyms": [[str]],
    },
}


def read_manifest(folder: Path) -> dict:
    """Returns the manifest of a stage's folder; {} where there is none, or a damaged one."""
    return read_json(folder / MANIFEST, _SHAPE) or {}


def finished_at(manifest: Mapping[str, Any]) -> str:
    """Returns the date and time (UTC) at which a stage was completed; "" if it was not."""
    return manifest.get("finished", "")[:16].replace("T", " ")


def describe_legend(legend: Mapping[str, Any]) -> str:
    """Returns what people call a content that a manifest's legend names by its fingerprint."""
    images = "1 image" if legend["images"] == 1 else f"{legend['images']:,} images"
    what = f"{legend['what']} of " if "what" in legend else ""
    return f"{what}{images} in {legend['file']} of {legend['date']}"


def describe_machines(*manifests: Mapping[str, Any]) -> str:
    """Returns in which ways results of one stage and split were computed, if in several; or ""."""
    images = sum((Counter(manifest.get("machines", {})) for manifest in manifests), Counter())
    values = Counter(trait.split("=")[0] for trait in images)
    several = [
        f"{n:,} with {shown(t)}" for t, n in images.most_common() if values[t.split("=")[0]] > 1
    ]
    what = f"{manifests[0].get('stage')} for split {manifests[0].get('split')}"
    ways = f"{what} were computed in ways that differ by rounding (images: {', '.join(several)})"
    return ways if several else ""


class ResultFolder:
    """A folder, ``path``, that receives the results of images.

    For the ``recipe`` see :attr:`pipeline.engine.stage.PerImage.recipe`.
    """

    def __init__(self, path: Path, recipe: str, journal: Path):
        self.path = path
        self.recipe = recipe
        self._journal = open_journal(journal)

    def write(
        self, image_id: str, inputs: Inputs, files: Mapping[str, bytes], **values: object
    ) -> None:
        """Stores the files of an image, then its journal entry.

        Args:
            inputs: what the result was made from.
            files: name below the folder → bytes.
            values: further ones of the entry, which JSON can hold.

        Raises:
            UserError: a file cannot be written, or would lie outside the folder.
        """
        for name, data in files.items():
            path = self.path / name
            if not path.resolve().is_relative_to(self.path.resolve()):
                raise UserError(f"image id {image_id!r} leaves the output folder: rename the image")
            write_atomically(path, data)
        if files:
            values["files"] = {name: fingerprint(data) for name, data in files.items()}
        self.adopt({"id": image_id, "recipe": self.recipe, "inputs": {**inputs}, **values})

    def adopt(self, entry: dict) -> None:
        """Stores a journal entry as it is."""
        raise NotImplementedError


class WorkerFolder(ResultFolder):
    """The folder as a worker writes to it, while another process holds its lock.

    Its journal is one of the worker's own, which outlives a killed run. ``entries`` are those of
    this shard, in order.
    """

    def __init__(self, path: Path, recipe: str):
        super().__init__(path, recipe, part_path(path))
        self.entries: list[dict] = []

    def adopt(self, entry: dict) -> None:
        """Stores an entry, and keeps it for the process that holds the lock."""
        self._journal.append(entry)
        self.entries.append(entry)

    def close(self) -> None:
        """Closes the worker's journal."""
        self._journal.close()
