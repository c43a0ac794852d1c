"""What stages are built from: a device, CLIP, a reader, and the masks and tags that people give."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, TypedDict

from pipeline.clip import device as devices
from pipeline.clip.frozen import FrozenClip, Resources
from pipeline.clip.origins.origin import hashable
from pipeline.clip.second import FrozenSecond
from pipeline.clip.settings import MethodOptions
from pipeline.configuration.registry import Quirk
from pipeline.datasets.annotations import Annotations, open_annotations
from pipeline.datasets.corrected import Corrections, corrected_masks
from pipeline.datasets.corrections import BySplit, read_corrections
from pipeline.datasets.mask_images import Reading
from pipeline.datasets.vocabulary import Vocabulary
from pipeline.engine.pool import count_cores
from pipeline.engine.sample import ImageReader, Images
from pipeline.engine.store import Store
from pipeline.errors import UserError, check_choice, shown
from pipeline.files.text import given_path
from pipeline.masks.settings import MaskFileOptions
from pipeline.stages.config import Config

if TYPE_CHECKING:
    from pipeline.clip.compute.kept import KeptFeatures


class OfMethod(TypedDict):
    """What a stage takes that a method computes."""

    options: MethodOptions
    resources: Resources
    images: Images | None
    reader: ImageReader


@dataclass(frozen=True)
class Parts:
    """What stages are built from; each part is made once, when it is needed."""

    config: Config
    vocabulary: Vocabulary  # the class names
    images: Images | None = None  # none for single images, see :class:`pipeline.Labeller`
    splits: Sequence[str] = ()  # the splits that the run works on
    store: Store | None = None  # the output directory; none keeps nothing
    kept: "KeptFeatures | None" = None  # of CLIP, see :class:`~pipeline.clip.frozen.FrozenClip`
    masks_read: dict[str, Corrections] = field(default_factory=dict)  # by split

    @cached_property
    def device(self) -> str:
        """Torch's name of the device."""
        return devices.choose_device(self.config.runtime.device)

    @cached_property
    def clip(self) -> FrozenClip:
        """The frozen CLIP."""
        config, runtime = self.config, self.config.runtime
        devices.settle_precision(runtime.precision, self.device)
        return FrozenClip(
            model=config.clip.model,
            pretrained=config.clip.pretrained,
            checkpoint=hashable(config.clip.checkpoint),
            device=self.device,
            precision=runtime.precision,
            max_patches=config.images.most_patches,
            position_fp16=config.compat.position_fp16,
            batches=devices.choose_batches(vars(runtime), self.device),
            root=self.store.root if self.store else None,
            attention=runtime.attention,
            kept=self.kept,
        )

    @cached_property
    def reader(self) -> ImageReader:
        """Reads images, one after the other."""
        config = self.config
        return ImageReader(
            apply_exif=not config.compat.exif,
            max_pixels=config.dataset.max_pixels,
            longest_side=config.images.longest_side,
            threads=self.workers,
        )

    @cached_property
    def workers(self) -> int:
        """The number of processes and threads beside a model."""
        return self.config.runtime.workers or count_cores()

    def by_method(
        self, options: MethodOptions, more: Sequence[Quirk] = (), files: MethodOptions | None = None
    ) -> OfMethod:
        """Returns what a stage takes that a method computes, which is found by its options.

        The method is built from only what it declares, and ``more`` quirks. The settings ``files``
        name second backbones and files of regions, by default the options. As many images are read
        ahead as CLIP may wait for a batch.
        """
        method, reader, compat = options.method, self.reader, self.config.compat
        runtime, files, seconds = self.config.runtime, files or options, {}
        declared = (*method.quirks, *more)
        quirks = {each.name: getattr(compat, each.name, each.clean) for each in declared}
        if method.uses_clip:
            reader = replace(reader, prefetch=self.clip.batches.waiting)
            for name, chosen in files.seconds().items():
                key = f"{files.method.group}.{name}"
                seconds[name] = FrozenSecond(
                    settings=(f"{key}.model", f"{key}.checkpoint"),
                    usual=files.usual_second(name),
                    model=chosen.model,
                    checkpoint=chosen.checkpoint,
                    device=self.device,
                    precision=runtime.precision,
                    attention=runtime.attention,
                    kept=self.clip.kept,
                )
        resources = Resources(
            vocabulary=self.vocabulary,
            device=self.device,
            clip=self.clip if method.uses_clip else None,
            quirks=SimpleNamespace(**quirks),
            seconds=seconds,
        )
        return OfMethod(options=options, resources=resources, images=self.images, reader=reader)

    # Masks and tags of people and of other programs

    def annotations(self, split: str, name: str, group: str = "masks") -> Annotations:
        """Opens the masks or tags that a setting of a group names."""
        several, splits = len({split, *self.splits}) > 1, self.images.dataset.splits
        several &= (group, name, split) != ("masks", "path", self.only_split)
        options = getattr(self.config, group)
        reading, key = Reading.of(options, group, self.vocabulary.classes), f"{group}.{name}"
        if name == "corrections":  # a value that is not named is an error of the person
            reading = replace(reading, other=None)
        found = getattr(options, name), key, reading, split if len(splits) > 1 else "", several
        files = [sample.file for sample in splits[split]]
        known = self.images.known_ids(split)
        return open_annotations(*found, holds_tags=group == "tags", known=known, files=files)

    def _splits_below(self, path: Path) -> set[str]:
        """Returns the splits for which there is a file or folder below a path."""
        splits = self.images.dataset.splits
        return {s for s in splits if any((path / name).exists() for name in (s, f"{s}.json"))}

    @cached_property
    def only_split(self) -> str | None:
        """The split that has masks, where ``masks.path`` names no split: the one to train on."""
        options, split = self.config.masks, self.images.dataset.train_split
        if not isinstance(options, MaskFileOptions) or split not in self.splits:
            return None
        return None if self._splits_below(given_path(options.path, "masks.path")) else split

    def corrected_masks(self, split: str) -> Corrections:
        """Returns the masks of a split that a person made; each split is read once."""
        given = self.config.masks.corrections
        if given is None or self.images is None:
            return Corrections()
        below = self._splits_below(given_path(given, "masks.corrections"))
        if below and split not in below:  # other splits alone are corrected
            return Corrections()
        if split not in self.masks_read:
            try:
                annotations = self.annotations(split, "corrections")
                self.masks_read[split] = corrected_masks(annotations, self.images, split)
            except UserError as error:
                if split in self.splits:
                    raise
                self.masks_read[split] = Corrections(error=error)
        return self.masks_read[split]

    @cached_property
    def corrections(self) -> BySplit:
        """The corrected tags of each split."""
        key, given = "tags.corrections", self.config.tags.corrections
        if given is None or self.images is None:
            return {}
        path, splits = given_path(given, key), self.images.dataset.splits
        found = read_corrections(path, key, self.vocabulary.classes)
        if "" not in found:
            for split in found:
                check_choice(f"{path} names split {shown(split)}, which is unknown", split, splits)
            return found
        if len(self.splits) != 1:
            raise UserError(
                f"{path} has no column split: say of which split its images are, as in"
                f" dataset.split={self.splits[0]}, or add the column"
            )
        return {self.splits[0]: found[""]}
