"""A tagger and a CAM method that refuse small images."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.cams.method import CamMethod, CamOptions
from pipeline.clip.frozen import Resources
from pipeline.engine.registry import register
from pipeline.errors import ImageError
from pipeline.tags.tagger import ScoredTagOptions, Tagger


@dataclass
class RefusingTagOptions(ScoredTagOptions):
    """The settings of ``tags=refusing``."""


@register("tags", "refusing", RefusingTagOptions)
class RefusingTagger(Tagger):
    def __init__(self, options: RefusingTagOptions, resources: Resources):
        self.count = resources.num_classes

    def scores(self, image: np.ndarray) -> np.ndarray:
        if image.shape[0] < 70:
            raise ImageError("is too small to be tagged")
        return np.linspace(0, 1, self.count, dtype=np.float32)


@dataclass
class RefusingCamOptions(CamOptions):
    """The settings of ``cams=refusing``."""


@register("cams", "refusing", RefusingCamOptions)
class RefusingCams(CamMethod):
    def __init__(self, options: RefusingCamOptions, resources: Resources):
        pass

    def cams(self, image: np.ndarray, tags: Sequence[int]) -> np.ndarray:
        if image.shape[0] < 100:
            raise ImageError("is too small for CAMs")
        return np.ones((len(tags), 4, 5), np.float32)
