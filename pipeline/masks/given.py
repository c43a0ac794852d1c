"""``masks=file`` and ``masks=ground_truth``: masks that are read, which need no tags and CAMs."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.datasets.annotations import refuse_brush, refuse_other_size
from pipeline.datasets.mask_images import Reading
from pipeline.engine.pool import prefetch
from pipeline.engine.progress import note, track
from pipeline.engine.sample import Sample
from pipeline.engine.stage import Computed, Decoded, Folders, Item
from pipeline.errors import ImageError, NoEntry, UserError
from pipeline.files.fingerprints import fingerprint
from pipeline.files.images import read_size
from pipeline.files.text import last_names
from pipeline.masks.refiner import labelled
from pipeline.masks.stage import MaskStage


@dataclass(frozen=True, kw_only=True, eq=False)
class GivenMasks(MaskStage):
    """Masks that are read.

    What is said of an image is one of its inputs.
    """

    takes_any_image = False
    batch_size = None  # drawing masks keeps one core busy

    @property
    def note(self) -> str:
        """The file or folder that the masks are from."""
        return f"pseudo masks of {last_names(self.options.path, 'masks.path')}"

    def check(self) -> None:
        """Refuses files that cannot be read, and says what in them is left out."""
        super().check()
        found = self.annotations("path")
        refuse_brush(found, (sample.id for sample in self.images.of(self.split)), "masks.path")
        note(*found.notes)

    def own_settings(self) -> dict[str, Any]:
        """Returns what masks depend on, except the files."""
        settings = super().own_settings()
        del settings["colours"]
        reading = Reading.of(self.options, "masks", self.vocabulary.classes).key_facts
        return {**settings, "reading": reading}

    def item(self, sample: Sample, folders: Folders) -> Item:
        """Returns an image with what is said of it; raises a NoEntry if there is nothing."""
        found = self.annotations("path").find(sample.id)
        return super().item(sample, folders).reading({"given": found.content}, found)

    def unusable(self, items: Sequence[Item]) -> Mapping[str, str]:
        """Reads the masks as a run would, but of the photographs only the size."""

        def read(item: Item) -> None:
            item.given.labels(read_size(item.sample.image, self.reader.apply_exif))

        with track("check masks", len(items)) as advance:
            reasons = {}
            for item, error in prefetch(items, read, self.reader.threads, 4, caught=(ImageError,)):
                advance()
                reasons |= {item.sample.id: str(error)} if error else {}
        return reasons

    def compute(self, images: Decoded, model: Callable[[], Any]) -> Computed:
        """Draws the masks of images."""
        for item, _ in images:
            found = labelled(lambda size, given=item.given: (given.labels(size), None), item.size)
            yield item, self.outputs(item, found)


@dataclass(frozen=True, kw_only=True, eq=False)
class GroundTruthMasks(MaskStage):
    """The ground truth, for a network that is trained with full supervision."""

    is_ground_truth = True
    takes_any_image = False
    batch_size = None

    def check(self) -> None:
        """Refuses a split of which fewer than half of the images have a mask."""
        super().check()
        masks = [sample.mask is not None for sample in self.images.of(self.split)]
        if 2 * sum(masks) < len(masks):
            raise UserError(
                f"{sum(masks)} of {len(masks)} images of split {self.split} have masks, fewer than"
                " half, and masks=ground_truth reads them: give dataset.masks, or another masks="
            )

    def item(self, sample: Sample, folders: Folders) -> Item:
        """Returns an image with its ground truth; raises a NoEntry if there is none."""
        if sample.mask is None:
            raise NoEntry("has no ground-truth mask")
        origin = fingerprint(sample.mask.contents)
        return super().item(sample, folders).reading({"given": origin}, sample.mask)

    def compute(self, images: Decoded, model: Callable[[], Any]) -> Computed:
        """Reads the masks of images."""
        for item, _ in images:
            try:
                labels = item.given.read()
                refuse_other_size(labels.shape, item.size)
            except (ImageError, UserError) as error:
                yield item, ImageError(f"its ground truth cannot be used: {error}")
            else:
                yield item, self.outputs(item, (labels, None))
