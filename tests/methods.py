"""TagCLIP and CLIP-ES on a few images, without a stage; and their stages, without images."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import TypeVar

import numpy as np

from pipeline.cams.clip_es.method import ClipEs
from pipeline.clip.device import Batches
from pipeline.clip.frozen import Resources
from pipeline.clip.method_stage import MethodStage
from pipeline.configuration.registry import find_method, methods
from pipeline.datasets.vocabulary import Vocabulary
from pipeline.dense.method import DenseMethod
from pipeline.engine.sample import ImageReader
from pipeline.tags.tagclip.method import TagClip
from tests.tiny_second import frozen, tiny_seconds

StageOfMethod = TypeVar("StageOfMethod", bound=MethodStage)

DENSE = [method.name for method in methods("dense")]
WITH_SECOND = [method.name for method in methods("dense") if method.settings().seconds()]
"""Dense methods with a second backbone."""
ON_CLIP = [
    m.name for m in methods("dense") if m.settings().seconds() or not m.settings.needs_more()
]
"""Those that do not require another model than a CLIP."""


def dense_method(name: str, **given: object) -> DenseMethod:
    """Builds a dense method of ours with some settings, and with small second backbones."""
    options = find_method("dense", name).settings(**given)
    return options.dense_method(seconds=frozen(tiny_seconds(options)))


ALONE = Batches(images=1, crops=4, waiting=32)
"""Every image in a batch of its own."""

RELEASED = SimpleNamespace(open_border=True, cwr_stop=True)
"""The quirks of TagCLIP, CLIP-ES and dense methods as CAMs."""


def scores_of(
    tagger: TagClip, images: list[np.ndarray], variants: Sequence[str] = ()
) -> list[dict[str, np.ndarray]]:
    """Returns the scores of images, H×W×3 uint8: "scores" and the variants, n float32 each."""
    results = dict(tagger.stream(enumerate(images), variants))
    return [results[index].scores for index in range(len(images))]


def cams_of(method: ClipEs, image: np.ndarray, tags: Sequence[int]) -> np.ndarray:
    """Returns the refined CAM of every tag, K×h×w float32 in [0, 1] on the patch grid."""
    ((_, cams),) = method.stream([((), image, tags)])
    return cams


def resources_of(vocabulary: Vocabulary, clip: object = None, **quirks: bool) -> Resources:
    """Returns what a method is built from, on the CPU."""
    return Resources(vocabulary, "cpu", clip, SimpleNamespace(**quirks))


def stage_of(kind: type[StageOfMethod], options: object, vocabulary: Vocabulary) -> StageOfMethod:
    """Returns the stage of the method that the options belong to, without its model."""
    return kind(
        split="val",
        options=options,
        resources=resources_of(vocabulary),
        reader=ImageReader(),
    )
