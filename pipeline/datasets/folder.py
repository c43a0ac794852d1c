"""The user's own photographs: any tree of image files, without labels."""

import os
from collections import Counter
from contextlib import suppress
from pathlib import Path, PurePosixPath
from unicodedata import normalize

from pipeline.datasets.settings import DatasetSettings
from pipeline.datasets.vocabulary import Vocabulary, build_vocabulary
from pipeline.engine.records import ENTRIES
from pipeline.engine.sample import Dataset, Sample
from pipeline.errors import ImageError, UserError, shown
from pipeline.files.images import COMMON_SUFFIXES, HEIF_SUFFIXES, SUFFIXES, refuse_special_file
from pipeline.files.text import given_folder

SPLIT = "all"

_DIFFERS = "its ending or Unicode spelling: rename one of them"


def load_folder(
    settings: DatasetSettings,
    key: str = "dataset.root",
    split: str = SPLIT,
    vocabulary: Vocabulary | None = None,
) -> Dataset[Vocabulary]:
    """Finds every image file below ``root``, which a key names; there is one split.

    Without a ``vocabulary``, the settings give it.
    Files that the pipeline wrote are skipped if the output directory lies below the photographs.
    Other files that cannot be samples are in ``rejected``, by their path below the root. Raises a
    UserError if there is no such folder, no image in it, or no class names.
    """
    vocabulary = vocabulary or build_vocabulary(settings)
    root = given_folder(settings.root, key, "photographs")
    images, rejected, notes = find_images(root)
    samples, named, unusable = dict[str, Sample](), dict[str, Path](), []
    for image_id, path in images:
        try:
            with suppress(OSError):  # reading reports it
                refuse_special_file(path)
            # Results and entries of both would have the same name.
            if (other := named.setdefault(normalize("NFC", image_id), path)) is not path:
                raise ImageError(f"has the same name as {other.name}, but for {_DIFFERS}")
            samples[image_id] = Sample(image_id, path)
        except ImageError as error:
            unusable.append((image_id, path.relative_to(root).as_posix(), str(error)))
    # By id, so that the line disappears from failures.jsonl once the image is repaired.
    rejected += [(name if i in samples else i, reason) for i, name, reason in unusable]
    places = {PurePosixPath(image_id.rpartition("/")[0]) for image_id in samples}
    results = {str(folder) for place in places for folder in (place, *place.parents)}
    results &= {f"{image_id}{suffix}" for image_id in samples for suffix in (".npz", ".png")}
    for image_id in list(samples) if results else ():
        if folders := [f for f in map(str, PurePosixPath(image_id).parents) if f in results]:
            reason = f"is in {folders[0]}, which is the name of a result: rename the folder"
            rejected.append((image_id, reason))
            del samples[image_id]
    if not samples:
        endings = ", ".join(SUFFIXES)
        more = f" that can be read ({shown(rejected[0][0])} {rejected[0][1]})" if rejected else ""
        remedy = "; ".join(["give another folder", *notes])
        raise UserError(
            f"{key}={shown(settings.root)} holds no image{more or f' ({endings})'}: {remedy}"
        )
    splits, rejected_of = {split: list(samples.values())}, {split: rejected}
    return Dataset(vocabulary, splits, split, rejected_of, notes)


def find_images(
    root: Path,
) -> tuple[list[tuple[str, Path]], list[tuple[str, str]], tuple[str, ...]]:
    """Finds the image files below a folder.

    Links to folders are not followed, since they may form loops. Hidden files and files that the
    pipeline wrote are skipped. Returns (path below the folder without its suffix, image file),
    sorted; (path below the folder, reason) of skipped folders, whose paths end in a slash, unlike
    any id; and sentences on the other files.
    """
    paths: list[tuple[str, ...]] = []  # the parts below the root: a Path takes ten times as long
    others: Counter[str] = Counter()
    skipped: list[tuple[Path, str]] = []
    named_like_images: list[Path] = []

    def cannot_enter(error: OSError) -> None:
        skipped.append((Path(error.filename), f"cannot be opened: {error.strerror}"))

    for folder, folders, files in os.walk(root, onerror=cannot_enter):
        inner = [Path(folder, name) for name in folders if not name.startswith(".")]
        inner = [path for path in inner if not _holds_results(path)]
        folders[:] = [path.name for path in inner]
        for path in inner:
            if _leads_elsewhere(path, root):
                reason = "is a link to a folder, which is not followed: give the folder itself"
                skipped.append((path, reason))
            elif path.suffix.lower() in SUFFIXES:
                named_like_images.append(path)
        place = Path(folder).relative_to(root).parts
        for name in (name for name in files if not name.startswith(".")):
            if name.lower().endswith(SUFFIXES):
                paths.append((*place, name))
            else:
                others[Path(name).suffix.lower() or "without a suffix"] += 1
    entered = {parts[:n] for parts in paths for n in range(len(parts)) if named_like_images}
    skipped += [
        (folder, "is a folder without an image, though named like one: rename it")
        for folder in named_like_images
        if folder.relative_to(root).parts not in entered
    ]
    files = ["/".join(parts) for parts in sorted(paths)]
    common = {f.rpartition(".")[0] for f in files if f.lower().endswith(COMMON_SUFFIXES)}
    images, seconds = [], []
    for file in files:
        name, is_common = file.rpartition(".")[0], file.lower().endswith(COMMON_SUFFIXES)
        (images if is_common or name not in common else seconds).append((name, root / file))
    notes = []
    if others:
        counted = ", ".join(f"{count} {shown(suffix)}" for suffix, count in others.most_common())
        heif = any(suffix in others for suffix in HEIF_SUFFIXES)
        advice = "; pip install pillow-heif, and HEIC is read" if heif else ""
        notes.append(f"files that are not images were left out: {counted}{advice}")
    if seconds:
        left_out = f" and {len(seconds) - 1} more were" if len(seconds) > 1 else " was"
        why = "since the JPEG, PNG or WebP file of that name is used"
        notes.append(f"{shown(seconds[0][1])}{left_out} left out, {why}")
    reasons = [(f"{path.relative_to(root).as_posix()}/", reason) for path, reason in skipped]
    return images, reasons, tuple(notes)


def _leads_elsewhere(folder: Path, root: Path) -> bool:
    """Tells whether a folder is a link to a place neither below the root nor above it."""
    with suppress(OSError):  # os.walk reports why it cannot be entered
        if folder.is_symlink():
            target, root = folder.resolve(), root.resolve()
            return not (target.is_relative_to(root) or root.is_relative_to(target))
    return False


def _holds_results(folder: Path) -> bool:
    """Tells whether a folder is an output directory or holds the results of a stage."""
    try:
        return (folder / ENTRIES).is_file() or any(folder.glob(f"*/tags/*/{ENTRIES}"))
    except OSError:  # os.walk reports why it cannot be entered
        return False
