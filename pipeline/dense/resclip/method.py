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

BLUR_SIGMA = 5.0  # in patches of 16 pixels


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

    def features_for(
        self, encoder: ClipEncoder, shared_pass: SharedPass, names: NameEmbeddings
    ) -> torch.Tensor:
        """Returns the embeddings of patches of the second pass, B×N×E float32."""
        return self.patch_features(encoder, shared_pass, names)

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


def semantic_feedback(labels: torch.Tensor, blur_sigma: float = BLUR_SIGMA) -> torch.Tensor:
    """Returns F, the semantic feedback between patches, B×N×N float32 in [0, 1] (section 3.3).

    Patches of one label attend to each other, the less the farther they are apart, unless they are
    of one object. As in the released code, the Gaussian blurs each row as one sequence of patches,
    which runs on from the end of an image row to the beginning of the next. Labels are B×h×w int64;
    ``blur_sigma`` is its σ in patches: it has 31 taps if that is 5, and at most about N.
    """
    _, height, width = labels.shape
    flat = labels.flatten(1)
    apart = chebyshev(height, width, labels.device)
    decay = torch.exp(-apart / max(height - 1, width - 1, 1))
    connected = torch.stack([same_object(image, apart) for image in labels])
    feedback = torch.where(connected, 1.0, decay) * (flat[:, :, None] == flat[:, None])
    taps = min(height * width, int(6 * blur_sigma) + 1) // 2 * 2 + 1
    steps = torch.arange(taps, device=labels.device) - taps // 2
    kernel = torch.exp(-steps.square() / (2 * blur_sigma**2))
    kernel = (kernel / kernel.sum()).view(1, 1, -1)
    blurred = F.conv1d(feedback.flatten(0, 1).unsqueeze(1), kernel, padding=taps // 2)
    blurred = blurred.squeeze(1).unflatten(0, feedback.shape[:2])
    blurred = blurred / (blurred.sum(-1, keepdim=True) + 1e-8)
    return blurred / blurred.amax((1, 2), keepdim=True)


def chebyshev(height: int, width: int, device: torch.device) -> torch.Tensor:
    """Returns the larger of the distances of two patches in rows and in columns, N×N int64."""
    rows, columns = (torch.arange(side, device=device) for side in (height, width))
    vertical, horizontal = ((each[:, None] - each).abs() for each in (rows, columns))
    return torch.maximum(vertical[:, None, :, None], horizontal[:, None]).flatten(2).flatten(0, 1)


def same_object(labels: torch.Tensor, apart: torch.Tensor) -> torch.Tensor:
    """Tells whether the patches on the line from one patch to another have the label of the first.

    As in the released code, the line is cut into as many steps as the longest line of the image
    has, and only as many of them are looked at as the two patches are apart, see
    :func:`chebyshev`. Labels are h×w int64, the result is N×N bool.
    """
    height, width = labels.shape
    sides = [torch.arange(side, device=labels.device) for side in labels.shape]
    longest = max(labels.shape) - 1
    # By rows of both ends and then columns of both ends, h·h×w·w, whole rows are copied below.
    by_sides = (height, height, width, width)
    steps_apart = apart.view(height, width, height, width).transpose(1, 2).reshape(height**2, -1)
    start_labels = labels[:, None, :, None].expand(by_sides).reshape(height**2, -1)
    alike = torch.ones_like(start_labels, dtype=torch.bool)
    for step in range(1, longest + 1):
        # A line's row depends on the rows of its ends alone, and its column on their columns.
        rows, columns = (
            (start[:, None] + (step / longest) * (start - start[:, None])).round().long().flatten()
            for start in sides
        )
        alike &= (labels[:, columns][rows] == start_labels) | (steps_apart < step)
    return alike.view(by_sides).transpose(1, 2).reshape(apart.shape)
