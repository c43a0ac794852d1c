"""ITACLIP: middle blocks help the last one, and several views of an image (Aydın et al.)."""

import torch
import torch.nn.functional as F
from torchvision.transforms.functional import gaussian_blur, rgb_to_grayscale

from pipeline.clip.dimensions import block_at
from pipeline.clip.encoder import BlockHook, ClipEncoder
from pipeline.clip.shared_pass import SharedPass
from pipeline.dense.hooks import MeanWeights
from pipeline.dense.method import DenseMethod, NameEmbeddings
from pipeline.dense.sclip import attend_to_alike


class ItaClip(DenseMethod):
    """ITACLIP: SCLIP's attention of block L, averaged with that of three blocks before; no MLP."""

    passes = 5

    def hooks(self, encoder: ClipEncoder) -> list[BlockHook]:
        """Returns the hook of the middle blocks."""
        # In a shallow model several offsets may mean the first block, which counts once.
        blocks = {block_at(each, encoder.depth) for each in self.options.middle_blocks}
        return [MeanWeights(blocks, ("query", "query"), ("key", "key"))]

    def patch_features(self, encoder: ClipEncoder, shared_pass: SharedPass) -> torch.Tensor:
        """Returns the embeddings of the patches of one view, B×N×E float32."""
        inputs = shared_pass.last_block_input
        middle = encoder.patches(shared_pass.for_cams[0]).to(inputs.value.dtype) @ inputs.value
        attended = (attend_to_alike(encoder, inputs) + middle) / 2
        output = encoder.last_block.attention_output(attended)
        return encoder.embed(encoder.patches(inputs.tokens) + output)

    def similarities(
        self, encoder: ClipEncoder, shared_pass: SharedPass, names: NameEmbeddings
    ) -> torch.Tensor:
        """Returns the cosine similarities of patches and names over all views, B×N×C float32."""
        if not self.options.views:
            return super().similarities(encoder, shared_pass, names)

        def unit_features(pixels: torch.Tensor) -> torch.Tensor:
            return F.normalize(self.patch_features(encoder, self.run_pass(encoder, pixels)), dim=-1)

        upright = F.normalize(self.patch_features(encoder, shared_pass), dim=-1)
        # As the authors do, the weighted sum of the channels is taken after normalisation.
        grey = rgb_to_grayscale(shared_pass.pixels, num_output_channels=3)
        blurred = gaussian_blur(shared_pass.pixels, [11, 11], [5.0, 5.0])
        further = sum(map(unit_features, (grey, blurred)))
        mirrored = 0.0
        for side in (-2, -1):
            features = unit_features(shared_pass.pixels.flip(side)).unflatten(1, shared_pass.grid)
            mirrored = mirrored + features.flip(side - 1).flatten(1, 2) / 2
        share = self.options.upright_share
        return (share * (upright + further) / 3 + (1 - share) * mirrored) @ names.text.mT
