"""A tagger: the classes are colour channels, red, green and blue in turn."""

from dataclasses import dataclass

import numpy as np

from pipeline.clip.frozen import Resources
from pipeline.engine.registry import register
from pipeline.engine.settings import setting
from pipeline.tags.tagger import ScoredTagOptions, Tagger


@dataclass
class ColourOptions(ScoredTagOptions):
    """The settings of ``tags=colour``.

    Attributes:
        gain: factor by which the mean of a channel becomes a score.
    """

    gain: float = setting(1.0, above=0)


@register("tags", "colour", ColourOptions)
class ColourTagger(Tagger):
    """Scores the mean of a class's channel."""

    def __init__(self, options: ColourOptions, resources: Resources):
        self.gain = options.gain
        self.num_classes = resources.num_classes

    def scores(self, image: np.ndarray) -> np.ndarray:
        means = image.reshape(-1, 3).mean(0) / 255
        return np.minimum(1, self.gain * np.resize(means, self.num_classes))
