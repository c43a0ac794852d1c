"""The stage ``masks``: pseudo masks, from CAMs unless a method says otherwise."""

from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import median
from typing import Any, ClassVar

import numpy as np

from pipeline.cams.cams import read_cams
from pipeline.cams.method import CamOptions
from pipeline.clip.device import device_kind
from pipeline.clip.method_stage import MethodStage
from pipeline.configuration.settings import joined
from pipeline.datasets.corrected import Corrections
from pipeline.engine.kinds import MASKS
from pipeline.engine.records import PHOTOGRAPH
from pipeline.engine.results import Results
from pipeline.engine.sample import LOOKED_AT, Sample, Size, evenly
from pipeline.engine.stage import Computed, Decoded, Folders, Item, Output, Outputs, PerImage
from pipeline.engine.writer import Writer
from pipeline.errors import ImageError
from pipeline.files.fingerprints import fingerprint_cached
from pipeline.files.label_images import IGNORE
from pipeline.masks.labels import mask_files, read_pseudo_mask
from pipeline.masks.refiner import Given, Labelled, MaskOptions

ALL_BACKGROUND = 0.97
"""A larger share of the background in half of the masks is remarkable."""


@dataclass(frozen=True, kw_only=True, eq=False)
class CorrectableMasks(PerImage):
    """Masks that a stage computes, except for ``corrected`` ones, which a person made."""

    corrected: Corrections = Corrections()

    @cached_property
    def settings(self) -> dict[str, Any]:
        """All that changes a mask. The own key, of the computed ones, holds no corrections."""
        corrected = {"masks": facts} if (facts := self.corrected.key_facts) else {}
        return joined(super().settings, corrected)

    def own_legend(self) -> Mapping[str, Mapping[str, Any]]:
        """Returns the files of corrections."""
        return {**super().own_legend(), **self.corrected.legend}

    @property
    def manual_ids(self) -> Collection[str]:
        """The images whose masks a person made."""
        return self.corrected.masks

    def manual(self, sample: Sample, folders: Folders) -> Item:
        """Returns one of these images with its mask; it is drawn alone."""
        # Results before are named, though not read: lineage follows them.
        read = {name: folders[name].result_of(sample.id) for name in self.before}
        read |= {"correction": self.corrected.contents[sample.id]}
        inputs = {PHOTOGRAPH: fingerprint_cached(sample.image), **read}
        mask = self.corrected.masks[sample.id]
        return Item(sample, inputs, mask, is_manual=True, computed_with=sample.id)

    def draw(self, item: Item) -> Outputs | ImageError:
        """Returns what is stored of such a mask, whose probability is 1."""
        try:
            labels = item.given.labels(item.size)
        except ImageError as error:
            return error
        return self.stored(item, labels, np.ones(labels.shape, np.float32))

    def stored(self, item: Item, labels: np.ndarray, probability: np.ndarray | None) -> Outputs:
        """Returns what is stored of a mask and its probability."""
        palette, confidence = self.vocabulary.palette, self.options.confidence
        files = mask_files(item.sample.id, labels, probability, palette, confidence=confidence)
        return {MASKS.stage: Output(files)}


