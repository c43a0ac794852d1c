"""Talk2DINO's maps of names (Barsellotti et al., section 3.4)."""

import torch
import torch.nn.functional as F

from pipeline.clip.encoder import ClipEncoder
from pipeline.clip.shared_pass import SharedPass
from pipeline.dense.method import DenseMethod, NameEmbeddings

_SCALE = 0.125  # of the logits, whatever the width of a head is
_SHARE = 0.2  # of the cleaning map


class Talk2Dino(DenseMethod):
    """Talk2DINO: the sigmoids of the cosine similarities of unmodified patches."""

    def patch_features(self, encoder: ClipEncoder, shared_pass: SharedPass) -> torch.Tensor:
        """Returns the embeddings of patches as trained, B×N×E float32."""
        return encoder.patches(encoder.attended(shared_pass.last_block_input))

    def similarities(
        self, encoder: ClipEncoder, shared_pass: SharedPass, names: NameEmbeddings
    ) -> torch.Tensor:
        """Returns the maps of names in [0, 1] instead of similarities, B×N×C float32."""
        features = self.patch_features(encoder, shared_pass)
        maps = (F.normalize(features, dim=-1) @ names.text.mT).sigmoid()
        if not self.options.cleaning:
            return maps
        _, query, key, _ = shared_pass.last_block_input
        logits = _SCALE * (query[:, :, :1] @ encoder.patches(key).mT)[:, :, 0].float()
        return torch.stack([clean(*each, names.text) for each in zip(maps, logits, features)])


def clean(
    maps: torch.Tensor, logits: torch.Tensor, features: torch.Tensor, text: torch.Tensor
) -> torch.Tensor:
    """Averages maps of names, N×C, with what those heads attend to that have seen the name.

    Args:
        maps: in [0, 1].
        logits: of the attention from the class token to patches, heads×N.
        features: of the patches, N×D, of any length.
        text: C×D, of length 1.
    """
    seen = F.normalize(logits @ features, dim=-1)  # whose mean over patches has the same direction
    of_heads = (text @ seen.mT).softmax(-1)
    attended = (of_heads @ logits).softmax(-1)
    attended = (attended - attended.min()) / attended.max()  # of the maximum before the shift
    attended = attended * (maps.max() - maps.min()) + maps.min()
    return (maps + _SHARE * attended.mT) / (1 + _SHARE)
