"""Samples, splits and data sets."""

from abc import ABC, abstractmethod
from collections import UserDict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Generic, TypeVar
from unicodedata import normalize

import numpy as np

from pipeline.errors import ImageError, NoEntry, UserError, check_choice, shown
from pipeline.files.fingerprints import fingerprint, fingerprint_cached
from pipeline.files.images import decode_image, limit_longest_side
from pipeline.files.label_images import IGNORE

Labels = tuple[int, ...]
"""Class indices from 0, sorted."""

Size = tuple[int, int]
"""Height and width in pixels."""

Element = TypeVar("Element")
VocabularyType = TypeVar("VocabularyType")
"""The engine passes class names on, and does not read them."""

LOOKED_AT = 64
"""Images whose results are looked at for remarks, where files have to be read."""


def evenly(elements: Sequence[Element], number: int) -> list[Element]:
    """Returns at most so many elements, at even distances, the first and the last among them."""
    places = np.linspace(0, len(elements) - 1, min(number, len(elements)))
    return [elements[place] for place in places.round().astype(int).tolist()]


def ids_below(folder: Path, *suffixes: str) -> Iterator[str]:
    """Yields the ids of the images whose files, with such a suffix, lie below a folder."""
    for path in sorted(folder.rglob("*")):
        if path.suffix in suffixes:
            yield path.relative_to(folder).with_suffix("").as_posix()


class ByName(UserDict[str, Element]):
    """Name of an image, in NFC → what there is of it; any Unicode normalisation finds it.

    Files of other systems have names in another one than the images.
    """

    def __setitem__(self, name: str, element: Element) -> None:
        self.data[normalize("NFC", name)] = element

    def __getitem__(self, name: str) -> Element:
        return self.data[normalize("NFC", name)]

    def __contains__(self, name: object) -> bool:
        return normalize("NFC", str(name)) in self.data


def spellings(name: str) -> list[str]:
    """Returns a name as it is and in both Unicode normalisations, each form once."""
    return [*dict.fromkeys([name, *(normalize(form, name) for form in ("NFC", "NFD"))])]


def find_file(folder: Path, image_id: str, what: str, *suffixes: str) -> Path:
    """Returns an image's file below a folder, in any Unicode normalisation of its name.

    Raises an ImageError if there are two, in different spellings or with different suffixes, or
    (NoEntry) none.
    """
    names = [f"{name}{suffix}" for suffix in suffixes for name in spellings(image_id)]
    paths = [path for path in map(folder.joinpath, names) if path.is_file()]
    found = [*{path.stat().st_ino: path for path in paths}.values()]  # some systems know no forms
    if not found:
        missing = folder / f"{image_id}{suffixes[0]}"
        raise NoEntry(f"has no {what}: {missing} is missing", ids_below(folder, *suffixes))
    if len(found) > 1:
        raise ImageError(f"has two files of {what}, {found[0]} and {found[1]}: remove one")
    return found[0]


class GroundTruthMask(ABC):
    """The mask of one image; can be pickled.

    Attributes:
        file: a file that holds the masks of many images; of this one, the ``origin`` says all.
    """

    file: Path | None = None

    @abstractmethod
    def read(self) -> np.ndarray:
        """Returns the labels, H×W uint8: 0 background, k+1 class k, 255 ignore.

        Raises a UserError if the file is missing, damaged or has colours instead of labels.
        """

    @property
    def origin(self) -> list[Any]:
        """What the labels follow from: values that JSON can hold, and paths of files."""
        return [v for k, v in vars(self).items() if k not in ("image_id", "max_pixels", "file")]

    @property
    def contents(self) -> list[Any]:
        """The :attr:`origin`, with :func:`content_of` each file in its place."""
        return [content_of(v) if isinstance(v, Path) else v for v in self.origin]


@dataclass(frozen=True)
class Sample:
    """One image.

    Attributes:
        id: the image's path relative to the image root, without its suffix.
        image: the image file.
        mask: the ground-truth mask, if there is one.
        labels: class indices from 0, sorted, or a function that reads them; none if the mask gives
            them, or if the image has no ground truth.
        is_there: false of an image that a run draws first.
    """

    id: str
    image: Path
    mask: GroundTruthMask | None = None
    labels: Labels | Callable[[], Labels] | None = None
    is_there: bool = True

    @property
    def file(self) -> str:
        """The image's path relative to the image root."""
        return f"{self.id}{self.image.suffix}"

    @property
    def has_ground_truth(self) -> bool:
        """Whether the image's classes are known."""
        return self.labels is not None or self.mask is not None

    @cached_property
    def ground_truth_labels(self) -> Labels:
        """The classes in the image: ``labels`` if given, else those in the mask.

        Raises a UserError if the image has no ground truth, or it is damaged.
        """
        if self.labels is not None:
            return tuple(sorted(self.labels() if callable(self.labels) else self.labels))
        if self.mask is None:
            raise UserError(f"image {self.id} has no ground truth: choose a tagger that needs none")
        values = np.unique(self.mask.read())
        return tuple(int(value) - 1 for value in values if value not in (0, IGNORE))