@dataclass(frozen=True, kw_only=True, eq=False)
class MaskStage(CorrectableMasks, MethodStage):
    """The pseudo masks of a split, whatever they are made from.

    ``cams`` are the settings of the CAMs; their method may make masks without CAMs.
    """

    name = command = "masks"
    kind = MASKS
    algorithm = 2
    options_base = MaskOptions
    cams: CamOptions | None = None
    from_cams: ClassVar[bool] = False
    """Whether it needs the CAMs of images, and with them tags."""
    takes_any_image = True

    def own_settings(self) -> dict[str, Any]:
        """Returns what masks depend on besides the images and the stages before."""
        return joined(super().own_settings(), {"num_classes": self.resources.num_classes})

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "corrected": Corrections()}  # items have their masks

    def statistics(self, writer: Writer, done: Sequence[Sample]) -> Mapping[str, Any]:
        """Returns the median, over a selection of masks, of the background's share of a mask."""
        before = writer.results.statistics
        if done and before and not writer.has_changed:
            return before
        masks = (read_pseudo_mask(writer.path, s.id)[1] for s in evenly(done, LOOKED_AT))
        shares = [float((mask == 0).mean()) for mask in masks]
        return {"background": median(shares)} if shares else {}

    def remark(self, results: Results, ids: Collection[str]) -> str:
        """Returns a remark if masks are nearly all background."""
        if (share := results.statistics.get("background", 0)) <= ALL_BACKGROUND:
            return ""
        return (
            f"half of the masks of split {results.split} are at least {share:.1%} background, and a"
            " segmenter may learn nothing else: look at the masks and tags in the report"
        )

    def checked(self, found: Labelled, size: Size, image_id: str = "") -> Labelled:
        """Returns the labels of an image and their probability as they are.

        Raises a UserError if they are not of the image's ``size``, not labels, or not in [0, 1].
        """
        if not isinstance(found, tuple | list) or len(found) != 2:
            kind = type(found).__name__
            raise self.wrong(f"{kind}, not labels and their probability or None,", image_id)
        labels, probability = found
        kind = getattr(labels, "dtype", type(labels).__name__)
        if kind != np.uint8:
            raise self.wrong(f"labels of type {kind}, not uint8,", image_id)
        if probability is not None:
            probability = self.numbers("probabilities", probability, image_id)
        for what, array in (("labels", labels), ("probabilities", probability)):
            if array is not None and np.shape(array) != tuple(size):
                found, wanted = ("×".join(map(str, s)) for s in (np.shape(array), size))
                raise self.wrong(f"{what} of shape {found}, not {wanted},", image_id)
        last = self.resources.num_classes
        if (unknown := labels[(labels > last) & (labels != IGNORE)]).size:
            raise self.wrong(f"label {unknown[0]}, where the last one is {last},", image_id)
        if probability is None and self.options.confidence:
            raise self.wrong("no probabilities, which masks.confidence requires,", image_id)
        return labels, probability

    def outputs(self, item: Item, found: Labelled | ImageError) -> Outputs | ImageError:
        """Returns what is stored for an image, or why nothing is; raises as :meth:`checked`."""
        if isinstance(found, ImageError):
            return found
        return self.stored(item, *self.checked(found, item.size, item.sample.id))


@dataclass(frozen=True, kw_only=True, eq=False)
class Masks(MaskStage):
    """Pseudo masks that a refiner makes from CAMs."""

    from_cams = True

    @cached_property
    def machine(self) -> Sequence[str]:
        """The kind of the device, if the refiner computes on it."""
        return (
            [f"device={device_kind(self.resources.device)}"] if self.options.method.on_gpu else ()
        )

    @cached_property
    def refiner_facts(self) -> dict[str, Any]:
        """What a refined probability depends on besides the image and what is refined."""
        method, quirks = self.options.method, vars(self.resources.quirks)
        return joined(method.key_facts, self.option_facts(), quirks)

    @property
    def batch_size(self) -> int | None:
        """None unless a GPU refines: pydensecrf holds Python's global lock."""
        return 1 if any(trait != "device=cpu" for trait in self.machine) else None

    def item(self, sample: Sample, folders: Folders) -> Item:
        """Returns an image with its CAMs."""
        cams = folders["cams"]
        return super().item(sample, folders).reading({"cams": cams.result_of(sample.id)}, cams.path)

    def compute(self, images: Decoded, model: Callable[[], Any]) -> Computed:
        """Labels the pixels of images."""
        unreadable: deque[tuple[Item, ImageError]] = deque()

        def with_cams() -> Iterator[Given]:
            for item, image in images:
                try:
                    yield item, image, read_cams(item.given / f"{item.sample.id}.npz")
                except ImageError as error:
                    unreadable.append((item, error))

        for item, found in model().stream(with_cams()):
            while unreadable:
                yield unreadable.popleft()
            yield item, self.outputs(item, found)
        yield from unreadable
