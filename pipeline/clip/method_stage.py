"""The base of the stages of tags, CAMs and masks, whose results a registered method computes."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from pipeline.clip.frozen import Resources
from pipeline.clip.settings import MethodOptions
from pipeline.configuration.registry import TEMPLATES, method_of, templates_in_key
from pipeline.configuration.settings import joined, key_facts, plain, rule_of
from pipeline.datasets.annotations import Annotations
from pipeline.datasets.regions import SLIC, SUFFIXES, RegionSettings
from pipeline.datasets.vocabulary import Vocabulary
from pipeline.engine.records import BATCH
from pipeline.engine.sample import Images, Sample, find_file
from pipeline.engine.stage import Folders, Item, PerImage
from pipeline.errors import ImageError, UserError, refusing_exit
from pipeline.files.atomic import cannot_write
from pipeline.files.fingerprints import fingerprint_cached
from pipeline.files.text import given_folder, last_names

TOLERANCE = 1e-3
"""What rounding may add to [0, 1] in a score, a CAM or a probability."""


def facts_of(options: MethodOptions) -> dict[str, Any]:
    """Returns what changes a result, as plain values, of settings that may name templates."""
    found, declared = key_facts(options), fields(options)
    sets = [each.name for each in declared if rule_of(each).choices is TEMPLATES]
    return found | {name: templates_in_key(found[name]) for name in sets if name in found}


@dataclass(frozen=True, kw_only=True, eq=False)
class MethodStage(PerImage):
    """A stage on one split that a method computes.

    Attributes:
        options: the settings of the method that they choose.
        resources: what it is built from.
        files: the settings that name files of regions and second backbones; by default the options.
        images: the images of the run; none for single images.
        dependent_batch: the size of the batch on which each result depends; 0 if there is none.
        annotations: opens the file that a setting of the method names; see
            :func:`~pipeline.datasets.annotations.open_annotations`.
        options_base: what the settings of every method of the stage are derived from.

    Raises:
        UserError: the settings of the method are not.
    """

    options_base: ClassVar[type] = MethodOptions
    options: MethodOptions
    resources: Resources
    files: MethodOptions | None = None
    images: Images | None = None
    dependent_batch: int = 0
    annotations: Callable[[str], Annotations] | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.options, self.options_base):
            name = method_of(self.options).name
            raise UserError(
                f"{type(self.options).__name__}, the settings of {self.command}={name},"
                f" lack what the stage reads: derive them from {self.options_base.__name__}"
            )
        object.__setattr__(self, "files", self.files or self.options)

    @cached_property
    def region_folder(self) -> Path | None:
        """The folder of the files of regions; none if the method reads none."""
        reads = isinstance(self.files, RegionSettings)
        return self.files.region_folder(self.region_key) if reads else None

    @property
    def region_key(self) -> str:
        """The setting that names the folder."""
        return f"{self.files.method.group}.regions"

    @property
    def vocabulary(self) -> Vocabulary:
        """The class names."""
        return self.resources.vocabulary

    @cached_property
    def machine(self) -> Sequence[str]:
        """Those traits of the machine by which CLIP's features of images differ."""
        is_seen_by_clip = self.options.method.uses_clip and self.reads_images
        return self.resources.clip.machine if is_seen_by_clip else ()

    def check(self) -> None:
        """Refuses a file that is not a CLIP's, and settings that do not suit a CLIP."""
        if self.region_folder is not None:
            given_folder(self.files.regions, self.region_key, f"<id>.png or <id>.json, or {SLIC}")
        for each in self.resources.seconds.values():
            each.check()
        if (clip := self.resources.clip) is None:
            return
        remedy = self.options.without_whole_image(self.command)
        if remedy and not clip.origin.has_whole_image:
            raise UserError(f"clip.model={clip.model} does not embed whole images: {remedy}")
        if clip.dimensions is not None:
            self.options.validate_for(clip.dimensions, self.command)

    def option_facts(self) -> dict[str, Any]:
        """Returns the settings of the method that the results depend on."""
        try:
            found = facts_of(self.options) | self.options.contents(self.vocabulary)
            return self.with_files(found) if self.files is self.options else found
        except OSError as error:
            raise cannot_write(error.filename, error, "read") from error

    def own_settings(self) -> dict[str, Any]:
        """Returns what the results depend on besides the images and the stages before."""
        options = self.option_facts()
        # A method's own backgrounds take the place of the vocabulary's, unless they are null.
        if options.get("backgrounds", ()) is None:
            del options["backgrounds"]
        read = {part: plain(getattr(self.vocabulary, part)) for part in self.options.method.reads}
        if "backgrounds" in options:
            read.pop("backgrounds", None)
        clip = {"clip": self.resources.clip.key_facts()} if self.resources.clip else {}
        decoding = self.reader.key_facts if self.reads_images else {}
        quirks = vars(self.resources.quirks)
        return joined(self.options.method.key_facts, options, decoding, quirks, read, clip)

    def with_files(self, found: dict[str, Any]) -> dict[str, Any]:
        """Returns settings of the method for the key, with what its files hold.

        Second backbones have their weights, and files of regions stand in place of SLIC.
        """
        found = found | {name: each.key_facts() for name, each in self.resources.seconds.items()}
        if self.region_folder is None:
            return found
        found = {name: value for name, value in found.items() if name != "slic"}
        return found | {"regions": f"folder {last_names(self.region_folder, 'regions')}"}

    def item(self, sample: Sample, folders: Folders) -> Item:
        """Returns an image, with its batch and regions if the result depends on them."""
        item = super().item(sample, folders)
        if self.dependent_batch:
            batch = self.images.batches(self.split, self.dependent_batch)[sample.id]
            item = replace(item.reading({BATCH: batch}), computed_with=batch)
        if self.region_folder is None:
            return item
        try:
            path = find_file(self.region_folder, sample.id, "regions", *SUFFIXES)
        except ImageError:
            self.check()  # the whole folder may have gone
            raise
        return replace(item.reading({"regions": fingerprint_cached(path)}), regions=path)

    @property
    def chosen(self) -> str:
        """The method as the configuration chooses it, such as "tags=tagclip"."""
        return f"{self.options.method.group}={self.options.method.name}"

    def wrong(self, what: str, image_id: str = "") -> UserError:
        """Returns the error for a result of the method that cannot be used."""
        image = f"image {image_id}" if image_id else "an image"
        return UserError(
            f"{self.chosen} returned {what} for {image}: correct the method, its settings or its"
            " weights"
        )

    def numbers(
        self, what: str, given: object, image_id: str = "", least: float = -TOLERANCE
    ) -> np.ndarray:
        """Returns scores, CAMs or probabilities; a UserError unless all are numbers in [0, 1]."""
        try:
            found = np.asarray(given)
        except (RuntimeError, TypeError, ValueError):  # of a ragged list, or a tensor on a GPU
            found = np.array(None)
        if found.dtype.kind not in "biuf":
            raise self.wrong(f"{what} that are not an array of real numbers", image_id)
        if not np.isfinite(found).all():
            raise self.wrong(f"{what} that are not finite", image_id)
        if found.size and not least <= found.min() <= found.max() <= 1 + TOLERANCE:
            extent = f"from {found.min():.3g} to {found.max():.3g}"
            raise self.wrong(f"{what} {extent}, which are not in [0, 1],", image_id)
        return found

    def unknown_until(self) -> str:
        """Returns "download" where the weights, which are in the key, are not on this machine."""
        used = [*filter(None, [self.resources.clip]), *self.resources.seconds.values()]
        return "" if all(each.origin.is_on_disk for each in used) else "download"

    def load(self, folders: Mapping[str, Path]) -> Any:  # noqa: ANN401
        """Builds the method, with what was learned for it."""
        learned = {"learned": folders["learned"]} if "learned" in folders else {}
        with refusing_exit(self.chosen):
            return self.options.build(self.resources, **learned)

    @property
    def batch_size(self) -> int | None:
        """Images that CLIP takes at a time."""
        return self.resources.clip.batches.images if self.resources.clip else 1

    def __getstate__(self) -> dict[str, Any]:
        # Workers need items alone.
        return {**super().__getstate__(), "images": None, "annotations": None}
