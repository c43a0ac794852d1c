"""Reads the folders of finished stages without the settings of their run, and exports them."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from glob import escape
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from PIL import ExifTags, Image

from pipeline.datasets.vocabulary import voc_palette
from pipeline.engine.kinds import TAGS, measured_kinds
from pipeline.engine.progress import track
from pipeline.engine.records import MANIFEST, PHOTOGRAPH
from pipeline.engine.results import FAILURES, REMOVED, Results
from pipeline.engine.sample import spellings
from pipeline.engine.store import refuse_other_format
from pipeline.errors import ImageError, UserError, tell
from pipeline.files.atomic import fits
from pipeline.files.fingerprints import fingerprint_cached
from pipeline.files.images import COMMON_SUFFIXES, FORMATS, SUFFIXES, to_image_error
from pipeline.files.label_images import BACKGROUND, IGNORE, read_labels
from pipeline.report.tables.configurations import flatten, last_part, readable

Name = TypeVar("Name")
Converted = TypeVar("Converted")


class Artefact(Results):
    """The results of a finished per-image stage, of the images that still exist.

    Attributes:
        kind: what they are.
        classes: the names of the classes.
        names: the n+1 names of labels, the background's first.
        palette: the n+1 colours of labels.
        root: the output directory.
        apply_exif: whether the images were rotated as their EXIF orientation says.
    """

    def __init__(self, path: Path):
        """Reads the manifest in a stage's folder; raises a UserError if it is not one."""
        refuse_other_format(path)
        *_, split, _, _ = (folder := path.resolve()).parts
        super().__init__(folder, split=split)
        self.root = folder.parents[2]
        stage, configuration = self.manifest.get("stage", ""), self.manifest.get("configuration")
        self.kind = measured_kinds().get(stage)
        if self.kind is None or not isinstance(configuration, Mapping):
            *stages, last = measured_kinds()
            raise UserError(
                f"{path} is not a finished folder of {', '.join(stages)} or {last}: give one such"
                " as outputs/demo/val/masks/latest"
            )
        settings = {last_part(name): value for name, value in flatten(configuration).items()}
        names, count = settings.get("names"), settings.get("num_classes")
        if fits(names, [[str]]) and isinstance(count, int):  # masks=dense; the first of each line
            settings.setdefault("classes", [line[0] for line in names[-count:] if line])
        if not isinstance(settings.get("classes"), list):
            raise UserError(f"{path / MANIFEST} names no classes: run stage={stage} again")
        self.classes = tuple(map(str, settings["classes"]))
        self.names = (BACKGROUND, *self.classes)
        self.palette = voc_palette(len(self.names))
        self.apply_exif = settings.get("exif") is False

    @property
    def settings(self) -> Mapping[str, Any]:
        """Its configuration, with words for contents that it names by a fingerprint."""
        return readable(self.manifest["configuration"], self.manifest.get("legend", {}))

    @cached_property
    def entries(self) -> Mapping[str, Mapping[str, Any]]:
        """Image id → entry, of each image that exists and is not skipped."""
        orphans = self.listed(FAILURES, REMOVED)
        return {i: entry for i, entry in super().entries.items() if i not in orphans}

    def refuse_changed(self, image_id: str, photograph: Path | None = None) -> None:
        """Raises an ImageError if what a result was made from, or ``photograph``, has changed."""
        if change := self.describe_change([image_id]):
            raise ImageError(change)
        if photograph is not None:
            now = fingerprint_cached(photograph)
            for found in self.chain_of_images:
                made_from = found.entries.get(image_id, {}).get("inputs", {})
                if made_from.get(PHOTOGRAPH, now) != now:
                    raise ImageError(f"its photograph has changed: run stage={found.command} first")

    def is_computed(self, image_id: str) -> bool:
        """Tells whether an image's result is not a mask of ``masks.corrections``."""
        return "correction" not in self.entries[image_id]["inputs"]

    def tags(self, image_id: str, labels: np.ndarray | None = None) -> list[str]:
        """Returns an image's tags: those that its labels were made from, or their names."""
        if tagged := [r.entries for r in self.chain_of_images if r.name == TAGS.stage]:
            return [self.classes[k] for k in tagged[0].get(image_id, {"tags": []})["tags"]]
        return [self.names[label] for label in np.setdiff1d(labels, (0, IGNORE))]


