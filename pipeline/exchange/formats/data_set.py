"""What formats share that are a folder of photographs, and of an annotation for each."""

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from pipeline.errors import ImageError, UserError
from pipeline.exchange import artefacts
from pipeline.exchange.formats.regions import Outlines
from pipeline.files.atomic import TEMPORARY
from pipeline.files.fingerprints import fingerprint
from pipeline.files.images import decode_image, encode, encode_png
from pipeline.files.own_files import OwnFiles

_ENCODINGS = {
    ".jpg": ("JPEG", {"quality": 95, "subsampling": 0}),
    ".png": ("PNG", {}),
    ".webp": ("WEBP", {"lossless": True}),
}


@dataclass
class DataSet:
    """A data set in the layout of a format, which a subclass describes.

    Photographs in JPEG, PNG and WebP are copied unchanged, and others become PNG, with one
    exception: the readers of all formats follow EXIF orientations, so a photograph that has one is
    written without EXIF, turned as its mask is. Other splits in the folder stay.
    """

    artefact: artefacts.Artefact
    target: Path
    images: Path  # the image root
    link: bool = False  # symbolic links to unchanged photographs, not copies
    grey: bool = False  # for programs that read a palette's colours instead of its indices
    min_area: int = 0  # see pipeline.exchange.formats.regions.Outlines
    tolerance: float = 0

    # The folders of photographs and annotations, in which {} stands for the split; both can be one.
    photographs: ClassVar[str] = ""
    annotations: ClassVar[str] = ""
    suffix: ClassVar[str] = ".png"  # of an annotation
    is_shared: ClassVar[bool] = False  # the folders may hold other files, as those of other splits
    one_suffix: ClassVar[bool] = False  # all photographs become PNG if they have several suffixes

    @classmethod
    def export(cls, *arguments: object, **options: object) -> artefacts.Export:
        """Writes a data set of these attributes; raises as :meth:`write`."""
        return cls(*arguments, **options).write()

    def __post_init__(self) -> None:
        """Finds the photographs, and the suffix of each in the data set."""
        self.split, self.outlines = self.artefact.split, Outlines(self.min_area, self.tolerance)
        self._output, self._rewritten = OwnFiles(self.target, "export.py"), 0
        self.suffixes: dict[str, str] = {}
        for image_id in self.artefact.entries:
            with contextlib.suppress(ImageError):  # the export of this image reports it
                suffix = artefacts.find_photograph(self.images, image_id).suffix.lower()
                suffix = ".jpg" if suffix == ".jpeg" else suffix
                self.suffixes[image_id] = suffix if suffix in _ENCODINGS else ".png"
        if self.one_suffix and len({*self.suffixes.values()}) != 1:
            self.suffixes = dict.fromkeys(self.artefact.entries, ".png")

    def name(self, image_id: str) -> str:
        """Returns the name of an image's files, without suffixes."""
        return image_id

    def encode(self, image_id: str, labels: np.ndarray) -> bytes | str:
        """Returns the annotation of an image from its labels, H×W uint8."""
        return encode_png(labels, None if self.grey else self.artefact.palette)

    def painted(self, labels: np.ndarray, data: bytes | str) -> str:
        """Returns the fingerprint of what a reader of an annotation paints."""
        return fingerprint(labels.tobytes(), labels.shape)

    def index(self, written: Mapping[str, Sequence[str]]) -> dict[str, str]:
        """Returns the files below the target that describe images, given as id → tags."""
        return {}

    def refuse_other_classes(self, name: str, names: str) -> None:
        """Raises a UserError if a file that splits share does not end with these ``names``."""
        path = self.target / name
        self._output.refuse_foreign([path])
        if path.is_file() and not path.read_bytes().endswith(names.encode()):
            raise UserError(f"{path} has other classes: choose another output")

    def write(self) -> artefacts.Export:
        """Writes masks or predictions with their photographs.

        Raises a UserError if the target holds other files or classes, or cannot name a class.
        """
        export, ids = artefacts.Export(), sorted(self.artefact.entries)
        photographs = self.target / self.photographs.format(self.split)
        annotations = self.target / self.annotations.format(self.split)
        self._output.refuse_foreign(self.target / name for name in self.index({}))
        if len({*map(self.name, ids)}) < len(ids):
            raise UserError("two images would have the same name: rename those with % in theirs")
        self._refuse_others(photographs, self.suffixes)
        self._refuse_others(annotations, dict.fromkeys(ids, self.suffix))

        def write(image_id: str) -> list[str]:
            name = self.name(image_id)
            path = artefacts.target_path(annotations, f"{name}{self.suffix}")
            labels = self._write_photograph(image_id, photographs, name)
            data, is_computed = self.encode(image_id, labels), self.artefact.is_computed(image_id)
            self._output.write(path, data, computed=is_computed and self.painted(labels, data))
            return self.artefact.tags(image_id, labels)

        for name, text in self.index(dict(export.each(ids, write))).items():
            self._output.write(self.target / name, text)
        if self._rewritten:
            kinds = " or ".join(sorted({*self.suffixes.values()}))
            reason = "their files have another format or suffix, or an EXIF orientation"
            export.notes.append(f"{self._rewritten} images were written anew as {kinds}: {reason}")
        export.notes += self.outlines.loss()
        return export

    def _refuse_others(self, folder: Path, suffixes: Mapping[str, str]) -> None:
        """Refuses other files, which a program that reads the folder takes for part of the data."""
        ours = {folder / f"{self.name(i)}{suffix}" for i, suffix in suffixes.items()}
        self._output.refuse_foreign(sorted(ours))
        for path in () if self.is_shared else sorted(folder.rglob("*")):
            if path not in ours and not path.is_dir() and not path.name.startswith(TEMPORARY):
                raise UserError(
                    f"{path} is not part of this export: remove it, or choose another output"
                )

    def _write_photograph(self, image_id: str, folder: Path, name: str) -> np.ndarray:
        """Writes a photograph as its mask shows it; returns the mask's labels."""
        path = artefacts.find_photograph(self.images, image_id)
        labels = artefacts.read_artefact_labels(self.artefact, image_id, path)
        kind, options = _ENCODINGS[self.suffixes[image_id]]
        (found, size, is_turned), data = artefacts.read_header(path), None
        if found != kind or is_turned:
            image = decode_image(path, apply_exif=self.artefact.apply_exif)
            size, data = image.shape[:2], encode(image, kind, **options)
        if labels.shape != size:
            (rows, columns), (height, width) = labels.shape, size
            raise ImageError(f"its mask is {columns}×{rows}, the image {width}×{height} pixels")
        place = artefacts.target_path(folder, f"{name}{self.suffixes[image_id]}")
        if self.link and data is None:
            self._output.link(place, path.resolve())
        else:
            self._output.write(place, data or path.read_bytes())
        self._rewritten += data is not None
        return labels
