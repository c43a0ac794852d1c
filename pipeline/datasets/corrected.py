"""What a person corrected: tags by ``tags.corrections``, masks by ``masks.corrections``."""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from pipeline.datasets.annotations import Annotations, Drawing, LabelImage, classes_in, refuse_brush
from pipeline.engine.progress import note
from pipeline.engine.sample import ByName, Images, Labels
from pipeline.errors import ImageError, NoEntry, UserError, did_you_mean, first_of, shown
from pipeline.files.fingerprints import fingerprint
from pipeline.files.images import SUFFIXES
from pipeline.files.own_files import computed_files
from pipeline.files.text import join_cell


@dataclass(frozen=True)
class Corrections:
    """The corrected tags of a split, or its corrected masks.

    Attributes:
        tags: image id → class indices; of masks, those of all that can be read.
        file: the name of their file, without its folder.
        date: when it was saved (UTC).
        masks: image id → the mask that a person made; {} for tags alone.
        error: why they cannot be known; keys that depend on them raise it.
    """

    tags: dict[str, Labels] | ByName[Labels] = field(default_factory=dict)
    file: str = ""
    date: str = ""
    masks: Mapping[str, LabelImage | Drawing] = field(default_factory=dict)
    error: UserError | None = None

    def __bool__(self) -> bool:
        return bool(self.contents)

    @cached_property
    def contents(self) -> Mapping[str, Any]:
        """Image id → its tags; or the fingerprint of its mask, "" if that cannot be read."""
        found = ByName.fromkeys(self.masks, "")
        for image_id, mask in self.masks.items():
            with suppress(OSError):
                found[image_id] = fingerprint(mask.content, mask.reading.key_facts)
        return found or self.tags

    @cached_property
    def key_facts(self) -> dict[str, str]:
        """The fingerprint of the corrections, as keys hold it; {} where there are none."""
        if self.error is not None:
            raise self.error
        return {"corrections": fingerprint({**self.contents})} if self else {}

    @property
    def legend(self) -> dict[str, dict[str, Any]]:
        """The fingerprint → what people call it; see :attr:`pipeline.engine.stage.Stage.legend`."""
        what, images = "masks" if self.masks else "tags", len(self.contents)
        about = {"what": what, "file": self.file, "images": images, "date": self.date}
        return dict.fromkeys(self.key_facts.values(), about)

    def tags_beside(self, table: "Corrections", classes: Sequence[str]) -> "Corrections":
        """Returns the tags of masks and of a table; raises a UserError if these contradict."""
        for image_id in self.tags.keys() & table.tags.keys():
            both = table.tags[image_id], self.tags[image_id]
            if both[0] != both[1]:
                listed, drawn = (join_cell(classes[k] for k in tags) or "nothing" for tags in both)
                raise UserError(
                    f"image {shown(image_id)} shows {listed} in {table.file} and {drawn} in"
                    f" {self.file}: correct tags.corrections or masks.corrections"
                )
        files = " and ".join(each.file for each in (table, self) if each.tags)
        date, tags = max(table.date, self.date), table.tags | self.tags
        return Corrections(tags, files, date, error=self.error)

    def apply(self, image_id: str, found: Sequence[int]) -> dict[str, list[int]]:
        """Returns the "tags" of an image; if they are corrected, those that were "found" too."""
        if image_id not in self.tags:
            return {"tags": list(found)}
        return {"tags": list(self.tags[image_id]), "found": list(found)}


def saved(*paths: Path) -> str:
    """Returns when the newest of some files was saved (UTC)."""
    newest = max((path.lstat().st_mtime for path in paths), default=0)
    return f"{datetime.fromtimestamp(newest, UTC):%Y-%m-%d %H:%M:%S}"


def corrected_masks(found: Annotations, images: Images, split: str) -> Corrections:
    """Returns and counts the masks a person made; raises a UserError for other images, or none."""
    masks, tags = ByName(), ByName()
    refuse_unknown(found.entries, images.known_ids(split), split, found.path)
    for image_id in found.entries:
        with suppress(NoEntry):
            masks[image_id] = found.find(image_id)
    refuse_brush(found, masks, "masks.corrections")
    note(*found.notes)
    files = (p for p in found.path.rglob("*") if p.suffix.lower() in (*SUFFIXES, ".json"))
    names = {path: path.relative_to(found.path).with_suffix("").as_posix() for path in files}
    if unread := sorted(path for path, name in names.items() if name not in found.entries):
        note(f"{first_of(unread)} are not read: corrected masks are PNGs or JSON")
    if not masks:
        raise UserError(
            f"masks.corrections={found.path} holds no mask: save one there, or leave it out"
        )
    by_path = {mask.path: mask for mask in masks.values()}
    files = computed_files(found.path, by_path, lambda path: by_path[path].painted)
    kept = ByName((i, m) for i, m in masks.items() if not (m.is_exported or m.path in files))
    of_run = [sample.id for sample in images.of(split)]
    count, read = (sum(image_id in each for image_id in of_run) for each in (kept, masks))
    counted = f"{count} of {len(of_run)} images {'is' if count == 1 else 'are'} corrected"
    counted += f" ({read - count} unchanged since the export)" if read > count else ""
    note(f"masks.corrections, split {split}: {counted}")
    for image_id, mask in kept.items():
        with suppress(ImageError):  # the stage of the masks says why
            tags[image_id] = classes_in(mask)
    file = "/".join(found.path.parts[-2 if found.path.stem == split else -1 :])
    return Corrections(tags, file, saved(*(mask.path for mask in kept.values())), kept)


def refuse_unknown(names: Iterable[str], known: Iterable[str], split: str, file: object) -> None:
    """Raises a UserError if a ``file`` corrects images that are not ``known`` in a split."""
    known = ByName.fromkeys(known)
    if unknown := sorted(name for name in names if name not in known):
        raise UserError(
            f"{file} names {first_of(unknown)}, which split {split} does not have:"
            f" {did_you_mean(unknown[0], known)}correct the file"
        )