def find_photograph(root: Path, image_id: str) -> Path:
    """Returns the image file of an id below the image root; raises an ImageError without one."""
    endings = (e for suffix in COMMON_SUFFIXES for e in (suffix, suffix.upper()))
    stems = [root / each for each in spellings(image_id)]
    usual = (Path(f"{stem}{ending}") for ending in endings for stem in stems)
    if found := next((path for path in usual if path.is_file()), None):
        return found
    named = (path for stem in stems for path in stem.parent.glob(f"{escape(stem.name)}.*"))
    files = {p.suffix.lower(): p for p in named if p.with_suffix("") in stems}  # .Jpg of cameras
    if found := next((files[suffix] for suffix in SUFFIXES if suffix in files), None):
        return found
    raise ImageError(f"no image {root / image_id} ({', '.join(SUFFIXES)})")


def name_photograph(root: Path | None, image_id: str) -> str:
    """Returns :func:`find_photograph` relative to the root; without a root, ``<id>.jpg``."""
    if root is None:
        return f"{image_id}.jpg"
    return find_photograph(root, image_id).relative_to(root).as_posix()


@dataclass
class Export:
    """The outcome of an export."""

    written: int = 0  # images
    left_out: dict[Any, str] = field(default_factory=dict)  # id, or another name → why
    notes: list[str] = field(default_factory=list)  # what the user has to know, a sentence each

    def each(
        self,
        images: Sequence[Name],
        convert: Callable[[Name], Converted],
        title: str = "export",
    ) -> Iterator[tuple[Name, Converted]]:
        """Converts images one after the other, and yields their ids, or other names, with results.

        An :class:`ImageError`, a :class:`UserError`, a :class:`ValueError` or an :class:`OSError`
        of ``convert`` leaves an image out; so refuse files of others before, by
        :meth:`~pipeline.files.own_files.OwnFiles.refuse_foreign`. ``title`` stands before the
        progress bar.
        """
        with track(title, len(images)) as advance:
            for name in images:
                try:
                    result = convert(name)
                except FileNotFoundError as error:
                    self.left_out[name] = f"{error.filename} is missing"
                except OSError as error:
                    self.left_out[name] = f"{error.filename or 'a file'}: {error.strerror or error}"
                except (ImageError, UserError, ValueError) as error:
                    self.left_out[name] = str(error)
                else:
                    yield name, result
                    self.written += 1
                advance(note=f"{len(self.left_out)} left out" if self.left_out else "")

    def refuse_left_out(self, sentence: str) -> None:
        """Names every skipped image on stderr.

        If there is any, it raises a UserError with their number before the sentence.
        """
        for name, reason in self.left_out.items():
            tell(f"left out: {name}: {reason}")
        if self.left_out:
            raise UserError(f"{len(self.left_out)} {sentence}")


def read_artefact_labels(
    artefact: Artefact, image_id: str, photograph: Path | None = None
) -> np.ndarray:
    """Reads the mask of an image: H×W uint8; 0 background, k+1 class k, 255 ignore.

    Raises a FileNotFoundError if it is missing, an ImageError as :meth:`Artefact.refuse_changed`,
    and a UserError if it is damaged or holds other labels.
    """
    artefact.refuse_changed(image_id, photograph)
    path, num_classes = artefact.path / f"{image_id}.png", len(artefact.classes)
    labels = read_labels(path)
    highest = int(labels.max(initial=0, where=labels != IGNORE))
    if highest > num_classes:
        raise UserError(
            f"{path} holds label {highest} of {num_classes} classes: run the stage again"
        )
    return labels


def read_header(path: Path) -> tuple[str, tuple[int, int], bool]:
    """Returns an image's format, its height and width as stored, and whether EXIF turns it.

    Raises an ImageError if the file cannot be read.
    """
    try:
        with Image.open(path, formats=FORMATS) as image:
            is_turned = image.getexif().get(ExifTags.Base.Orientation) not in (None, 1)
            return image.format, (image.height, image.width), is_turned
    except Exception as error:  # Pillow's decoders raise nearly anything on damaged files
        raise ImageError(f"its image {to_image_error(error, path, FORMATS)}") from error


def target_path(folder: Path, name: str) -> Path:
    """Returns the path of a file in the output folder; raises an ImageError if it leads out."""
    path = folder / name
    # Resolve the parent only: the file may be a link that an earlier export made.
    if not path.parent.resolve().is_relative_to(folder.resolve()):
        raise ImageError("its id leaves the output folder: rename the image")
    return path
