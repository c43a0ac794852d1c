"""RADSeg: patches attend to those with alike outputs (2025, arXiv 2511.19704)."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F

from pipeline.clip.attention import attention_to_alike
from pipeline.clip.dimensions import Dimensions
from pipeline.clip.encoder import BlockHook, ClipEncoder
from pipeline.clip.shared_pass import SharedPass
from pipeline.dense.method import DenseMethod, NameEmbeddings, Windowed
from pipeline.dense.windows import mean_of_windows, resize_to_multiples
from pipeline.errors import UserError

_SCALE = 10.0  # of the similarities of tokens


class RadSeg(DenseMethod):
    """RADSeg: patches attend to those with alike outputs, in block L and over the whole image."""

    joins_windows = True
    gives_probabilities = True

    def hooks(self, encoder: ClipEncoder | Dimensions) -> Sequence[BlockHook]:
        """Returns none; a UserError for the dimensions of a model without a language adaptor."""
        if isinstance(encoder, Dimensions) and not encoder.has_adaptor:
            raise UserError(
                "cams=radseg needs a language adaptor: choose clip=c_radio_v3_b16 or another method"
            )
        return ()

    def patch_features(self, encoder: ClipEncoder, shared_pass: SharedPass) -> torch.Tensor:
        """Returns the embeddings of patches, B×N×E float32."""
        return encoder.embed(aggregate(run_last_block(encoder, shared_pass)))

    def fit(self, pixels: torch.Tensor, patch_size: int, window: int, stride: int) -> torch.Tensor:
        """Resizes pixels, 3×H×W, to multiples of the stride, as the released code does."""
        return resize_to_multiples(pixels, stride if window else patch_size, window)

    def similarities_of_windows(
        self, encoder: ClipEncoder, windowed: Windowed, names: NameEmbeddings
    ) -> torch.Tensor:
        """Returns the probabilities of C names on the patch grid of an image, C×h×w float32."""
        corners, features = [], []
        for places, shared_pass in windowed.passes:
            corners += places
            features += run_last_block(encoder, shared_pass).mT.unflatten(-1, shared_pass.grid)
        grid = shared_pass.grid
        joined = mean_of_windows(features, corners, grid, grid, windowed.size, encoder.patch_size)
        embedded = encoder.embed(aggregate(joined.flatten(1).mT[None]))[0]
        logits = names.temperature * F.normalize(embedded, dim=-1) @ names.text.mT
        return logits.softmax(-1).mT.unflatten(-1, joined.shape[1:])

    def after_enlarging(self, similarities: torch.Tensor) -> torch.Tensor:
        """Returns the probabilities of a name, or zeros if it is probable in no pixel."""
        return similarities * (similarities.amax() >= self.options.denoising)


def run_last_block(encoder: ClipEncoder, shared_pass: SharedPass) -> torch.Tensor:
    """Runs block L with self-correlating recursive attention: its patches, B×N×D float32.

    Outputs of its attention, after the projection, say anew which tokens attend to each other.
    """
    block, (tokens, query, key, value) = encoder.last_block, shared_pass.last_block_input
    output = block.attention_output(encoder.attend(query, key, value), scaled=False).float()
    heads = F.normalize(output.unflatten(-1, (block.heads, -1)).transpose(1, 2), dim=-1)
    weights = attention_to_alike(_SCALE * heads @ heads.mT)
    return encoder.patches(block.finish(tokens, weights.to(value.dtype) @ value))


def aggregate(features: torch.Tensor) -> torch.Tensor:
    """Averages each patch's features, B×N×D, over those more similar to it than the mean."""
    unit = F.normalize(features, dim=-1)
    similarity = unit @ unit.mT
    logits = _SCALE * (similarity - similarity.mean((1, 2), keepdim=True))
    return attention_to_alike(logits) @ features
