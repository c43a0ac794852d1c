"""The stage ``cams``: a class activation map for each tag of an image."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np

from pipeline.cams.cams import Cams, encode_cams, read_cams
from pipeline.cams.method import CamOptions
from pipeline.clip.method_stage import MethodStage
from pipeline.engine.kinds import CAMS
from pipeline.engine.records import PHOTOGRAPH, Inputs
from pipeline.engine.results import Results
from pipeline.engine.sample import LOOKED_AT, Sample, evenly
from pipeline.engine.stage import Computed, Decoded, Folders, Item, Output, Outputs
from pipeline.engine.writer import Writer
from pipeline.errors import ImageError
from pipeline.files.fingerprints import fingerprint
from pipeline.tags.scores import read_tags

FLAT = 0.05
"""The standard deviation, over its patches, of a CAM that shows nothing; sound ones have 0.1."""

MANY_FLAT = 0.1
"""A larger share of flat CAMs is remarkable."""


@dataclass(frozen=True, kw_only=True, eq=False)
class CamStage(MethodStage):
    """The CAMs of a split, wherever they come from."""

    name = command = "cams"
    options_base = CamOptions
    kind = CAMS

    def statistics(self, writer: Writer, done: Sequence[Sample]) -> Mapping[str, Any]:
        """Returns the share of CAMs that are flat, of a selection of images."""
        before = writer.results.statistics
        if done and before and not writer.has_changed:
            return before
        read = (read_cams(writer.path / f"{s.id}.npz").cams for s in evenly(done, LOOKED_AT))
        deviations = [cam.std(dtype=np.float32) for cams in read for cam in cams]
        return {"flat": float(np.mean(np.array(deviations) < FLAT))} if deviations else {}

    def remark(self, results: Results, ids: Collection[str]) -> str:
        """Returns a remark if many CAMs are flat."""
        if (flat := results.statistics.get("flat", 0)) <= MANY_FLAT:
            return ""
        return (
            f"{flat:.0%} of the CAMs of split {results.split} are flat, and show no object: check"
            " the weights and the normalisation of clip, and look at the report"
        )

    def cams_file(self, image_id: str, cams: Cams, inputs: Inputs | None = None) -> Output:
        """Returns the file of an image's CAMs; ``inputs`` are those of a shared pass."""
        return Output({f"{image_id}.npz": partial(encode_cams, cams)}, inputs=inputs)


@dataclass(frozen=True, kw_only=True, eq=False)
class ComputedCams(CamStage):
    """CAMs that a method computes for the tags of images."""

    takes_any_image = True

    def item(self, sample: Sample, folders: Folders) -> Item:
        """Returns an image with its tags."""
        tags = read_tags(folders["tags"], sample)
        return super().item(sample, folders).reading(self.reading(tags), tags)

    def reading(self, tags: Sequence[int]) -> Inputs:
        """Returns what CAMs are made from besides the photograph: the tags."""
        return {"tags.tags": fingerprint(list(tags))}

    @cached_property
    def pass_method(self) -> Any:  # noqa: ANN401
        """The method that shares the pass of tags, built once in a process."""
        return self.load({})

    def hooks(self) -> list[Any]:
        """Returns what has to be called during the pass of tags, new for each."""
        return self.pass_method.hooks()

    def of_pass(self, item: Item, shared_pass: Any, tags: Sequence[int]) -> Outputs:  # noqa: ANN401
        """Returns the CAMs of tags from the pass that found them, unless they are known."""
        inputs = {PHOTOGRAPH: item.inputs[PHOTOGRAPH], **self.reading(tags)}
        if inputs in item.known_to_rider:
            return {}
        try:
            cams = self.pass_method.cams_of_pass(shared_pass, tags)
        except ImageError:  # its own turn says why
            return {}
        return {self.name: self.output(item, tags, cams, inputs)}

    def checked(self, cams: np.ndarray, tags: Sequence[int], image_id: str = "") -> np.ndarray:
        """Returns the CAMs of tags; raises a UserError unless there is one of each, in [0, 1]."""
        cams = self.numbers("CAMs", cams, image_id)
        if cams.ndim != 3 or len(cams) != len(tags) or 0 in cams.shape[1:]:
            shape = "×".join(map(str, cams.shape))
            raise self.wrong(f"CAMs of shape {shape} for {len(tags)} tags,", image_id)
        return cams

    def output(
        self, item: Item, tags: Sequence[int], cams: np.ndarray, inputs: Inputs | None = None
    ) -> Output:
        """Returns what is stored for an image; ``inputs`` are those of a shared pass."""
        cams = self.checked(cams, tags, item.sample.id)
        stored = Cams(np.array(tags, np.int64), cams, item.size)
        return self.cams_file(item.sample.id, stored, inputs)

    def compute(self, images: Decoded, model: Callable[[], Any]) -> Computed:
        """Computes CAMs."""
        for item, cams in model().stream((item, image, item.given) for item, image in images):
            if isinstance(cams, ImageError):
                yield item, cams
            else:
                yield item, {self.name: self.output(item, item.given, cams)}
