"""Masks of other programs: palette, grey and coloured PNGs, read as labels."""

import fnmatch
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.datasets.settings import AnnotationSettings, LabelMapSettings
from pipeline.datasets.vocabulary import require_each, same_name, voc_palette
from pipeline.errors import ImageError, UserError, check_choice, shown
from pipeline.files.fingerprints import fingerprint
from pipeline.files.images import MODES_OF_16_BITS
from pipeline.files.label_images import BACKGROUND, GREY, IGNORE, PALETTE, decode_png
from pipeline.files.text import given_path, read_text

Colour = tuple[int, int, int]
"""Red, green and blue, from 0 to 255."""

_IGNORE_NAMES = ("ignore", "void")  # of label 255 in a table of colours

_COLOUR = r"(?P<colour>\d{1,3}[\s,]+\d{1,3}[\s,]+\d{1,3})"
_COLOUR_FIRST = re.compile(rf"{_COLOUR}[\s,]+(?P<name>\S.*)")
_NAME_FIRST = re.compile(rf"(?P<name>\S.*?)\s*[\s,:]\s*{_COLOUR}\s*(?::.*)?")
_NO_COLOUR = re.compile(r"([^:]*[^:\s])\s*:\s*:.*")
_IGNORED = re.compile(r"(#.*|name\s*,\s*r\s*,\s*g\s*,\s*b)?", re.IGNORECASE)

_MAX_NAMED = 3
_MODES = (PALETTE, GREY, "1", *MODES_OF_16_BITS, "LA", "RGB", "RGBA")


def read_colours(path: Path, labels: Mapping[str, int], key: str) -> dict[Colour, int]:
    """Reads a table of colours → label: 0 background, k+1 class k, 255 ignore.

    A line is a colour and a name, in one of three usual forms: ``64 128 64 cat`` (CamVid's
    ``label_colors.txt``), ``cat,64,128,64`` (its ``class_dict.csv``), ``cat:64,128,64::`` (CVAT's
    ``labelmap.txt``). A name is that of a class, ``background``, ``ignore`` or ``void``; several
    colours may share a name. Black is the background unless the table says otherwise. Lines that
    begin with ``#`` are comments. In ``labelmap.txt`` all colours may be missing (``cat:::``): then
    the first name is that of the background, and line k has PASCAL VOC's colour k.

    ``labels`` has the labels of names, see :class:`Reading`; ``key`` is what named the file, for
    errors. Raises a UserError if the file is missing, or a line is not a colour and a known name.
    """
    labels = {**dict.fromkeys(_IGNORE_NAMES, IGNORE), **labels, BACKGROUND: 0}
    text = read_text(path, f"{key} {shown(path)}", "give a table with a colour a line")
    stripped = enumerate(map(str.strip, text.splitlines()), 1)
    lines = {number: line for number, line in stripped if not _IGNORED.fullmatch(line)}
    bare = [_NO_COLOUR.fullmatch(line) for line in lines.values()]
    if bare and all(bare):
        if same_name(bare[0][1]) != BACKGROUND or len(bare) > 256:
            raise UserError(
                f"{path} has no colours, and its first name is not background: add them"
            )
        colours_of = zip(lines, bare, voc_palette(len(bare)))
        lines = {n: f"{match[1]}:{r},{g},{b}" for n, match, (r, g, b) in colours_of}
    colours: dict[Colour, int] = {}
    for number, line in lines.items():
        where = f"{path}, line {number}"
        match = _COLOUR_FIRST.fullmatch(line) or _NAME_FIRST.fullmatch(line)
        if match is None:
            raise UserError(
                f"{where}: {shown(line)} is not a colour and a name: write it like 64 128 64 cat"
            )
        colour = tuple(map(int, re.findall(r"\d+", match["colour"])))
        if max(colour) > 255:
            raise UserError(f"{where}: {colour} is not a colour: give three numbers from 0 to 255")
        if (label := labels.get(same_name(match["name"]))) is None:
            raise UserError(
                f"{where}: {shown(match['name'])} is not a class: add it to the classes, or call it"
                f" {_IGNORE_NAMES[0]}"
            )
        if colours.setdefault(colour, label) != label:
            raise UserError(f"{where}: {colour} has another name above: give each colour one name")
    if not colours:
        raise UserError(f"{path} names no colour: give a table with a colour a line")
    return {(0, 0, 0): 0} | colours


