"""Instances, regions with the name of a class and a score, and the labels that follow from them."""

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit

import numpy as np

from pipeline.datasets.rasterise import FIGURES, MIN_COORDINATES, rasterise
from pipeline.errors import shown
from pipeline.files.images import SUFFIXES
from pipeline.files.label_images import IGNORE

BOX = ("box",)
"""The shape of an instance whose outline a file does not give."""

_CHOICES, _LABELS, _KEYPOINT = "choices", "labels", "keypoint"  # of Label Studio's types
# Label Studio's results about images and regions, which are neither regions nor classes.
_ABOUT = ("datetime", "number", "pairwise", "ranker", "rating", "relation", "taxonomy", "textarea")
_PLACES = {"x", "points", "rle", "imageDataURL"}  # of a region: one of these
_UPLOAD = re.compile(r"^(.*/)?upload/(.*/)?[0-9a-f]{8}-(?=[^/]+$)")  # what Label Studio adds
_ADDRESS = re.compile(r"\w+://|/data/")  # else a path, in which # and ? mean nothing


class Instance(NamedTuple):
    """A region of an image.

    Attributes:
        name: of its class, as the file gives it.
        score: in [0, 1].
        is_crowd: whether it holds several objects, so that its pixels are ignored.
        shape: see :func:`~pipeline.datasets.rasterise.rasterise`; a tuple with the type of a region
            that cannot be drawn, such as :data:`BOX`; or none for a class of the whole image.
    """

    name: str
    score: float
    is_crowd: bool
    shape: Any

    @property
    def can_be_drawn(self) -> bool:
        """Whether the file gives its outline."""
        return self.shape is not None and not isinstance(self.shape, tuple)

    @property
    def remarks(self) -> Iterator[str]:
        """What the user should know about it; damaged shapes raise nearly anything."""
        if self.is_crowd:
            yield "crowds (iscrowd), whose pixels are ignored"
        few = type(self.shape) is list and min(map(len, self.shape), default=0) < MIN_COORDINATES
        if few and {*map(np.ndim, self.shape)} <= {1}:  # else it is damaged
            yield "shapes that cover nothing, such as polygons of two corners"
        if isinstance(self.shape, tuple) and self.shape != BOX:
            yield f"regions of the type {shown(*self.shape)}, which cannot be drawn"


def draw(
    instances: Iterable[Instance],
    label_of: Callable[[str], int | None],
    size: tuple[int, int],
    min_score: float,
) -> np.ndarray:
    """Returns the labels of an image, H×W uint8: 0 background, k+1 class k, 255 ignore.

    At a pixel the highest score wins, then the smaller drawn area, then the earlier instance.
    Crowds and instances below ``min_score`` are ignored pixels where no other instance lies; those
    of names to which ``label_of`` gives no label are left out. The ``size`` is height and width.
    Raises a ValueError if a shape cannot be used; damaged shapes raise other types as well.
    """
    labels = np.zeros(size, np.uint8)
    best, area = np.full(size, -1.0), np.zeros(size, np.int64)
    unsure = np.zeros(size, bool)
    for instance in instances:
        label = label_of(instance.name)
        if label is None or not instance.can_be_drawn:
            continue
        inside = rasterise(instance.shape, *size)
        if instance.is_crowd or instance.score < min_score:
            unsure |= inside
            continue
        drawn, score = np.count_nonzero(inside), instance.score
        won = inside & ((best < score) | ((best == score) & (area > drawn)))
        labels[won], best[won], area[won] = label, score, drawn
    labels[unsure & (best < 0)] = IGNORE
    return labels


def checked_score(score: object) -> float:
    """Returns the score of an instance, 1 where there is none; raises a ValueError."""
    if score is None:
        return 1.0
    if isinstance(score, bool) or not isinstance(score, int | float) or not 0 <= score <= 1:
        raise ValueError(f"a score of {shown(score)}, where 0 to 1 is expected")
    return float(score)


def checked_size(height: object, width: object) -> list[int] | None:
    """Returns the size of an image, none where a file does not say it; raises a ValueError."""
    size = [height, width]
    if size == [None, None]:
        return None
    if not all(type(side) is int and side > 0 for side in size):
        raise ValueError(f"an image of {shown(width)}×{shown(height)} pixels")
    return size


def checked_id(value: object) -> str:
    """Returns an id as text, since some programs write numbers as text; raises a ValueError."""
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise ValueError(f"an id that is {shown(value)}")
    return str(value)


def coco_instance(annotation: Mapping[str, Any], names: Mapping[str, str]) -> Instance:
    """Returns an annotation of COCO's; ``names`` has those of the categories, by their ids.

    What is not an annotation raises nearly anything, here and below.
    """
    if not (name := names.get(checked_id(annotation["category_id"]))):
        raise ValueError("an annotation without a known category")
    score, shape = checked_score(annotation.get("score")), annotation.get("segmentation") or BOX
    is_crowd = annotation.get("iscrowd") not in (None, 0, "0")
    return Instance(name, score, is_crowd, shape)


