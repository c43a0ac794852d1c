"""What JSON files of annotations say of each image."""

import marshal
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from pipeline.datasets.instances import (
    BOX,
    Instance,
    checked_id,
    checked_size,
    coco_instance,
    image_name,
    label_studio_image,
    label_studio_instances,
    labelme_instances,
    newest_annotation,
    stated_size,
)
from pipeline.engine.progress import track
from pipeline.engine.sample import ids_below
from pipeline.errors import UserError, shown
from pipeline.files.fingerprints import fingerprint
from pipeline.files.journal import without_collection
from pipeline.files.text import load_json

COCO, LABEL_STUDIO, LABELME = "coco", "label_studio", "labelme"
EXPORTED = "exported"  # the key under which an export gives the exported_entry of a computed mask

_MAX_BYTES = 10**9  # of a file, which takes several times as much memory
_LOOKED_AT = 10  # JSON files in a folder, to know whether they are labelme's
_REMEDY = "correct the file, or give another"
_IMAGES = "images.json"

ImageEntry = tuple[list[int] | None, list[Instance], object]
"""Height and width of an image, if a file gives them, its instances, and what is EXPORTED."""


@dataclass
class IndexRow:
    """What a file says of one image.

    Attributes:
        size: height and width; none if the file does not say.
        instances: those of the image, as far as they can be read.
        entry: the fingerprint of size and instances.
        scores: name → score of its best instance.
        problem: why it cannot be used, or "".
        undrawn: what the file says in place of masks, or "".
        is_exported: whether it is a computed mask as ``tools/export.py`` wrote it.
    """

    size: list[int] | None = None
    instances: list[Instance] = field(default_factory=list)
    entry: str = ""
    scores: dict[str, float] = field(default_factory=dict)
    problem: str = ""
    undrawn: str = ""
    is_exported: bool = False

    @property
    def content(self) -> str:
        """The fingerprint of all that decides what the image gets, a problem included."""
        return fingerprint(self.entry, self.problem) if self.problem else self.entry


@dataclass
class AnnotationIndex:
    """What files of annotations hold.

    Attributes:
        form: :data:`COCO`, :data:`LABEL_STUDIO` or :data:`LABELME`.
        rows: name of an image, without its suffix → what the file says of it.
        counts: name → number of its instances.
        remarks: what the user should know → how often it is so, and where first.
    """

    form: str
    rows: dict[str, IndexRow] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=Counter)
    remarks: dict[str, tuple[int, str]] = field(default_factory=dict)

    def remark(self, what: str, where: str) -> None:
        """Counts what the user should know."""
        count, first = self.remarks.get(what, (0, where))
        self.remarks[what] = count + 1, first

    def add(self, name: str, row: IndexRow) -> None:
        """Adds what a file says of an image; of two entries neither counts."""
        if name in self.rows:
            row.problem = "has two entries of it"
        self.rows[name] = row

    def add_image(self, name: str, read: Callable[[], ImageEntry]) -> IndexRow:
        """Adds an image; ``read`` may raise anything if the file is damaged."""
        row, remarks = IndexRow(), []
        try:
            row.size, row.instances, exported = read()
            for each in row.instances:
                row.scores[each.name] = max(each.score, row.scores.get(each.name, 0.0))
                remarks += each.remarks
            # The second version of this format is the same for equal values.
            shapes = marshal.dumps([each[1:] for each in row.instances], 2)
            row.entry = fingerprint(shapes, [each.name for each in row.instances], row.size)
            row.is_exported = bool(exported) and exported == exported_entry(row.size, row.instances)
        except Exception as error:
            row = IndexRow(problem=f"has an entry of it that cannot be read ({_reason(error)})")
            remarks = []
        for remark in remarks:
            self.remark(remark, f"image {shown(name)}")
        self.counts.update(each.name for each in row.instances)
        if any(each.shape == BOX for each in row.instances):
            row.undrawn = "an instance without an outline, such as a box"
        elif row.instances and not any(each.can_be_drawn for each in row.instances):
            is_region = any(each.shape for each in row.instances)
            row.undrawn = "only regions that cannot be drawn" if is_region else "only classes"
        self.add(name, row)
        return row


def exported_entry(size: list[int] | None, instances: Iterable[Instance]) -> str:
    """Returns the fingerprint of an image's size and instances, in whatever order these are."""
    return fingerprint(size, sorted(fingerprint(*each) for each in instances))


def holds_labelme(folder: Path) -> bool:
    """Tells whether a folder holds labelme's files; other programs put JSON beside PNGs."""
    for path in islice(folder.rglob("*.json"), _LOOKED_AT):
        with suppress(Exception):  # it is damaged
            if "shapes" in load_json(path):
                return True
    return False


