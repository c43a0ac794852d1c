"""What JSON files of annotations say of each image, and the index of a large file."""

import gc
import json
import marshal
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import chain, islice
from operator import itemgetter
from pathlib import Path
from typing import Any

from pipeline.datasets.instances import (
    BOX,
    Instance,
    checked_id,
    checked_size,
    coco_instances,
    image_name,
    label_studio_image,
    label_studio_instances,
    labelme_instances,
    newest_annotation,
    stated_size,
)
from pipeline.engine.progress import track_bytes
from pipeline.errors import UserError, shown
from pipeline.files.atomic import write_atomically
from pipeline.files.fingerprints import RESOLUTION, fingerprint, fingerprint_image
from pipeline.files.json_stream import Element, read_element, stream_json

COCO, LABEL_STUDIO, LABELME = "coco", "label_studio", "labelme"

INDEXES = ".annotations"
"""The folder of indexes of large files in the output directory."""

_VERSION = 3  # raised when the same file gives another index
_LARGE = 1 << 22  # bytes; reading smaller files takes no time
_LOOKED_AT = 10  # JSON files in a folder, to know whether they are labelme's
_DIGITS = 16  # of a fingerprint
_REMEDY = "export it again, or give another file"
_IMAGES = "images.json"


@dataclass
class Row:
    """What a file says of one image.

    Attributes:
        size: height and width; none if the file does not say.
        content: the fingerprint of what it says.
        places: first byte and number of bytes of each element about it, one after the other.
        scores: name → score of its best instance.
        problem: why it cannot be used, or "".
        undrawn: what the file says in place of masks, or "".
    """

    size: list[int] | None = None
    content: str = ""
    places: list[int] = field(default_factory=list)
    scores: dict[str, float] = field(default_factory=dict)
    problem: str = ""
    undrawn: str = ""


@dataclass
class AnnotationIndex:
    """Files of annotations, without the shapes in them.

    Attributes:
        form: :data:`COCO`, :data:`LABEL_STUDIO` or :data:`LABELME`.
        rows: name of an image, without its suffix → what the file says of it.
        names: the names of COCO's categories, by their ids.
        counts: name → number of its instances.
        remarks: what the user should know → how often it is so, and where first.
        state: size and time of the last change of the file that the rows' places are in.
    """

    form: str
    rows: dict[str, Row] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=Counter)
    remarks: dict[str, tuple[int, str]] = field(default_factory=dict)
    state: list[int] | None = None

    @property
    def instances_of(self) -> Callable[[Any], Iterable[Instance]]:
        """Returns the instances of an element of the file."""
        others = {LABEL_STUDIO: label_studio_instances, LABELME: labelme_instances}
        return others.get(self.form) or partial(coco_instances, names=self.names)

    def remark(self, what: str, where: str) -> None:
        """Counts what the user should know."""
        count, first = self.remarks.get(what, (0, where))
        self.remarks[what] = count + 1, first

    def add(self, name: str, row: Row) -> None:
        """Adds what a file says of an image; of two entries neither counts."""
        if name in self.rows:
            row.problem = "has two entries of it"
        self.rows[name] = row

    def add_instance(self, row: Row, instance: Instance, where: str) -> None:
        """Adds an instance of an image, whose name the caller adds to the content."""
        # The second version of this format is the same for equal values, and takes a tenth of the
        # time of JSON.
        row.content = fingerprint(row.content, marshal.dumps(instance[1:], 2))
        row.scores[instance.name] = max(instance.score, row.scores.get(instance.name, 0.0))
        self.counts[instance.name] += 1
        if instance.is_crowd:
            self.remark("crowds (iscrowd), whose pixels are ignored", where)
        if instance.is_empty:
            self.remark("shapes that cover nothing, such as polygons of two corners", where)
        if instance.shape == BOX:
            row.undrawn = "an instance without an outline, such as a box"

    def add_image(self, name: str, element: Any, places: list[int]) -> None:  # noqa: ANN401
        """Adds an image whose instances are all in one element of a file."""
        row = Row(places=places)
        try:
            row.size = stated_size(element)
            for instance in (instances := [*self.instances_of(element)]):
                self.add_instance(row, instance, f"image {shown(name)}")
            if instances and all(instance.shape is None for instance in instances):
                row.undrawn = "classes alone"
            named = [instance.name for instance in instances]
            row.content = fingerprint(row.content, named, row.size)
        except Exception as error:  # what other programs write raises nearly anything
            row.problem = f"has an entry of it that is not {self.form}'s ({_reason(error)})"
        self.add(name, row)


