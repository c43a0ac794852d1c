"""What JSON files of annotations say of each image, and the index of a large file."""

import hashlib
import json
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from pipeline.datasets.instances import (
    Instance,
    checked_score,
    coco_instances,
    label_studio_instances,
    labelme_instances,
    newest_annotation,
    stated_size,
)
from pipeline.engine.progress import track_bytes
from pipeline.errors import UserError, shown
from pipeline.files.atomic import read_json, write_atomically
from pipeline.files.fingerprints import fingerprint, fingerprint_image
from pipeline.files.images import SUFFIXES
from pipeline.files.json_stream import Element, read_element, stream_json

COCO, LABEL_STUDIO, LABELME = "coco", "label_studio", "labelme"

INDEXES = ".annotations"
"""The folder of indexes of large files in the output directory."""

_VERSION = 1  # raised when the same file gives another index
_LARGE = 1 << 22  # bytes; reading smaller files takes no time
_UPLOAD = re.compile(r"upload/(.*/)?[0-9a-f]{8}-(?=[^/]+$)")  # Label Studio's prefix of files
_REMEDY = "export it again, or give another file"
_IMAGES = "images.json"

# What is not as a program writes it raises one of these.
_WRONG = (ValueError, LookupError, TypeError, AttributeError)


@dataclass
class Row:
    """What a file says of one image.

    Attributes:
        file: its file below the folder; "" where one file has all images.
        size: height and width; none if the file does not say.
        content: the fingerprint of what it says.
        places: first byte and number of bytes of each element of the file that is about it.
        scores: name → score of its best instance.
        problem: why it cannot be used, or "".
    """

    file: str = ""
    size: list[int] | None = None
    content: str = ""
    places: list[list[int]] = field(default_factory=list)
    scores: dict[str, float] = field(default_factory=dict)
    problem: str = ""


@dataclass
class AnnotationIndex:
    """Files of annotations, without the shapes in them.

    Attributes:
        form: :data:`COCO`, :data:`LABEL_STUDIO` or :data:`LABELME`.
        rows: name of an image, without its suffix → what the file says of it.
        names: the names of COCO's categories, by their ids.
        counts: name → number of its instances.
        notes: what the user should know about the file, a sentence each.
    """

    form: str
    rows: dict[str, Row] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def instances_of(self) -> Callable[[Any], Iterable[Instance]]:
        """Returns the instances of an element of the file."""
        if self.form == COCO:
            return partial(coco_instances, names=self.names)
        return label_studio_instances if self.form == LABEL_STUDIO else labelme_instances

    def add(self, name: str, row: Row) -> None:
        """Adds what a file says of an image; of two entries neither counts."""
        path = name.replace("\\", "/").removeprefix("./")
        stem, _, suffix = path.rpartition(".")
        name = stem if stem and f".{suffix}".lower() in SUFFIXES else path
        if name in self.rows:
            row.problem = "has two entries of it"
        self.rows[name] = row

    def add_instances(self, name: str, row: Row, element: Any) -> None:  # noqa: ANN401
        """Adds an image whose instances are all in one element of a file."""
        instances: list[Instance] = []
        try:
            instances = [*self.instances_of(element)]
            row.size = stated_size(element)
        except _WRONG as error:
            row.problem = f"is not as {self.form} writes it ({type(error).__name__}: {error})"
        for each in instances:
            self.counts[each.name] = self.counts.get(each.name, 0) + 1
        row.scores = _best((each.name, each.score) for each in instances)
        row.content = fingerprint(json.dumps([instances, row.size]))
        self.add(name, row)


def holds_labelme(folder: Path) -> bool:
    """Tells whether a folder holds labelme's files; other programs put JSON beside PNGs."""
    first = next(folder.rglob("*.json"), None)
    return first is not None and "shapes" in (read_json(first) or {})


def read_index(path: Path, cache: Path | None) -> AnnotationIndex:
    """Reads a file of COCO's or Label Studio's, or a folder of labelme's.

    The index of a large file lies in the folder ``cache``, if there is one, for a file of the same
    content.

    Raises:
        UserError: the file is missing or damaged, or is of another form.
    """
    if path.is_dir():
        return _read_labelme(path)
    try:
        files = [each for each in (path, path.with_name(_IMAGES)) if each.is_file()]
        contents = [_VERSION, *map(fingerprint_image, files)]
        is_large = path.stat().st_size > _LARGE
    except OSError as error:
        raise UserError(f"{shown(path)} cannot be read ({error.strerror}): {_REMEDY}") from error
    kept = None
    if is_large and cache is not None:
        kept = cache / f"{fingerprint(str(path.absolute()))}.json"
        if (found := read_json(kept, {"of": list, "index": dict})) and found["of"] == contents:
            found["index"]["rows"] = {n: Row(*row) for n, row in found["index"]["rows"].items()}
            return AnnotationIndex(**found["index"])
    index = _read_file(path)
    if kept is not None:
        rows = {name: [*vars(row).values()] for name, row in index.rows.items()}
        about = {"of": contents, "index": {**vars(index), "rows": rows}}
        write_atomically(kept, json.dumps(about))
    return index


