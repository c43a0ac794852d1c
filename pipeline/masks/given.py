"""``masks=file``: masks of people or of other programs, which need neither tags nor CAMs."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pipeline.datasets.annotations import refuse_brush
from pipeline.datasets.mask_images import Reading
from pipeline.engine.progress import note
from pipeline.engine.sample import Sample
from pipeline.engine.stage import Computed, Decoded, Folders, Item
from pipeline.files.fingerprints import fingerprint_image, join_keys
from pipeline.files.text import given_path, last_names
from pipeline.masks.refiner import labelled
from pipeline.masks.stage import MaskStage


@dataclass(frozen=True, kw_only=True, eq=False)
class GivenMasks(MaskStage):
    """Masks that are read.

    The key holds :func:`~pipeline.files.text.last_names` of their file or folder. What is said of
    an image is part of its input.
    """

    takes_any_image = False
    batch_size = None  # drawing masks keeps one core busy

    @property
    def note(self) -> str:
        """The file or folder that the masks are from."""
        return f"pseudo masks of {self._name}"

    @property
    def _name(self) -> str:
        return last_names(given_path(self.options.path, "masks.path"))

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
        reading = Reading.of(self.options, "masks", self.vocabulary.classes).facts
        return {**settings, "path": self._name, "reading": reading}

    def item(self, sample: Sample, folders: Folders) -> Item:
        """Returns an image with what is said of it; raises a NoEntry if there is nothing."""
        found = self.annotations("path").find(sample.id)
        return Item(sample, join_keys(fingerprint_image(sample.image), found.content), found)

    def compute(self, images: Decoded, model: Callable[[], Any]) -> Computed:
        """Draws the masks of images."""
        for item, _ in images:
            found = labelled(lambda size, given=item.given: (given.labels(size), None), item.size)
            yield item, self.outputs(item, found)
