"""Patches as block L leaves them, with its attention or without, where names meet patches."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline.clip.dimensions import Dimensions, DimensionsWithHead, block_at
from pipeline.configuration.settings import setting
from pipeline.dense.method import DenseMethod
from pipeline.dense.settings import DenseSettings, register_dense
from pipeline.errors import UserError

if TYPE_CHECKING:
    import torch

    from pipeline.clip.encoder import BlockHook, ClipEncoder
    from pipeline.clip.shared_pass import SharedPass


@dataclass
class AsTrainedSettings(DenseSettings):
    """As trained: block L as it was trained.

    Attributes:
        patches: "backbone" takes those that enter the head of a dino.txt, its last two blocks, as
            the notebook of DINOv3 does.
    """

    patches: str = setting("head", choices=("head", "backbone"))


@register_dense(
    "as_trained",
    AsTrainedSettings,
    label="As trained",
    source="Jose et al., DINOv2 Meets Text, CVPR 2025, arXiv 2412.16334",
)
class AsTrained(DenseMethod):
    """As trained: block L as it was trained."""

    def hooks(self, encoder: ClipEncoder) -> list[BlockHook]:
        """Returns the hook that keeps what enters a head, if that is wanted."""
        from pipeline.dense.hooks import TokensAfter

        if self.options.patches == "head":
            return []
        if isinstance(encoder, Dimensions) and not encoder.head_blocks:
            raise UserError(
                "cams.patches=backbone is for models with a head on the backbone, such as"
                " clip=dinotxt_l14: give one, or cams.patches=head"
            )
        return [TokensAfter([block_at(-DimensionsWithHead.head_blocks, encoder.depth)])]

    def patch_features(self, encoder: ClipEncoder, shared_pass: SharedPass) -> torch.Tensor:
        """Returns the embeddings of patches, B×N×E float32."""
        if self.options.patches == "backbone":
            return encoder.patches(shared_pass.for_cams[0][:, 0])
        return encoder.patches(encoder.attended(shared_pass.last_block_input))


@dataclass
class ValuePathSettings(DenseSettings):
    """Value path: the identity replaces the attention of block L; the rest of it stays."""


@register_dense(
    "value_path",
    ValuePathSettings,
    label="Value path",
    source="Google DeepMind, TIPSv2, github.com/google-deepmind/tips; TagCLIP, section 3.2",
)
class ValuePath(DenseMethod):
    """Value path: the identity replaces the attention of block L; the rest of it stays."""

    def patch_features(self, encoder: ClipEncoder, shared_pass: SharedPass) -> torch.Tensor:
        """Returns the embeddings of patches, B×N×E float32."""
        return encoder.value_embeddings(shared_pass.last_block_input)