def label_studio_instances(task: Mapping[str, Any]) -> list[Instance]:
    """Returns the regions and choices of a task; see :func:`newest_annotation`."""
    found, images, results = [], set(), newest_annotation(task)["result"]
    # Labels may be results of their own, with the id of their region.
    labels = {r.get("id"): r["value"][_LABELS] for r in results if r["type"] == _LABELS}
    regions = {r.get("id") for r in results if r["type"] != _LABELS}
    for result in results:
        kind, value = result["type"], result.get("value")
        value = value if isinstance(value, Mapping) else {}
        if kind in _ABOUT or kind.startswith(_KEYPOINT) or "start" in value:  # of text or audio
            continue
        if kind == _LABELS and result.get("id") in regions:
            continue
        names = value.get(kind) or labels.get(result.get("id"), [])
        names = [names] if isinstance(names, str) else names
        score = checked_score(result.get("score"))
        if kind != _CHOICES and _PLACES.isdisjoint(value):
            names = names if names and isinstance(names, list) else [kind]
            found += [Instance(name, score, False, (kind,)) for name in names]
            continue
        if result.get("image_rotation"):
            raise ValueError("a rotated image")
        images.add(result.get("to_name"))
        if len(images) > 1:
            raise ValueError("results of two images")
        shape: Any = None if kind == _CHOICES else BOX
        if "rle" in value:
            shape = {"rle": value["rle"]}
        elif "imageDataURL" in value:
            shape = {"png": value["imageDataURL"].partition(",")[2], "corner": None}
        elif "points" in value:
            sides = np.array([result["original_width"], result["original_height"]])
            shape = [(np.array(value["points"], np.float64) * sides / 100).ravel().tolist()]
        if not names and kind != _CHOICES:
            raise ValueError(f"a {kind} without a label")
        found += [Instance(name, score, False, shape) for name in names]
    return found


def newest_annotation(task: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Returns a task's newest annotation that was not cancelled; none if there is none."""
    kept = [each for each in task.get("annotations") or [] if not each.get("was_cancelled")]
    if len(kept) > 1:
        kept.sort(key=_saved)  # of equal dates the last one counts, as in a file without dates
    return kept[-1] if kept else None


def _saved(annotation: Mapping[str, Any]) -> datetime:
    date = annotation.get("updated_at") or annotation.get("created_at") or f"{datetime.min}"
    found = datetime.fromisoformat(date)
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def label_studio_image(task: Mapping[str, Any]) -> str:
    """Returns the name of a task's image, without the address and Label Studio's prefix."""
    paths = [_path(value) for value in task["data"].values() if isinstance(value, str)]
    named = [path for path in paths if path.lower().endswith(SUFFIXES)]
    if len({path.rpartition("/")[2] for path in named}) > 1:
        raise ValueError("two images")
    name = image_name([*named, *paths][0])
    own = task["data"].get("id")  # which tools/export.py writes
    return own if isinstance(own, str) and f"/{name}".endswith(f"/{own}") else name


def _path(address: str) -> str:
    if not _ADDRESS.match(address):
        return _UPLOAD.sub("", address)
    parts = urlsplit(address)
    local = parse_qs(parts.query).get("d")  # of files that Label Studio serves from a folder
    path = local[0] if local else unquote(parts.path)
    is_stored = bool(local) or parts.scheme not in ("", "http", "https")  # where it adds nothing
    return path if is_stored else _UPLOAD.sub("", path)


def image_name(path: str, known: Collection[str] = ()) -> str:
    """Returns a path in a file of annotations without an image's suffix, unless it is ``known``."""
    path = path.replace("\\", "/").removeprefix("./")
    stem, _, suffix = path.rpartition(".")
    return stem if stem and path not in known and f".{suffix}".lower() in SUFFIXES else path


def stated_size(element: Mapping[str, Any]) -> list[int] | None:
    """Returns height and width in a task of Label Studio's, or a file of labelme's."""
    if "shapes" in element:
        return checked_size(element.get("imageHeight"), element.get("imageWidth"))
    results = newest_annotation(element)["result"]
    sizes = {(each.get("original_height"), each.get("original_width")) for each in results}
    if len(sizes := sizes - {(None, None)}) > 1:
        raise ValueError("an image of two sizes")
    return checked_size(*sizes.pop()) if sizes else None


def labelme_instances(content: Mapping[str, Any]) -> Iterator[Instance]:
    """Yields the shapes with an area in a file of labelme's."""
    for shape in content["shapes"]:
        points = np.array(shape["points"], np.float64).reshape(-1, 2).tolist()
        kind = shape.get("shape_type") or "polygon"
        if kind in ("point", "points", "line", "linestrip"):
            continue
        if kind == "polygon" and len(points) < MIN_COORDINATES / 2:
            drawn: Any = []
        elif kind == "mask":
            drawn = {"png": shape["mask"], "corner": points[0]}
        elif kind in FIGURES:
            drawn = {"figure": kind, "points": points}
        else:
            raise ValueError(f"a shape of type {shown(kind)}")
        yield Instance(shape["label"], 1.0, False, drawn)
