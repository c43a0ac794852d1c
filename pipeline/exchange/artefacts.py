"""Reads the folders of finished stages without the settings of their run."""

from collections.abc import Mapping
from functools import cached_property
from glob import escape
from pathlib import Path
from typing import Any

from pipeline.datasets.vocabulary import voc_palette
from pipeline.engine.folder import FAILURES, REMOVED
from pipeline.engine.kinds import measured_kinds
from pipeline.engine.lineage import Result
from pipeline.engine.result_folder import MANIFEST
from pipeline.errors import ImageError, UserError
from pipeline.files.atomic import fits
from pipeline.files.fingerprints import fingerprint_image, first_key
from pipeline.files.images import COMMON_SUFFIXES, SUFFIXES
from pipeline.files.label_images import BACKGROUND
from pipeline.report.configurations import flatten, last_part, readable


class Artefact(Result):
    """The results of a finished per-image stage, of the images that still exist.

    Attributes:
        kind: what they are.
        classes: the names of the classes.
        apply_exif: whether the images were rotated as their EXIF orientation says.
    """

    def __init__(self, path: Path):
        """Reads the manifest in a stage's folder.

        Raises:
            UserError: it is not such a folder.
        """
        super().__init__(path.resolve())
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
        self.apply_exif = settings.get("exif") is False

    @property
    def root(self) -> Path:
        """The output directory."""
        return self.path.parents[2]

    @property
    def split(self) -> str:
        """The split, by the name of its folder."""
        return self.path.parents[1].name

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
        """Raises an ImageError if a result was made from something else than there is now.

        A ``photograph`` that is at hand is compared, too.
        """
        change = self.describe_change([image_id])
        if not change and photograph is not None:
            is_same = first_key(self.entries[image_id]["input"]) == fingerprint_image(photograph)
            first = self.chain[0].command
            change = "" if is_same else f"its photograph has changed: run stage={first} first"
        if change:
            raise ImageError(change)

    @property
    def names(self) -> tuple[str, ...]:
        """The n+1 names of labels, the background's first."""
        return (BACKGROUND, *self.classes)

    @property
    def palette(self) -> list[tuple[int, int, int]]:
        """The n+1 colours of labels."""
        return voc_palette(len(self.names))


def find_photograph(root: Path, image_id: str) -> Path:
    """Returns the image file of an id below the image root.

    Raises:
        ImageError: there is none.
    """
    endings = (e for suffix in COMMON_SUFFIXES for e in (suffix, suffix.upper()))
    usual = (root / f"{image_id}{ending}" for ending in endings)
    if found := next((path for path in usual if path.is_file()), None):
        return found
    name = (root / image_id).name
    named = (root / image_id).parent.glob(f"{escape(name)}.*")  # a camera may write .Jpg
    files = {path.suffix.lower(): path for path in named if path.stem == name}
    for suffix in SUFFIXES:
        if suffix in files:
            return files[suffix]
    raise ImageError(f"no image {root / image_id} ({', '.join(SUFFIXES)})")
