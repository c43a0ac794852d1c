"""GEM: a path of self-self attention beside the last blocks (Bousselham et al., CVPR 2024)."""

import torch
import torch.nn.functional as F

from pipeline.clip.attention import attend
from pipeline.clip.block import Block
from pipeline.clip.dimensions import block_at
from pipeline.clip.encoder import BlockHook, BlockInput, ClipEncoder
from pipeline.clip.shared_pass import SharedPass
from pipeline.dense.hooks import SecondPath
from pipeline.dense.method import DenseMethod


class SelfSelfPath(SecondPath):
    """GEM's second path: of self-self attention of the original tokens."""

    def attention(self, block: Block, inputs: BlockInput) -> torch.Tensor:
        """Returns GEM's attention of a block, B×T×D (section 3.2).

        The mean of the value-value, key-key and query-query attention of the values, projected: in
        place of a temperature that is learned, τ follows from the length of the tokens.
        """
        tokens, query, key, value = inputs
        normed = block.ln_1(tokens)
        # τ is the mean length of the tokens over √d, by which attend divides the logits anyway.
        length = normed.float().norm(dim=-1).mean(-1)[:, None, None, None]
        scale = length.sqrt().to(query.dtype)
        attended = 0.0
        for features in (value, key, query):
            unit = F.normalize(features, dim=-1)
            sharp = scale * unit
            unit = F.normalize(attend(sharp, sharp, unit), dim=-1)
            attended = attended + attend(scale * unit, scale * unit, value) / 3
        return block.attention_output(attended)


class Gem(DenseMethod):
    """GEM: beside the last blocks runs a path of self-self attention without MLP."""

    def hooks(self, encoder: ClipEncoder) -> list[BlockHook]:
        """Returns the second path."""
        return [SelfSelfPath(block_at(1 - self.options.blocks, encoder.depth))]

    def patch_features(self, encoder: ClipEncoder, shared_pass: SharedPass) -> torch.Tensor:
        """Returns the embeddings of patches, B×N×E float32."""
        return encoder.embed(encoder.patches(shared_pass.for_cams[0]))
