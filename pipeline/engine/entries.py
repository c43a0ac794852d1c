"""Entries: the lines of a stage's journal, one for each image, and the files that they name."""

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from pipeline.errors import UserError
from pipeline.files.atomic import cannot_write, write_atomically
from pipeline.files.fingerprints import fingerprint

ENTRIES = "entries.jsonl"

Inputs = Mapping[str, str]
"""What a result is made from: name → fingerprint.

``photograph`` is always one; ``cams``, a stage before, is its whole result of the image, and
``tags.tags`` one fact of it; ``segmenter``, a stage that is used, is the file that is loaded. Other
names, such as ``regions``, are the stage's own."""

PHOTOGRAPH = "photograph"


def result_of(entry: Mapping[str, Any]) -> str:
    """Returns the fingerprint of a result, and not of how, where or from what it was made."""
    return fingerprint({k: entry[k] for k in entry.keys() - {"inputs", "recipe", "machine"}})


def photograph_and_result(entry: Mapping[str, Any]) -> list[str]:
    """Returns the fingerprints of an image's photograph and of its result."""
    return [entry["inputs"].get(PHOTOGRAPH, ""), result_of(entry)]


def write_result(
    folder: Path,
    recipe: str,
    image_id: str,
    inputs: Inputs,
    files: Mapping[str, bytes] = {},
    **values: object,
) -> dict[str, Any]:
    """Writes the files of an image's result, and returns the entry, which is to be stored then.

    Args:
        recipe: see :attr:`pipeline.engine.stage.PerImage.recipe`.
        inputs: what the result was made from.
        files: name below the folder → bytes.
        values: further ones of the entry, which JSON can hold.

    Raises:
        UserError: a file cannot be written, or would lie outside the folder.
    """
    for name, data in files.items():
        path = folder / name
        if not path.resolve().is_relative_to(folder.resolve()):
            raise UserError(f"image id {image_id!r} leaves the output folder: rename the image")
        write_atomically(path, data)
    if files:
        values["files"] = {name: fingerprint(data) for name, data in files.items()}
    return {"id": image_id, "recipe": recipe, "inputs": {**inputs}, **values}


def files_of(folder: Path, entry: Mapping[str, Any]) -> list[Path]:
    """Returns the files of an entry; one that lies outside the folder is not ours."""
    paths = [folder / name for name in entry.get("files", {})]
    return [path for path in paths if path.resolve().is_relative_to(folder.resolve())]


def remove_files(folder: Path, entry: Mapping[str, Any]) -> None:
    """Removes the files of an entry, and subfolders that get empty; a UserError if it cannot."""
    for path in files_of(folder, entry):
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise cannot_write(path, error, "remove") from error
        with suppress(OSError):  # other results are beside it
            path.parent.rmdir()


def holds(folder: Path, entry: Mapping[str, Any]) -> bool:
    """Tells whether the files of an entry are those that were written."""
    for name, digest in entry.get("files", {}).items():
        if Path(name).is_absolute() or ".." in Path(name).parts:  # not what we wrote
            return False
        try:
            if fingerprint((folder / name).read_bytes()) != digest:
                return False
        except (OSError, ValueError):
            return False
    return True