@dataclass(frozen=True)
class Reading:
    """How annotations become labels.

    Attributes:
        labels: name of a class, as :func:`~pipeline.datasets.vocabulary.same_name` has it → label.
        num_classes: n.
        colours: colour → label, in coloured PNGs.
        by_colour: whether the colours of palette PNGs count.
        values: pixel value → label, in palette and grey PNGs; none for labels themselves.
        other: the label of other pixel values; none refuses them.
        min_score: see :func:`pipeline.datasets.instances.draw`.
    """

    labels: Mapping[str, int] = field(default_factory=dict)
    num_classes: int = 0
    colours: Mapping[Colour, int] = field(default_factory=dict)
    by_colour: bool = False
    values: Mapping[int, int] | None = None
    other: int | None = None
    min_score: float = 0.0

    @classmethod
    def of(cls, settings: AnnotationSettings, group: str, classes: Sequence[str]) -> "Reading":
        """Reads the settings of a group of the configuration, such as "masks".

        Raises a UserError if a table of colours is missing or damaged, or a name has two classes.
        """
        labels = {same_name(name): k + 1 for k, name in enumerate(classes)}
        join = {} if settings.join is None else settings.join
        if not isinstance(join, Mapping):
            raise UserError(
                f"{group}.join={shown(join)} does not join names to classes: write it like"
                f" {group}.join={{person: [pedestrian, rider]}}"
            )
        for name, names in join.items():
            wrong = f"{group}.join: {shown(name)} is not a class"
            check_choice(wrong, same_name(str(name)), {same_name(c): c for c in classes})
            label = labels[same_name(str(name))]
            for other in names if isinstance(names, list | tuple) else [names]:
                if labels.setdefault(same_name(str(other)), label) != label:
                    raise UserError(
                        f"{group}.join counts {shown(other)} as two classes: keep one of them"
                    )
        palette, key = voc_palette(256), f"{group}.colours"
        colours = {palette[label]: label for label in (*range(len(classes) + 1), IGNORE)}
        if settings.colours is not None:
            colours = read_colours(given_path(settings.colours, key), labels, key)
        values = None
        if settings.values is not None:
            require_each(f"{group}.values", settings.values, classes, "numbers")
            if len({*settings.values}) < len(classes):
                raise UserError(
                    f"{group}.values holds a number twice: give each class its own number"
                )
            # Label maps have no background.
            values = {} if isinstance(settings, LabelMapSettings) else {0: 0}
            values |= {value: k + 1 for k, value in enumerate(settings.values)}
        by_colour, score = settings.palette == "colour", settings.min_score
        return cls(labels, len(classes), colours, by_colour, values, IGNORE, score)

    def label_of(self, name: object) -> int | None:
        """Returns the label of a name, if it is that of a class."""
        return self.labels.get(same_name(str(name)))

    @cached_property
    def key_facts(self) -> dict[str, Any]:
        """What labels depend on beside the files, for a cache key."""
        listed = (sorted(map(str, table.items())) for table in (self.colours, self.values or {}))
        tables = fingerprint(*listed, self.by_colour, self.other)
        return {"labels": dict(self.labels), "tables": tables, "min_score": self.min_score}

    def read_png(self, path: Path) -> np.ndarray:
        """Reads a mask from any kind of PNG: H×W uint8; 0 background, k+1 class k, 255 ignore.

        Palette and grey PNGs may have 1 to 16 bits a pixel. Raises an ImageError if the file is
        missing, is not a PNG, is damaged, has transparent pixels, or has unknown colours or labels:
        says which, how many pixels, and where the first is.
        """
        try:
            mode, values, palette = decode_png(path, _MODES)
        except FileNotFoundError as error:
            raise ImageError("is missing") from error
        if mode == PALETTE and self.by_colour:
            values = palette[values]
        if mode.endswith("A") and (transparent := values[..., -1] != 255).any():
            raise ImageError(f"has transparent pixels ({_count_and_first(transparent)})")
        if mode == "LA":
            values = values[..., 0]
        if values.ndim == 2:
            if self.values is not None:
                remark = ", which the given values do not name"
                return _to_labels(values, self.values, "label {}".format, remark, self.other)
            known = {label: label for label in (*range(self.num_classes + 1), IGNORE)}
            remark = f", where labels are 0 to {self.num_classes} and {IGNORE}"
            return _to_labels(values, known, "label {}".format, remark)
        encoded = values[..., :3].astype(np.int64) @ (1 << 16, 1 << 8, 1)
        known = {int.from_bytes(colour, "big"): label for colour, label in self.colours.items()}

        def name(value: int) -> str:
            return "colour {} {} {}".format(*value.to_bytes(3, "big"))

        return _to_labels(encoded, known, name, ": no class has it")


def refuse_parts_of_masks(names: Iterable[str], folder: Path) -> None:
    """Refuses PNGs that Label Studio exports, of which each is a part of a mask."""
    if fnmatch.filter(names, "task-*-annotation-*-by-*"):
        raise UserError(
            f"{folder} holds Label Studio's PNGs, of which each is a part of a mask: export JSON,"
            " which masks=file reads"
        )


def _to_labels(
    values: np.ndarray,
    known: Mapping[int, int],
    name: Callable[[int], str],
    remark: str,
    other: int | None = None,
) -> np.ndarray:
    """Returns the labels, H×W uint8, that stand for values, ``other`` for those that do not.

    Raises an ImageError if there are such values, and no ``other``: calls them by ``name``, the
    most frequent first, and ends with ``remark``.
    """
    table = np.full(int(values.max()) + 1, -1 if other is None else other, np.int16)
    for value, label in known.items():
        table[value : value + 1] = label  # none, where it is larger than all
    labels = np.take(table, values)  # of one bit a pixel, too
    if (labels < 0).any():
        unknown, counts = np.unique(values[labels < 0], return_counts=True)
        named = unknown[np.argsort(-counts, kind="stable")][:_MAX_NAMED].tolist()
        parts = [f"{name(value)} ({_count_and_first(values == value)})" for value in named]
        more = f" and {len(unknown) - len(named)} more" if len(unknown) > len(named) else ""
        raise ImageError(f"holds {', '.join(parts)}{more}{remark}")
    return labels.astype(np.uint8)


def _count_and_first(where: np.ndarray) -> str:
    """Returns how many pixels are true, and the place of the first, row by row."""
    y, x = np.unravel_index(int(where.argmax()), where.shape)
    return f"{int(where.sum())} pixels, the first at x={x}, y={y}"