def holds_labelme(folder: Path) -> bool:
    """Tells whether a folder holds labelme's files; other programs put JSON beside PNGs."""
    for path in islice(folder.rglob("*.json"), _LOOKED_AT):
        with suppress(Exception):  # it is damaged
            if "shapes" in read_element(path):
                return True
    return False


def file_state(path: Path) -> list[int]:
    """Returns the size of a file and the time of its last change; raises an OSError."""
    status = path.stat()
    return [status.st_size, status.st_mtime_ns]


def read_index(path: Path, cache: Path | None) -> AnnotationIndex:
    """Reads a file of COCO's or Label Studio's, or a folder of labelme's.

    The index of a large file lies in the folder ``cache``, if there is one, for a file of the same
    content. Raises a UserError if the file is missing or damaged, or is of another form.
    """
    if path.is_dir():
        index = AnnotationIndex(LABELME)
        for file in sorted(path.rglob("*.json")):
            name = file.relative_to(path).with_suffix("").as_posix()
            try:
                index.add_image(name, read_element(file), [])
            except Exception as error:  # damaged JSON raises nearly anything
                index.add(name, Row(problem=f"cannot be read ({_reason(error)})"))
        return index
    try:
        state, beside = file_state(path), path.with_name(_IMAGES)
        files = [path, *([beside] if beside.is_file() else [])]
        kept = cache / fingerprint(str(path.absolute())) if cache and state[0] > _LARGE else None
        index = kept and _read_kept(kept, files)
        if not index:
            about = [_states(files), [*map(fingerprint_image, files)]]
            index = _read_file(path)
            if file_state(path) != state:
                raise UserError(f"{shown(path)} changed while it was read: run the command again")
            if kept:
                rows = {name: [*vars(row).values()] for name, row in index.rows.items()}
                body = json.dumps([_VERSION, *about, vars(index) | {"rows": rows}])
                with suppress(UserError, OSError):  # of a folder that cannot be written
                    write_atomically(kept, fingerprint(body.encode()) + body)
    except OSError as error:
        raise UserError(f"{shown(path)} cannot be read ({error.strerror}): {_REMEDY}") from error
    index.state = state
    return index


def _states(files: Sequence[Path]) -> list[list[int]]:
    """Returns the size of each file and the times of its last changes."""
    found = (path.stat() for path in files)
    return [[status.st_size, status.st_mtime_ns, status.st_ctime_ns] for status in found]


def _read_kept(kept: Path, files: Sequence[Path]) -> AnnotationIndex | None:
    """Returns an index that was kept of files, unless it is damaged or of other contents."""
    data = kept.read_bytes() if kept.is_file() else b""
    if data[:_DIGITS] != fingerprint(data[_DIGITS:]).encode():
        return None
    gc.disable()  # nothing of what is read is garbage
    try:
        version, *content = json.loads(data[_DIGITS:])
        if version != _VERSION:
            return None
        states, fingerprints, index = content
        newest = max(changed for _, changed, _ in states)
        # As in fingerprint_image(), whose journal a dry run does not write.
        is_same = kept.stat().st_mtime_ns - newest > RESOLUTION and states == _states(files)
        if not is_same and fingerprints != [*map(fingerprint_image, files)]:
            return None
        index["rows"] = {name: Row(*row) for name, row in index["rows"].items()}
    finally:
        gc.enable()
    return AnnotationIndex(**index)


