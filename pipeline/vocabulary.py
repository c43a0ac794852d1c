"""Class names, the names that CLIP is given for them, backgrounds, and the palette."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from pipeline.errors import UserError

IGNORE = 255
"""Label of the pixels of a mask that count for nothing."""

MOST_CLASSES = 254
"""Masks are 8-bit: 0 is the background and 255 is ignored."""


@dataclass(frozen=True)
class Vocabulary:
    """The classes of a data set and what CLIP reads for them.

    Attributes:
        classes: the n class names, as they are shown and stored.
        tag_names: what CLIP reads for each class when tagging, n names.
        cam_names: what CLIP reads for each class in class activation maps, n names.
        backgrounds: names of what is no class; candidates that absorb probability.
    """

    classes: tuple[str, ...]
    tag_names: tuple[str, ...]
    cam_names: tuple[str, ...]
    backgrounds: tuple[str, ...]

    def __post_init__(self) -> None:
        for names, key in ((self.tag_names, "tag_names"), (self.cam_names, "cam_names")):
            if len(names) != len(self.classes):
                raise UserError(
                    f"dataset.{key} holds {len(names)} names for {len(self.classes)} classes:"
                    " give one for each class, in the same order"
                )

    @cached_property
    def palette(self) -> list[tuple[int, int, int]]:
        """The colours of background and classes, n+1 RGB triples of 0 to 255."""
        return voc_palette(256)[: len(self.classes) + 1]


def build_vocabulary(settings: Mapping) -> Vocabulary:
    """Builds the vocabulary from the ``dataset`` configuration.

    Args:
        settings: ``classes`` (a list, or the path of a text file with a name a line),
            ``tag_names`` and ``cam_names`` (lists, or none for the class names), and
            ``backgrounds`` (a list). A background that is also a class is left out.

    Raises:
        UserError: no classes, a missing file, an empty or repeated name, or too many names.
    """
    classes = _read_names(settings.get("classes"))
    tag_names = tuple(settings.get("tag_names") or classes)
    cam_names = tuple(settings.get("cam_names") or tag_names)
    taken = {name.lower() for name in (*classes, *tag_names)}
    backgrounds = tuple(n for n in settings.get("backgrounds") or () if n.lower() not in taken)
    return Vocabulary(classes, tag_names, cam_names, backgrounds)


def _read_names(given: Sequence[str] | str | None) -> tuple[str, ...]:
    if given is None:
        raise UserError(
            "dataset.classes is missing: give a list, dataset.classes=[cat,dog],"
            " or the path of a text file with one name a line"
        )
    if isinstance(given, str):
        path = Path(given).expanduser()
        if not path.is_file():
            raise UserError(
                f"dataset.classes={given} is no file: give the path of a text file with one"
                " name a line, or a list, dataset.classes=[cat,dog]"
            )
        try:
            lines = path.read_text(encoding="utf-8-sig").splitlines()
        except UnicodeDecodeError as error:
            raise UserError(f"dataset.classes={given} is not UTF-8 text") from error
        names = [line.strip() for line in lines if line.strip()]
    else:
        names = [str(name).strip() for name in given]
    if not names or not all(names):
        raise UserError("dataset.classes holds no name or an empty one: give every class a name")
    repeated = [name for name, count in Counter(names).items() if count > 1]
    if repeated:
        raise UserError(f"dataset.classes names {', '.join(repeated)} twice: keep one of each")
    if len(names) > MOST_CLASSES:
        raise UserError(
            f"dataset.classes holds {len(names)} names; 8-bit masks have room for {MOST_CLASSES}"
        )
    return tuple(names)


def voc_palette(count: int) -> list[tuple[int, int, int]]:
    """Returns the first ``count`` colours of PASCAL VOC's colour map (the devkit's VOCcolormap).

    Bit 3k+c of a label goes to bit 7-k of channel c, so that neighbouring labels differ.
    """
    palette = []
    for label in range(count):
        colour = [0, 0, 0]
        for k in range(8):
            for channel in range(3):
                colour[channel] |= ((label >> (3 * k + channel)) & 1) << (7 - k)
        palette.append(tuple(colour))
    return palette
