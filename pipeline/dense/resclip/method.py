"""ResCLIP: attention of middle blocks and of a first segmentation (Yang et al., CVPR 2025)."""

import torch
import torch.nn.functional as F

from pipeline.clip.dimensions import block_window
from pipeline.clip.encoder import BlockHook, ClipEncoder
from pipeline.clip.shared_pass import SharedPass
from pipeline.dense.hooks import MeanWeights
from pipeline.dense.method import DenseMethod, NameEmbeddings
from pipeline.dense.naclip.method import PATCH, neighbourhood
from pipeline.dense.pixel_adaptive import pamr
from pipeline.dense.resclip.semantic_feedback import BLUR_SIGMA, semantic_feedback


class ResClip(DenseMethod):
    """ResCLIP: NACLIP's block L, with attention from middle blocks and from a first pass.

    The first pass attends by τ_r((1 − λ_r) softmax(KKᵀ/√d + ω) + λ_r C), with C the mean attention
    of the middle blocks. The second has τ_s((1 − λ_s) KKᵀ/√d + λ_s F) in place of KKᵀ/√d, with F
    from the labels of the first. The released code rounds F to float16, which this one does not.
    """

    def hooks(self, encoder: ClipEncoder) -> list[BlockHook]:
        """Returns the hook of the cross-correlation."""
        blocks = block_window("cross_blocks", self.options.cross_blocks, encoder.depth)
        return [MeanWeights(blocks, ("query", "key"))]

    def patch_features(
        self, encoder: ClipEncoder, shared_pass: SharedPass, names: NameEmbeddings | None = None
    ) -> torch.Tensor:
        """Returns the embeddings of patches of the second pass, B×N×E float32."""
        options = self.options
        _, _, key, value = shared_pass.last_block_input
        logits = (key.float() / key.shape[-1] ** 0.5) @ key.float().mT
        sigma, prefix = options.sigma * PATCH / encoder.patch_size, encoder.tower.prefix
        omega = neighbourhood(shared_pass.grid, sigma, prefix).to(key.device)

        def attended_by(logits: torch.Tensor) -> torch.Tensor:
            direct = (logits + omega).softmax(-1)
            cross, observed = options.cross_share, shared_pass.for_cams[0]
            weights = (1 - cross) * direct + cross * observed
            weights = options.cross_scale * encoder.patches(weights)
            attended = weights.to(value.dtype) @ value
            return encoder.embed(encoder.last_block.attention_output(attended))

        labels = self._labels(encoder.patch_size, shared_pass, attended_by(logits), names)
        patch_feedback = semantic_feedback(labels, BLUR_SIGMA * PATCH / encoder.patch_size)
        feedback = F.pad(patch_feedback, (prefix, 0, prefix, 0)).unsqueeze(1)
        share = options.feedback_share
        return attended_by(options.feedback_scale * ((1 - share) * logits + share * feedback))

    def _labels(
        self, patch: int, shared_pass: SharedPass, features: torch.Tensor, names: NameEmbeddings
    ) -> torch.Tensor:
        """Returns the label of every patch after the first pass, B×h×w int64."""
        size = shared_pass.pixels.shape[-2:]
        similarity = (F.normalize(features, dim=-1) @ names.text.mT).mT
        similarity = similarity.unflatten(-1, shared_pass.grid)
        similarity = F.interpolate(similarity, size, mode="bilinear", align_corners=False)
        similarity = pamr(shared_pass.pixels, similarity)
        best, channel = (names.temperature * similarity).softmax(1).max(1)
        labels = names.labels[channel].where(best >= self.options.confidence, 0)
        # Pixels beside the last whole patch belong to none.
        return labels.unfold(1, patch, patch).unfold(2, patch, patch).flatten(3).mode(-1).values