def read_index(path: Path) -> AnnotationIndex:
    """Reads a file of COCO's or Label Studio's, or a folder of labelme's.

    Raises a UserError if the file is missing, damaged or too large, or is of another form.
    """
    if path.is_dir():
        index = AnnotationIndex(LABELME)
        for name in ids_below(path, ".json"):
            index.add_image(name, lambda name=name: labelme_entry(load_json(path / f"{name}.json")))
        return index
    with without_collection():  # which takes half the time
        return _read_file(path)


def _read_file(path: Path) -> AnnotationIndex:
    content = _load(path)
    is_results = isinstance(content, list) and any(
        isinstance(each, Mapping) and "image_id" in each for each in content
    )
    if isinstance(content, Mapping):
        index = _read_coco(path, content, content)
    elif is_results:
        if not (beside := path.with_name(_IMAGES)).is_file():
            raise UserError(
                f"{shown(path)} is a list of results, which names images by numbers: put the JSON"
                f" of the data set, with images and categories, beside it as {_IMAGES}"
            )
        index = _read_coco(path, {"annotations": content}, _load(beside))
    else:
        index = _read_label_studio(content if isinstance(content, list) else [])
    if not index.rows:
        remarks = "".join(f"; it has {n} {what}" for what, (n, _) in index.remarks.items())
        raise UserError(
            f"{shown(path)} holds neither images with COCO's annotations nor finished tasks of"
            f" Label Studio{remarks}: give such a file"
        )
    return index


def _load(path: Path) -> Any:  # noqa: ANN401
    try:
        with track(f"read {path.name}", 1):  # COCO's largest file takes ten seconds
            return load_json(path, _MAX_BYTES)
    except OSError as error:
        raise UserError(f"{shown(path)} cannot be read ({error.strerror}): {_REMEDY}") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{shown(path)} is not readable JSON ({error}): {_REMEDY}") from error


def _read_coco(path: Path, annotated: Mapping, described: Mapping) -> AnnotationIndex:
    """Reads a data set; or results, whose images and categories are ``described`` elsewhere."""
    index, listed = AnnotationIndex(COCO), dict[str, IndexRow]()
    annotations = defaultdict[str, list[Any]](list)  # by the ids of images
    for number, annotation in enumerate(_elements(annotated, "annotations"), 1):
        try:
            annotations[checked_id(annotation["image_id"])].append(annotation)
        except Exception as error:  # what other programs write raises nearly anything
            where = f"annotation {number} ({_reason(error)})"
            index.remark("annotations that are not COCO's", where)
    try:
        categories = _elements(described, "categories")
        names = {checked_id(each["id"]): str(each["name"]) for each in categories}
        if len(names) < len(categories):
            raise ValueError("two have one id")
    except Exception as error:
        reason = f"categories that are not COCO's ({_reason(error)})"
        raise UserError(f"{shown(path)} has {reason}: {_REMEDY}") from error
    for image in _elements(described, "images"):
        try:
            number, name = checked_id(image["id"]), image_name(image["file_name"])
        except Exception as error:
            index.remark("images that are not COCO's", _reason(error))
            continue
        if row := listed.get(number):
            row.problem = "has two images of its id"
            index.add(name, row)
        else:
            read = partial(_coco_image, image, annotations.pop(number, []), names)
            listed[number] = index.add_image(name, read)
    for number in annotations:
        index.remark("images with annotations that it does not list", f"id {shown(number)}")
    if index.rows and not isinstance(annotated.get("annotations"), list):
        raise UserError(f"{shown(path)} has no list of annotations: {_REMEDY}")
    return index


def _elements(content: Any, key: str) -> list[Any]:  # noqa: ANN401
    """Returns the list under a key of the file; anything else there is one damaged element."""
    found = content.get(key, []) if isinstance(content, Mapping) else []
    return found if isinstance(found, list) else [found]


def _read_label_studio(tasks: Iterable[Any]) -> AnnotationIndex:
    index = AnnotationIndex(LABEL_STUDIO)
    for number, task in enumerate(tasks, 1):
        try:
            name, annotation = label_studio_image(task), newest_annotation(task)
        except Exception as error:  # what other programs write raises nearly anything
            index.remark("tasks that are not Label Studio's", f"task {number} ({_reason(error)})")
            continue
        if annotation is None:
            index.remark("tasks without a submitted annotation", f"image {shown(name)}")
        else:
            index.add_image(name, partial(_read_task, task))
    return index


def _coco_image(image: Mapping, annotations: Iterable[Any], names: Mapping[str, str]) -> ImageEntry:
    size = checked_size(image.get("height"), image.get("width"))
    return size, [coco_instance(each, names) for each in annotations], image.get(EXPORTED)


def _read_task(task: Mapping) -> ImageEntry:
    return stated_size(task), label_studio_instances(task), task["data"].get(EXPORTED)


def labelme_entry(content: Mapping) -> ImageEntry:
    """Returns what a file of labelme's says; its export is known by the file."""
    return stated_size(content), [*labelme_instances(content)], None


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {shown(error)}"
