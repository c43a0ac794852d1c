"""The stage ``cams``: where in an image each of its tags is."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.cams.cams import Cams, encode_cams
from pipeline.cams.method import CamOptions
from pipeline.clip.frozen import Resources
from pipeline.datasets.vocabulary import Vocabulary
from pipeline.engine.reading import Name, Reading, Size
from pipeline.engine.registry import Method
from pipeline.engine.sample import Sample
from pipeline.engine.settings import facts
from pipeline.engine.stage import Computed, Folders, Item, Output, Stage
from pipeline.errors import ImageError
from pipeline.files.fingerprints import fingerprint, fingerprint_file, join_keys
from pipeline.tags.scores import read_tags


@dataclass(frozen=True, kw_only=True, eq=False)
class CamStage(Stage):
    """The CAMs of a split, wherever they come from.

    Attributes:
        vocabulary: the class names.
        method: what finds the CAMs.
        options: the method's settings.
        reading: how images are read.
    """

    name = command = "cams"
    kind = "cams"
    decisive = ("method", "clip")
    vocabulary: Vocabulary
    method: Method
    options: CamOptions
    reading: Reading

    def own_settings(self) -> dict[str, Any]:
        """Returns what CAMs depend on besides the tags."""
        return {**self.method.facts, **facts(self.options), **self.reading.decode.facts}


def cams_output(image_id: str, cams: Cams, input_key: str | None = None) -> Output:
    """Returns the file of an image's CAMs; ``input_key`` is that of a shared pass."""
    return Output({f"{image_id}.npz": partial(encode_cams, cams)}, input=input_key)


@dataclass(frozen=True, kw_only=True, eq=False)
class ComputedCams(CamStage):
    """CAMs that a method computes for the tags of images.

    Attributes:
        resources: what the method is built from.
    """

    resources: Resources

    def own_settings(self) -> dict[str, Any]:
        """Returns what CAMs depend on besides the tags."""
        settings = super().own_settings()
        backgrounds = settings.get("backgrounds")
        if backgrounds is None:
            backgrounds = self.vocabulary.backgrounds
        return {**settings, **self.resources.facts(self.vocabulary.cam_names, backgrounds)}

    @property
    def uses_clip(self) -> bool:
        """Whether the method looks at images with CLIP."""
        return self.method.uses_clip

    def unknown_until(self) -> str:
        """Returns "download" where the weights, which are in the key, are not on this machine."""
        return self.resources.unknown_until

    def item(self, sample: Sample, folders: Folders) -> Item:
        """Returns an image with its tags."""
        tags = read_tags(folders["tags"], sample)
        return Item(sample, self.input_key(fingerprint_file(sample.image), tags), tags)

    def input_key(self, image: str, tags: Sequence[int]) -> str:
        """Returns the fingerprint of an image's input, from that of the image and its tags."""
        return join_keys(image, fingerprint(list(tags)))

    def output(
        self, image_id: str, input_key: str, tags: Sequence[int], cams: np.ndarray, size: Size
    ) -> Output:
        """Returns what is stored for an image."""
        return cams_output(image_id, Cams(np.array(tags, np.int64), cams, size), input_key)

    def load(self, inputs: Mapping[str, Path]) -> Any:  # noqa: ANN401
        """Builds the method."""
        return self.method.build(self.options, self.resources)

    def compute(self, items: Sequence[Item], model: Callable[[], Any]) -> Computed:
        """Computes CAMs."""

        def cams_of(images: Iterator[tuple[Name, np.ndarray]]) -> Iterator[tuple[Name, np.ndarray]]:
            return model().stream((name, image, name[0].given) for name, image in images)

        for item, result in self.reading.through(items, cams_of):
            if not isinstance(result, ImageError):
                result = [self.output(item.sample.id, item.input, item.given, *result)]
            yield item, result

    @property
    def shard_size(self) -> int:
        """The number of images that fill a worker's batches."""
        return self.resources.shard_size
