"""ClearCLIP: the last block without residual connection and MLP (Lan et al., ECCV 2024)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline.dense.method import DenseMethod
from pipeline.dense.settings import DenseSettings, register_dense

if TYPE_CHECKING:
    import torch

    from pipeline.clip.encoder import ClipEncoder
    from pipeline.clip.shared_pass import SharedPass


@dataclass
class ClearClipSettings(DenseSettings):
    """ClearCLIP: the attention of block L is softmax(QQᵀ/√d); no residual connection, no MLP."""


@register_dense(
    "clearclip",
    ClearClipSettings,
    label="ClearCLIP",
    presets=("experiment/_clearclip", "experiment/clearclip_*"),
    source="Lan et al., ClearCLIP, ECCV 2024, arXiv 2407.12442",
)
class ClearClip(DenseMethod):
    """ClearCLIP: the attention of block L is softmax(QQᵀ/√d); no residual connection, no MLP."""

    def patch_features(self, encoder: ClipEncoder, shared_pass: SharedPass) -> torch.Tensor:
        """Returns the embeddings of patches, B×N×E float32."""
        _, query, _, value = shared_pass.last_block_input
        attended = encoder.attend(encoder.patches(query), query, value)
        return encoder.embed(encoder.last_block.attention_output(attended))
