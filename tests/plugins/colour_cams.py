"""A CAM method: a class is where its colour channel is strong."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from skimage.measure import block_reduce

from pipeline.cams.method import CamMethod, CamOptions
from pipeline.clip.frozen import Resources
from pipeline.engine.registry import register
from pipeline.engine.settings import setting


@dataclass
class ChannelOptions(CamOptions):
    """The settings of ``cams=channel``.

    Attributes:
        cell_size: side of the grid's cells, in pixels.
    """

    cell_size: int = setting(16, at_least=1)


@register("cams", "channel", ChannelOptions)
class ChannelCams(CamMethod):
    """Averages a class's channel over cells."""

    def __init__(self, options: ChannelOptions, resources: Resources):
        self.cell = (options.cell_size, options.cell_size, 1)

    def cams(self, image: np.ndarray, tags: Sequence[int]) -> np.ndarray:
        cells = block_reduce(image / 255, self.cell, np.mean)
        return cells[..., [tag % 3 for tag in tags]].transpose(2, 0, 1)
