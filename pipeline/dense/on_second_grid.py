"""The base of dense methods whose attention is between the patches of a second backbone."""

import math

import torch
import torch.nn.functional as F

from pipeline.clip.encoder import ClipEncoder
from pipeline.clip.second_encoder import SecondEncoder
from pipeline.clip.shared_pass import SharedPass
from pipeline.dense.method import DenseMethod

_MULTIPLE = 56
"""Pixels to multiples of which the authors complete windows: of 14 and of 8."""


class OnSecondGrid(DenseMethod):
    """Embeds the patches of the backbone ``second``, whose grid may be finer than CLIP's."""

    @property
    def second(self) -> SecondEncoder:
        """The second backbone."""
        return self.seconds["second"].encoder

    def grid(self, shared_pass: SharedPass) -> tuple[int, int]:
        """Returns the second backbone's grid."""
        return self.second.grid(shared_pass.pixels)

    def multiple(self, patch_size: int) -> int:
        """Returns the authors' multiple, which both backbones divide into patches."""
        return math.lcm(_MULTIPLE, patch_size, self.second.patch_size)

    def fine_values(
        self,
        encoder: ClipEncoder,
        shared_pass: SharedPass,
        value: torch.Tensor,
        grid: tuple[int, int],
    ) -> torch.Tensor:
        """Returns values of all tokens, B×heads×T×d, on a grid of M patches: B×M×D."""
        channels = encoder.patches(value).mT.flatten(1, 2).unflatten(-1, shared_pass.grid)
        return F.interpolate(channels.float(), grid, mode="bilinear").flatten(2).mT

    def attended(
        self, encoder: ClipEncoder, attention: torch.Tensor, values: torch.Tensor
    ) -> torch.Tensor:
        """Returns what block L adds to patches, B×M×D float32, by one attention of all heads."""
        block = encoder.last_block
        found = (attention @ values).to(block.precision).unflatten(-1, (block.heads, -1))
        return block.attention_output(found.transpose(1, 2))