def _read_file(path: Path) -> AnnotationIndex:
    with track_bytes(f"read {path.name}") as show:
        size, elements = path.stat().st_size, stream_json(path, _REMEDY)
        first = next(elements, None)
        elements = chain([first] * (first is not None), elements)
        counted = (
            each for n, each in enumerate(elements) if n % 1000 or show(each.start, size) is None
        )
        if first and (first.key or _is(first.value, "image_id")):
            return _read_coco(path, counted)
        if first and _is(first.value, "data"):
            return _read_label_studio(path, counted)
    raise UserError(
        f"{shown(path)} holds neither COCO's annotations nor tasks of Label Studio: give such a"
        " file"
    )


def _is(value: object, key: str) -> bool:
    return isinstance(value, Mapping) and key in value


def _best(scores: Iterable[tuple[str, float]]) -> dict[str, float]:
    best: dict[str, float] = {}
    for name, score in scores:
        best[name] = max(score, best.get(name, 0.0))
    return best


def _read_coco(path: Path, elements: Iterable[Element]) -> AnnotationIndex:
    """Reads a data set; or results, whose images and categories are in a file beside it."""
    index, read = AnnotationIndex(COCO), defaultdict[str, Row](Row)  # by the ids of images
    counts, digests = Counter(), defaultdict(partial(hashlib.blake2b, digest_size=8))
    described: dict[str, list[Any]] = {"images": [], "categories": []}
    is_results = False
    try:
        for key, value, start, length in elements:
            if key in described:
                described[key].append(value)
            elif key in ("", "annotations"):
                is_results = not key
                image, category = _id(value["image_id"]), _id(value["category_id"])
                row, score = read[image], 0.0
                row.places.append([start, length])
                try:
                    score = checked_score(value.get("score"))
                except ValueError as error:
                    row.problem = f"has {error}"
                row.scores[category] = max(score, row.scores.get(category, 0.0))
                counts[category] += 1
                said = [category, score, value.get("iscrowd"), value.get("segmentation")]
                digests[image].update(json.dumps(said).encode())
        if is_results:
            beside = path.with_name(_IMAGES)
            if not beside.is_file():
                raise UserError(
                    f"{shown(path)} is a list of results, which names images by numbers: put the"
                    f" JSON of the data set, with images and categories, beside it as {_IMAGES}"
                )
            for key, value, *_ in stream_json(beside, _REMEDY):
                described.get(key, []).append(value)
        for each in described["categories"]:
            category, name = _id(each["id"]), str(each["name"])
            if index.names.setdefault(category, name) != name:
                raise ValueError(f"{name} and {index.names[category]} are one category")
        numbers = Counter(_id(image["id"]) for image in described["images"])
        for image in described["images"]:
            number = _id(image["id"])
            row = read.pop(number, Row())
            row.size = [*map(image.get, ("height", "width"))] if "height" in image else None
            if numbers[number] > 1:
                row.problem = f"gives its id, {shown(number)}, to another image as well"
            if unknown := [category for category in row.scores if category not in index.names]:
                row.problem = f"has an annotation of category {shown(unknown[0])}, which it lacks"
            row.scores = _best((index.names.get(c, ""), row.scores[c]) for c in row.scores)
            row.content = fingerprint(digests[number].hexdigest(), row.scores, row.size)
            index.add(str(image["file_name"]), row)
    except _WRONG as error:
        raise UserError(
            f"{shown(path)} is not as COCO describes it ({type(error).__name__}: {error}):"
            f" {_REMEDY}"
        ) from error
    for category, count in counts.items():
        name = index.names.get(category, category)
        index.counts[name] = index.counts.get(name, 0) + count
    if read:
        index.notes.append(
            f"{path.name} has annotations of {len(read)} images that it does not list, such as"
            f" {shown(next(iter(read)))}"
        )
    return index


def _id(value: object) -> str:
    """Returns an id as text, since some programs write numbers as text."""
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise ValueError(f"{value} is not an id")
    return str(value)


def _read_label_studio(path: Path, elements: Iterable[Element]) -> AnnotationIndex:
    index, unfinished = AnnotationIndex(LABEL_STUDIO), 0
    for _, task, start, length in elements:
        if not _is(task, "data") or newest_annotation(task) is None:
            unfinished += 1
        else:
            index.add_instances(_photograph(task["data"]), Row(places=[[start, length]]), task)
    if unfinished:
        index.notes.append(f"{path.name} has {unfinished} tasks without a submitted annotation")
    return index


def _photograph(data: Mapping[str, Any]) -> str:
    """Returns the path of a task's image, without the address and Label Studio's prefix."""
    paths = [_path(value) for value in data.values() if isinstance(value, str)]
    named = [path for path in paths if path.lower().endswith(SUFFIXES)]
    return _UPLOAD.sub(r"\1", next(iter([*named, *paths]), ""))


def _path(address: str) -> str:
    parts = urlsplit(address)
    local = parse_qs(parts.query).get("d")  # of files that Label Studio serves from a folder
    return local[0] if local else unquote(parts.path)


def _read_labelme(folder: Path) -> AnnotationIndex:
    index = AnnotationIndex(LABELME)
    for path in sorted(folder.rglob("*.json")):
        name = path.relative_to(folder).as_posix()
        row = Row(file=name, places=[[0, -1]])
        try:
            content = read_element(path, 0, -1)
        except (ValueError, RecursionError, OSError) as error:
            content, row.problem = {}, f"cannot be read ({error})"
        if row.problem or "shapes" in content:
            index.add_instances(name.removesuffix(".json"), row, content)
    return index
