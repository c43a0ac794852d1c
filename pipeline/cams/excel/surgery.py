"""CLIP Surgery with q, k and v, and feature surgery, as ExCEL applies them (section 3.3)."""

import torch

from pipeline.clip.attention import attention_weights
from pipeline.clip.block import Block
from pipeline.clip.encoder import BlockInput
from pipeline.clip.shared_pass import MeanAttention
from pipeline.dense.hooks import SecondPath


class SurgeryPath(SecondPath):
    """The second path of the tokens g: g ← g + out_proj(A v), without MLP (section 3.3).

    A = Σ_h ⅓(softmax(QQᵀ/√d) + softmax(KKᵀ/√d) + softmax(VVᵀ/√d)) of the original tokens, summed
    over the heads h, is the same for each of them.
    """

    def attention(self, block: Block, inputs: BlockInput) -> torch.Tensor:
        """Returns out_proj(A v)."""
        value, summed = inputs.value, 0.0
        for features in inputs[1:]:
            summed = summed + attention_weights(features, features).sum(1, keepdim=True) / 3
        return block.attention_output(summed.to(value.dtype) @ value)


class HeadSum(MeanAttention):
    """Averages attention that is summed over the heads from a block on, and averaged before it.

    Attributes:
        first: the number of that block, counted from 1.
        heads: the number of heads.
    """

    def __init__(self, blocks: range, first: int, heads: int):
        super().__init__(blocks)
        self.first, self.heads = first, heads

    def __call__(self, block: int, attention: torch.Tensor) -> None:
        """Takes in a block's attention between patches, B×N×N float32, averaged over heads."""
        super().__call__(block, attention * self.heads if block >= self.first else attention)


def feature_surgery(features: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
    """Returns how much every name stands out against the mean over all names (section 3.3).

    R_ic = ω_c F_i·T_c − mean over c' of ω_c' F_i·T_c', where ω_c = C·p_c and p is the softmax of
    2 F_0·T_c. Each name's values are normalised over all tokens, the class token among them.

    Features F are (1+N)×E, the class token first, and ``text`` is T, C×E, each of length 1. Returns
    C×N float32 in [0, 1], of the patches.
    """
    similarities = features @ text.mT
    weighted = len(text) * (2 * similarities[0]).softmax(-1) * similarities
    apart = weighted - weighted.mean(-1, keepdim=True)
    low, high = apart.aminmax(dim=0)
    return ((apart - low) / (high - low).clamp(min=1e-12))[1:].mT
