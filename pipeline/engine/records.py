"""The records in a stage's folder: an entry for each image, with its files, and the manifest."""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from pipeline.errors import UserError
from pipeline.files.atomic import Complete, cannot_write, read_json, write_atomically
from pipeline.files.fingerprints import fingerprint

ENTRIES = "entries.jsonl"

Inputs = Mapping[str, str]
"""What a result is made from: name → fingerprint.

``photograph`` is always one; ``cams``, a stage before, is its whole result of the image, and
``tags.tags`` one fact of it; ``segmenter``, a stage that is used, is the file that is loaded. Other
names, such as ``regions``, are the stage's own."""

PHOTOGRAPH, BATCH = "photograph", "batch"
"""The names of two inputs. ``batch`` is the other images that a result depends on."""

LEARNED_FROM = "learned_from.json"
"""In the folder of what was learned: image id → its :func:`source_of` and :func:`result_of`.

The result, of the stage that it was learned from, is "" for an image that has none."""


def result_of(entry: Mapping[str, Any]) -> str:
    """Returns the fingerprint of a result, and not of how, where or from what it was made."""
    return fingerprint({k: entry[k] for k in entry.keys() - {"inputs", "own_key", "machine"}})


def source_of(inputs: Inputs) -> str:
    """Returns the fingerprint of an image's own files, such as its photograph and its regions."""
    return fingerprint({name: inputs[name] for name in inputs.keys() - {BATCH}})


def photograph_and_result(entry: Mapping[str, Any]) -> list[str]:
    """Returns the :func:`source_of` a photograph alone, and the result."""
    photograph = {PHOTOGRAPH: entry["inputs"].get(PHOTOGRAPH, "")}
    return [source_of(photograph), result_of(entry)]


def write_result(
    folder: Path,
    own_key: str,
    image_id: str,
    inputs: Inputs,
    files: Mapping[str, bytes] = {},
    **values: object,
) -> dict[str, Any]:
    """Writes the files of an image's result, and returns the entry, which is to be stored then.

    Args:
        own_key: see :attr:`pipeline.engine.stage.PerImage.own_key`.
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
    return {"id": image_id, "own_key": own_key, "inputs": {**inputs}, **values}


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


# The manifest

MANIFEST = "manifest.json"
LATEST = "latest"
"""The link beside a stage's folders, to the one that was completed last."""

MANIFEST_SHAPE = {
    **dict.fromkeys(("stage", "split", "key", "own_key", "host", "inputs", "checkpoint"), str),
    "command": str,
    **dict.fromkeys(("finished", "began", "run", "first_run"), str),
    **dict.fromkeys(("images", "computed", "left_out"), int),
    **dict.fromkeys(("configuration", "last", "initial_weights"), dict),
    **dict.fromkeys(("complete", "aside"), bool),
    "seconds": int | float,
    **dict.fromkeys(("versions", "files"), {str: str}),
    "machines": {str: int},
    "made_from": {str: [str]},
    "counterparts": [{str: [str]}],
    "legend": {str: Complete(file=str, images=int, date=str)},
    "statistics": {
        **dict.fromkeys(("tagged", "corrected", "background_until"), int),
        **dict.fromkeys(("flat", "background"), int | float),
        "classes": {str: int},
        "near_synonyms": [[str]],
    },
}
"""The types of what a manifest holds, see :func:`pipeline.files.atomic.read_json`."""


def read_manifest(folder: Path) -> dict:
    """Returns the manifest of a stage's folder; {} where there is none, or a damaged one."""
    return read_json(folder / MANIFEST, MANIFEST_SHAPE) or {}


Counterparts = Mapping[str, Sequence[str]]
"""Split → what a run is there, up to a stage: "stage/key" of that stage and those before it.

The last stage comes first. Splits on which the run did not work are named too, as far as the keys
that it would have there are known."""


def named_in(runs: Iterable[Counterparts], split: str, stage: str, key: str) -> bool:
    """Tells whether one of the runs that made or confirmed a result has another on a split."""
    return any(f"{stage}/{key}" in run.get(split, ()) for run in runs)


def finished_at(manifest: Mapping[str, Any]) -> str:
    """Returns the date and time (UTC) at which a stage was completed; "" if it was not."""
    return manifest.get("finished", "")[:16].replace("T", " ")


def describe_legend(legend: Mapping[str, Any]) -> str:
    """Returns what people call a content that a manifest's legend names by its fingerprint."""
    images = "1 image" if legend["images"] == 1 else f"{legend['images']:,} images"
    what = f"{legend['what']} of " if "what" in legend else ""
    return f"{what}{images} in {legend['file']} of {legend['date']}"
