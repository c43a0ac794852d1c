"""SCLIP: patches attend to patches like themselves (Wang et al., ECCV 2024, section 3.2)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline.dense.method import DenseMethod, NameEmbeddings
from pipeline.dense.settings import DenseSettings
from pipeline.engine.registry import register

if TYPE_CHECKING:
    import torch

    from pipeline.clip.encoder import ClipEncoder
    from pipeline.clip.shared_pass import SharedPass


@dataclass
class SclipSettings(DenseSettings):
    """SCLIP: the attention of block L is softmax(QQᵀ/√d) + softmax(KKᵀ/√d), whose rows sum to 2."""


@register(
    "dense",
    "sclip",
    SclipSettings,
    label="SCLIP",
    presets=("experiment/sclip_*",),
    source="Wang et al., SCLIP, ECCV 2024, arXiv 2312.01597",
    section="Dense methods",
)
class Sclip(DenseMethod):
    """SCLIP: the attention of block L is softmax(QQᵀ/√d) + softmax(KKᵀ/√d), whose rows sum to 2."""

    def patch_features(
        self, encoder: ClipEncoder, shared_pass: SharedPass, names: NameEmbeddings | None = None
    ) -> torch.Tensor:
        """Returns the embeddings of patches, B×N×E float32."""
        tokens, query, key, value = shared_pass.last_block_input
        by_query = encoder.attend(query[:, :, 1:], query, value)
        attended = by_query + encoder.attend(key[:, :, 1:], key, value)
        return encoder.embed(encoder.last_block.finish(tokens[:, 1:], attended))
