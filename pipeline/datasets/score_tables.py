"""Tables of tags with scores, as other taggers write them: CSV with a header.

The header is ``id,class,score``, with a line for each class of an image, or ``id`` and the names of
classes, with a line for each image. Without a score, a class has 1 in the first form, else none.
"""

from collections import defaultdict
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

from pipeline.datasets.annotation_index import AnnotationIndex, IndexRow
from pipeline.datasets.corrections import is_header
from pipeline.datasets.instances import checked_score, image_name
from pipeline.errors import UserError, shown
from pipeline.files.text import read_rows


def read_table(path: Path, key: str, known: Collection[str] = ()) -> AnnotationIndex:
    """Reads the table that a key of the configuration names; of a class the highest score counts.

    A name that is one of the ``known`` ids is not cut, even if it ends in the suffix of an image.
    An image with an unusable line has a problem; a file that is no such table is a UserError.
    """
    name, index = f"{key}={shown(path)}", AnnotationIndex("table")
    rows = read_rows(path, name, "give a list, a table with scores or a JSON file", strict=True)
    _, header = next(rows, (1, [""]))
    if is_header(header):
        raise UserError(f"{name} is a table of corrected tags: give it as tags.corrections")
    first, *names = map(str.strip, header)
    if first.lower() != "id":
        raise UserError(
            f"{name} begins with {shown(first)}: its header must be id,class,score, or id and the"
            " names of classes, separated by commas"
        )
    is_pairs = [*map(str.lower, names)] in (["class"], ["class", "score"])
    images = defaultdict[str, IndexRow](IndexRow)
    for number, row in rows:
        image, *cells = map(str.strip, row)
        if not image:
            if any(cells):
                index.remark("lines without an image", f"line {number}")
            continue
        is_first, found = image not in images, images[image]
        scored = [*zip(names, cells)]
        if is_pairs:
            scored = [(cells[0], "".join(cells[1:]) or "1")] if cells else []
        try:
            if len(cells) != len(names) and not (is_pairs and len(cells) == 1):
                raise ValueError(f"{len(row)} cells for {len(names) + 1} columns")
            if not (is_first or is_pairs):
                raise ValueError("a second entry of it")
            for label, cell in scored:
                if label and cell:
                    index.counts[label] += 1
                    found.scores[label] = max(_score(cell), found.scores.get(label, 0.0))
        except ValueError as error:
            found.problem = f"has, in line {number}, {error}"
    for image, found in images.items():
        index.add(image_name(image, known), found)
    return index


def _score(cell: str) -> float:
    """Returns a score; raises a ValueError."""
    with suppress(ValueError):
        return checked_score(float(cell))
    return checked_score(shown(cell))
