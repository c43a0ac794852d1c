"""The stage ``masks``: pseudo masks from CAMs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.cams.cams import read_cams
from pipeline.clip.method_stage import MethodStage
from pipeline.engine.sample import Sample
from pipeline.engine.settings import joined
from pipeline.engine.stage import Computed, Folders, Item, Output
from pipeline.errors import ImageError
from pipeline.files.fingerprints import fingerprint_image, join_keys
from pipeline.masks.labels import mask_files
from pipeline.masks.refiner import MaskOptions


@dataclass(frozen=True, kw_only=True, eq=False)
class Masks(MethodStage):
    """The pseudo masks of a split."""

    name = command = "masks"
    kind = "pseudo masks"
    algorithm = 2
    decisive = ("method", "crf")
    options_base = MaskOptions
    in_processes = True  # pydensecrf holds Python's global lock

    def own_settings(self) -> dict[str, Any]:
        """Returns what masks depend on besides the CAMs."""
        return joined(super().own_settings(), {"num_classes": self.resources.num_classes})

    def item(self, sample: Sample, folders: Folders) -> Item:
        """Returns an image with the fingerprint of its CAMs."""
        cams = folders["cams"].output_key(sample.id)
        return Item(sample, join_keys(fingerprint_image(sample.image), cams))

    def load(self, inputs: Mapping[str, Path]) -> tuple[Any, Path]:
        """Builds the refiner, and returns it with the folder of the CAMs."""
        return super().load(inputs), inputs["cams"]

    def compute(self, items: Sequence[Item], model: Callable[[], Any]) -> Computed:
        """Labels the pixels of images."""
        refine, folder = model()
        for item in items:
            image_id = item.sample.id
            try:
                image, _ = self.reading.decode(item.sample)
                labels, probability = refine(image, read_cams(folder / f"{image_id}.npz"))
            except ImageError as error:
                yield item, error
                continue
            files = mask_files(
                image_id,
                labels,
                probability,
                self.vocabulary.palette,
                confidence=self.options.confidence,
                keep_probability=self.options.keep_probability,
            )
            yield item, [Output(files)]
