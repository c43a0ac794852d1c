"""MaskCLIP: every patch keeps its own value (Zhou et al., ECCV 2022, section 3.2)."""

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
class MaskClipSettings(DenseSettings):
    """MaskCLIP: in block L the identity replaces the attention; no residual connection, no MLP."""


@register_dense(
    "maskclip",
    MaskClipSettings,
    label="MaskCLIP",
    source="Zhou et al., MaskCLIP, ECCV 2022, arXiv 2112.01071",
)
class MaskClip(DenseMethod):
    """MaskCLIP: in block L the identity replaces the attention; no residual connection, no MLP."""

    def patch_features(self, encoder: ClipEncoder, shared_pass: SharedPass) -> torch.Tensor:
        """Returns the embeddings of patches, B×N×E float32."""
        value = encoder.patches(shared_pass.last_block_input.value)
        return encoder.embed(encoder.last_block.attention_output(value))
