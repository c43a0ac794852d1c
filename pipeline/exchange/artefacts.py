"""Reads the folders of finished stages without the settings of their run."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from glob import escape
from pathlib import Path
from typing import Any

from pipeline.datasets.vocabulary import voc_palette
from pipeline.engine.cleaning import find_orphans
from pipeline.engine.folder import ENTRIES
from pipeline.engine.kinds import Kind, measured_kinds
from pipeline.engine.lineage import Result
from pipeline.engine.result_folder import MANIFEST, read_manifest
from pipeline.errors import ImageError, UserError
from pipeline.files.atomic import fits
from pipeline.files.fingerprints import fingerprint_image, first_key
from pipeline.files.images import COMMON_SUFFIXES, SUFFIXES
from pipeline.files.journal import Journal
from pipeline.files.label_images import BACKGROUND
from pipeline.report.configurations import flatten, readable


@dataclass(frozen=True)
class Artefact:
    """A finished per-image stage."""

    path: Path
    kind: Kind
    classes: tuple[str, ...]
    apply_exif: bool  # whether its images were rotated as their EXIF orientation says
    entries: Mapping[str, Mapping[str, Any]]  # id → what was recorded of each image that exists
    manifest: Mapping[str, Any]

    @property
    def root(self) -> Path:
        """The output directory."""
        return self.path.absolute().parents[2]

    @property
    def split(self) -> str:
        """The split."""
        return self.path.absolute().parents[1].name

    @property
    def settings(self) -> Mapping[str, Any]:
        """Its configuration, with words for contents that it names by a fingerprint."""
        return readable(self.manifest["configuration"], self.manifest.get("legend", {}))

    @cached_property
    def _result(self) -> Result:
        return Result(self.path.resolve())

    def refuse_changed(self, image_id: str, photograph: Path | None = None) -> None:
        """Raises an ImageError if a result was made from something else than there is now.

        A ``photograph`` that is at hand is compared, too.
        """
        changed = self._result.first_change(image_id)
        if changed is None and photograph is not None:
            is_same = first_key(self.entries[image_id]["input"]) == fingerprint_image(photograph)
            changed = None if is_same else self._result.chain[0]
        if changed is not None:
            raise ImageError(
                f"its {changed.name} were made from something else than there is now: run"
                f" stage={changed.command} first"
            )

    @property
    def names(self) -> tuple[str, ...]:
        """The n+1 names of labels, the background's first."""
        return (BACKGROUND, *self.classes)

    @property
    def palette(self) -> list[tuple[int, int, int]]:
        """The n+1 colours of labels."""
        return voc_palette(len(self.names))


def read_artefact(path: Path) -> Artefact:
    """Reads a finished stage's folder.

    Raises:
        UserError: it is not such a folder.
    """
    manifest = read_manifest(path)
    stage, configuration = manifest.get("stage", ""), manifest.get("configuration")
    kind = measured_kinds().get(stage)
    if kind is None or not isinstance(configuration, Mapping):
        *stages, last = measured_kinds()
        raise UserError(
            f"{path} is not a finished folder of {', '.join(stages)} or {last}: give one such as"
            " outputs/demo/val/masks/latest"
        )
    settings = {name.rpartition(".")[2]: value for name, value in flatten(configuration).items()}
    names, count = settings.get("names"), settings.get("num_classes")
    if fits(names, [[str]]) and isinstance(count, int):  # masks=dense; the first of each line
        settings.setdefault("classes", [line[0] for line in names[-count:] if line])
    if not isinstance(settings.get("classes"), list):
        raise UserError(f"{path / MANIFEST} names no classes: run stage={stage} again")
    classes = tuple(map(str, settings["classes"]))
    orphans = find_orphans(path.absolute())
    entries = {i: e for i, e in Journal(path / ENTRIES).entries.items() if i not in orphans}
    return Artefact(path, kind, classes, settings.get("exif") is False, entries, manifest)


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