def contents(samples: Iterable[Sample]) -> dict[str, str]:
    """Returns id → fingerprint of each image's content; "" for a file that cannot be read."""
    return {sample.id: content_of(sample.image) for sample in samples}


def content_of(path: Path) -> str:
    """Returns the fingerprint of a file's content; "" for a file that cannot be read."""
    try:
        return fingerprint_cached(path)
    except (OSError, ValueError):
        return ""


class Splits(UserDict[str, Any], Generic[Element]):
    """Split → samples in a fixed order, or their ids, or a function that reads on first access.

    Annotation files have hundreds of megabytes, and most runs need one of them.
    """

    def __getitem__(self, split: str) -> list[Element]:
        if callable(samples := self.data[split]):
            samples = self.data[split] = samples()
        return samples


@dataclass(frozen=True)
class Dataset(Generic[VocabularyType]):
    """A vocabulary and the samples of every split.

    Attributes:
        vocabulary: the class names.
        splits: split → samples, in a fixed order.
        rejected: split → (image id, reason) of the files that cannot be samples.
        train_split: the split that the segmenter is trained on.
        notes: what the user should know about the files, a sentence each.
        all_ids: split → the ids of all its images, where ``splits`` hold a selection.
    """

    vocabulary: VocabularyType
    splits: Mapping[str, list[Sample]]
    train_split: str
    rejected: dict[str, list[tuple[str, str]]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    all_ids: Mapping[str, Collection[str]] | None = None


@dataclass(frozen=True)
class ImageReader:
    """Reads the images of a run; can be pickled, and then reads them in one thread.

    Attributes:
        apply_exif: see :func:`pipeline.files.images.decode_image`.
        max_pixels: see :func:`pipeline.files.images.decode_image`.
        longest_side: larger images are shrunk to this size in pixels.
        threads: the number of threads that decode.
        prefetch: the number of images that are decoded before a model asks for them.
    """

    apply_exif: bool = False
    max_pixels: int | None = None
    longest_side: int | None = None
    threads: int = 1
    prefetch: int = 2

    @property
    def key_facts(self) -> dict[str, int | bool | None]:
        """The settings that change the pixels of an image, for a cache key."""
        return {"longest_side": self.longest_side, "exif": not self.apply_exif}

    def __call__(self, sample: Sample) -> tuple[np.ndarray, Size]:
        """Returns the image, h×w×3 uint8, shrunk if too large, and its full height and width.

        Raises an ImageError if the file is not an image, is damaged, or is too large.
        """
        image = decode_image(sample.image, apply_exif=self.apply_exif, max_pixels=self.max_pixels)
        return limit_longest_side(image, self.longest_side), image.shape[:2]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "threads": 1}  # there are several workers


@dataclass(frozen=True)
class Images:
    """The images of a run: the first ``limit`` of each split of a data set.

    Attributes:
        further: a data set of one split, by its name, for each folder of pictures beside them,
            which has no limit.
    """

    dataset: Dataset
    limit: int | None = None
    further: Splits = field(default_factory=Splits, compare=False)
    _batches: dict[tuple[str, int | None], dict[str, str]] = field(
        default_factory=dict, repr=False, compare=False
    )

    def of(self, split: str) -> list[Sample]:
        """Returns the images of a split, or raises a UserError if the data set does not have it."""
        dataset = self.further.get(split, self.dataset)
        check_choice(f"there is no split {shown(split)}", split, dataset.splits)
        return dataset.splits[split][: None if split in self.further else self.limit]

    def rejected(self, split: str) -> dict[str, str]:
        """Returns id → reason, of the files that cannot be samples."""
        return dict(self.further.get(split, self.dataset).rejected.get(split, []))

    def known_ids(self, split: str) -> set[str]:
        """Returns the ids of all images of a split, whatever the limit or the list of images."""
        dataset = self.further.get(split, self.dataset)
        all_ids = dataset.all_ids
        ids = all_ids[split] if all_ids else [sample.id for sample in dataset.splits[split]]
        return {*ids, *self.rejected(split)}

    def batches(self, split: str, size: int | None = None) -> Mapping[str, str]:
        """Returns id → fingerprint of the contents of the batch that an image is in.

        The list of a split is cut into batches of ``size``, of which the last one may be smaller;
        without a size, the list is the batch. Of a file that cannot be read, the name counts.
        """
        if (split, size) not in self._batches:
            found = self._batches[split, size] = {}
            samples = self.of(split)
            for start in range(0, len(samples), size or max(1, len(samples))):
                batch = contents(samples[start : start + (size or len(samples))])
                found |= dict.fromkeys(batch, fingerprint([*batch.items()]))
        return self._batches[split, size]