def _read_file(path: Path) -> AnnotationIndex:
    size, remarks = path.stat().st_size, ""
    with track_bytes(f"read {path.name}") as show:
        elements = stream_json(path, _REMEDY, lambda done: show(done, size))
        if first := next(elements, None):
            is_coco = first.key or isinstance(first.value, Mapping) and "image_id" in first.value
            index = (_read_coco if is_coco else _read_label_studio)(path, chain([first], elements))
            if index.rows:
                return index
            remarks = "".join(f"; it has {n} {what}" for what, (n, _) in index.remarks.items())
    raise UserError(
        f"{shown(path)} holds neither images with COCO's annotations nor finished tasks of Label"
        f" Studio{remarks}: give such a file"
    )


def _read_coco(path: Path, elements: Iterator[Element]) -> AnnotationIndex:
    """Reads a data set; or results, whose images and categories are in a file beside it."""
    index, read = AnnotationIndex(COCO), defaultdict[str, Row](Row)  # by the ids of images
    categories = defaultdict[str, list[str]](list)  # of the instances of each image
    described: dict[str, list[Any]] = {"images": [], "categories": []}
    is_results = False
    for key, value, start, length in elements:
        if key in described:
            described[key].append(value)
        elif key in ("", "annotations"):
            is_results, row = not key, Row()
            try:
                row = read[number := checked_id(value["image_id"])]
                [instance] = coco_instances(value, {})  # by the id of its category as yet
                index.add_instance(row, instance, f"byte {start}")
                categories[number].append(sys.intern(instance.name))
                row.places += start, length
            except Exception as error:  # what other programs write raises nearly anything
                where = f"byte {start} ({_reason(error)})"
                row.problem = f"has an annotation of it that is not COCO's, at {where}"
                index.remark("annotations that are not COCO's", where)
    if is_results:
        beside = path.with_name(_IMAGES)
        if not beside.is_file():
            raise UserError(
                f"{shown(path)} is a list of results, which names images by numbers: put the JSON"
                f" of the data set, with images and categories, beside it as {_IMAGES}"
            )
        for key, value, *_ in stream_json(beside, _REMEDY):
            described.get(key, []).append(value)
    try:
        pairs = [(checked_id(each["id"]), str(each["name"])) for each in described["categories"]]
        index.names = dict(pairs)
        if len(index.names) < len(pairs):
            raise ValueError("two have one id")
    except Exception as error:
        reason = f"categories that are not COCO's ({_reason(error)})"
        raise UserError(f"{shown(path)} has {reason}: {_REMEDY}") from error
    listed: dict[str, Row] = {}
    for image in described["images"]:
        try:
            number, name = checked_id(image["id"]), image_name(image["file_name"])
            size = checked_size(image.get("height"), image.get("width"))
        except Exception as error:
            index.remark("images that are not COCO's", _reason(error))
            continue
        if row := listed.get(number):
            row.problem = "has two images of its id"
        else:
            row = listed[number] = read.pop(number, Row())
            names = {category: index.names.get(category, "") for category in row.scores}
            if not all(names.values()):
                row.problem = "has an annotation of it without a known category"
            named = [names[category] for category in categories[number]]
            row.size, row.content = size, fingerprint(row.content, named, size)
            scored = sorted(row.scores.items(), key=itemgetter(1))  # the best of a name counts
            row.scores = {names[category]: score for category, score in scored}
        index.add(name, row)
    for number in read:
        index.remark("images with annotations that it does not list", f"id {shown(number)}")
    by_category, index.counts = index.counts, Counter()
    for category, count in by_category.items():
        index.counts[index.names.get(category, category)] += count
    return index


def _read_label_studio(path: Path, elements: Iterator[Element]) -> AnnotationIndex:
    index = AnnotationIndex(LABEL_STUDIO)
    for _, task, start, length in elements:
        try:
            name, annotation = label_studio_image(task), newest_annotation(task)
        except Exception as error:  # what other programs write raises nearly anything
            index.remark("tasks that are not Label Studio's", f"byte {start} ({_reason(error)})")
            continue
        if annotation is None:
            index.remark("tasks without a submitted annotation", f"image {shown(name)}")
        else:
            index.add_image(name, task, [start, length])
    return index


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {shown(error)}"
