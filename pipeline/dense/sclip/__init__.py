"""SCLIP: patches attend to patches like themselves (Wang et al., ECCV 2024, section 3.2)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline.dense.method import DenseMethod
from pipeline.dense.settings import DenseSettings, register_dense

if TYPE_CHECKING:
    import torch

    from pipeline.clip.encoder import BlockInput, ClipEncoder
    from pipeline.clip.shared_pass import SharedPass


@dataclass
class SclipSettings(DenseSettings):
    """SCLIP: the attention of block L is softmax(QQᵀ/√d) + softmax(KKᵀ/√d), whose rows sum to 2."""


@register_dense(
    "sclip",
    SclipSettings,
    label="SCLIP",
    presets=("experiment/_sclip", "experiment/sclip_*"),
    source="Wang et al., SCLIP, ECCV 2024, arXiv 2312.01597",
)
class Sclip(DenseMethod):
    """SCLIP: the attention of block L is softmax(QQᵀ/√d) + softmax(KKᵀ/√d), whose rows sum to 2."""

    def patch_features(self, encoder: ClipEncoder, shared_pass: SharedPass) -> torch.Tensor:
        """Returns the embeddings of patches, B×N×E float32."""
        inputs = shared_pass.last_block_input
        attended = attend_to_alike(encoder, inputs)
        return encoder.embed(encoder.last_block.finish(encoder.patches(inputs.tokens), attended))


def attend_to_alike(encoder: ClipEncoder, inputs: BlockInput) -> torch.Tensor:
    """Returns the output of SCLIP's attention for the patches, B×heads×N×d."""
    _, query, key, value = inputs
    by_query = encoder.attend(encoder.patches(query), query, value)
    return by_query + encoder.attend(encoder.patches(key), key, value)
