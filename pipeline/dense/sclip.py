"""SCLIP: patches attend to patches like themselves (Wang et al., ECCV 2024, section 3.2)."""

import torch

from pipeline.clip.encoder import ClipEncoder
from pipeline.clip.shared_pass import SharedPass
from pipeline.dense.method import DenseMethod, NameEmbeddings
from pipeline.dense.settings import SclipSettings


class Sclip(SclipSettings, DenseMethod):
    """SCLIP: the attention of block L is softmax(QQᵀ/√d) + softmax(KKᵀ/√d), whose rows sum to 2."""

    def patch_features(
        self, encoder: ClipEncoder, shared_pass: SharedPass, names: NameEmbeddings | None = None
    ) -> torch.Tensor:
        """Returns the embeddings of patches, B×N×E float32."""
        tokens, query, key, value = shared_pass.last_block_input
        by_query = encoder.attend(query[:, :, 1:], query, value)
        attended = by_query + encoder.attend(key[:, :, 1:], key, value)
        return encoder.embed(encoder.last_block.finish(tokens[:, 1:], attended))
