"""The stage ``masks`` with ``masks=dense``: it needs images alone, and neither tags nor CAMs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.clip.dimensions import Dimensions
from pipeline.clip.method_stage import facts_of
from pipeline.configuration.registry import methods
from pipeline.configuration.settings import joined, plain
from pipeline.datasets.vocabulary import Names
from pipeline.dense.method import DenseMethod
from pipeline.dense.settings import SHARED, DenseSettings
from pipeline.engine.records import PHOTOGRAPH
from pipeline.engine.stage import Computed, Decoded
from pipeline.errors import UserError
from pipeline.masks.name_lists import has_background, read_name_list
from pipeline.masks.refiner import labelled
from pipeline.masks.stage import MaskStage

if TYPE_CHECKING:
    from pipeline.masks.dense import DenseLabeller


@dataclass(frozen=True, kw_only=True, eq=False)
class DenseMasks(MaskStage):
    """Pseudo masks that the dense method of ``cams=`` makes straight from images.

    Raises a UserError if they choose another method, or the names do not suit the settings.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.cams, DenseSettings):
            chosen, known = self.cams.method.name, sorted(m.name for m in methods("dense"))
            raise UserError(
                f"masks=dense requires a dense method, and cams={chosen} is not one:"
                f" give one of cams={', '.join(known)}"
            )
        names_background = has_background(self.names, self.vocabulary)
        if names_background and self.options.background is not None:
            raise UserError(
                "masks.background makes pixels background, and so do the names: give a list"
                " without a background, such as masks.names=classes, or masks.background=null"
            )
        if not names_background and self.options.background is None:
            for key in ("min_probability", "min_area"):
                if getattr(self.options, key):
                    raise UserError(
                        f"masks.{key} makes pixels background, and masks.names has none: give a"
                        f" list that begins with the background, or masks.{key}=0"
                    )

    def check(self) -> None:
        """Refuses windows and blocks that do not suit the CLIP, and features that are not read."""
        super().check()
        method = self.cams.dense_method()
        has_maps = type(method).similarities is not DenseMethod.similarities
        if self.options.enlarge == "features" and (has_maps or method.joins_windows):
            name = self.cams.method.name
            raise UserError(
                f"masks.enlarge=features compares features with names, and cams={name} computes"
                " more than that: give masks.enlarge=similarities"
            )
        if self.options.window_softmax and self.uses:
            raise UserError("a bank takes no masks.window_softmax: give masks.window_softmax=false")
        dimensions = self.resources.clip.dimensions
        if method.joins_windows:
            self._refuse_for_joined(method, dimensions)
        if dimensions is not None:
            method.hooks(dimensions)

    def _refuse_for_joined(self, method: DenseMethod, clip: Dimensions | None) -> None:
        """Refuses settings that a method that joins windows in its own way cannot follow."""
        options, name = self.options, self.cams.method.name
        unread = {"window_softmax": "false", "align_corners": "false"}
        unread |= {"background": "null"} if method.gives_probabilities else {}
        for key, usual in unread.items():
            if getattr(options, key):
                raise UserError(
                    f"masks.{key} has no meaning for cams={name}, which joins windows in its own"
                    f" way: give masks.{key}={usual}"
                )
        if clip is not None and (side := options.side(clip.native_size)):
            patch = clip.patch_size
            if side % patch or (options.stride or max(1, side // 2)) % patch:
                raise UserError(
                    f"cams={name} joins windows patch by patch: give masks.window and masks.stride"
                    f" that are multiples of {patch}"
                )

    @cached_property
    def names(self) -> Names:
        """The names of every line."""
        return read_name_list(self.options.names, self.vocabulary)

    def __getstate__(self) -> dict[str, Any]:
        # A worker may not have the file of the names.
        return {**super().__getstate__(), "names": self.names}

    def own_settings(self) -> dict[str, Any]:
        """Returns what masks depend on: the names by their content, and the dense method."""
        own = {key: value for key, value in facts_of(self.cams).items() if key not in SHARED}
        chosen = joined(self.cams.method.key_facts, self.with_files(own))
        return {**super().own_settings(), "names": plain(self.names), "cams": chosen}

    def load(self, folders: Mapping[str, Path]) -> DenseLabeller:
        """Builds the labeller."""
        from pipeline.masks.dense import DenseLabeller  # imports PyTorch

        given = self.resources.quirks, self.resources.seconds, folders.get("learned")
        method = self.cams.dense_method(*given)
        return DenseLabeller(method, self.options, self.names, self.resources)

    def compute(self, images: Decoded, model: Callable[[], Any]) -> Computed:
        """Labels the pixels of images."""
        for item, image in images:
            given = image, item.size, item.regions, item.inputs[PHOTOGRAPH]
            yield item, self.outputs(item, labelled(model(), *given))
