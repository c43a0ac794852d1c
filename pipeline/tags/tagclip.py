"""TagCLIP, the whole of it: patch-level classification, then DMAR, then CWR (paper, figure 2)."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import torch

from pipeline.clip.blocks import block_window
from pipeline.clip.encoder import ClipEncoder
from pipeline.images import to_patch_grid, to_pixels
from pipeline.tags.patches import class_probabilities, strongest_patch
from pipeline.tags.refinement import VotedAttention, refine
from pipeline.tags.reidentification import Proposal, propose, reidentify

VARIANTS = ("clip", "clip_native", "coarse_last", "coarse", "dmar", "cwr")
"""The rows of the ablation: CLIP's own class token on the image squeezed to the native size and at
the image's size; the best patch with the last block's attention kept and replaced by the identity;
after DMAR; after CWR."""


@dataclass(frozen=True)
class TagClipSettings:
    """The method's constants.

    Attributes:
        attention_blocks: first and last block whose attention DMAR averages, see
            :func:`pipeline.clip.blocks.block_window` (the published 9 to 11 of 12 are −3 to −1).
        votes: blocks that must have an attention above average for it to survive.
        alpha: α of CWR's θ.
        reidentify: whether CWR runs.
        squeeze: whether images are squeezed to the CLIP's native size, where TagCLIP takes them at
            their own.
        crop_batch_size: crops that CWR classifies together.
        open_border: quirk, see :func:`pipeline.boxes.bounding_box`.
        cwr_stop: quirk, see :func:`pipeline.tags.reidentification.propose`.
    """

    attention_blocks: tuple[int, int] = (-3, -1)
    votes: int = 4
    alpha: float = 0.5
    reidentify: bool = True
    squeeze: bool = False
    crop_batch_size: int = 8
    open_border: bool = True
    cwr_stop: bool = True


class TagClip:
    """Scores the classes of images with a frozen CLIP."""

    def __init__(
        self,
        encoder: ClipEncoder,
        text: torch.Tensor,
        class_count: int,
        settings: TagClipSettings,
    ):
        """Wires the method's parts.

        Args:
            encoder: the image tower.
            text: C×E class embeddings on the encoder's device; n classes, then backgrounds.
            class_count: n.
            settings: the method's constants.

        Raises:
            UserError: ``attention_blocks`` asks for blocks that the encoder does not have.
        """
        self.encoder = encoder
        self.text = text
        self.class_count = class_count
        self.settings = settings
        self.window = block_window(
            "tags.attention_blocks", settings.attention_blocks, encoder.depth
        )

    @torch.inference_mode()
    def __call__(
        self, images: list[np.ndarray], variants: Collection[str] = ()
    ) -> list[dict[str, np.ndarray]]:
        """Scores every class of every image.

        Args:
            images: H×W×3 uint8, RGB, of any sizes.
            variants: rows of the ablation to compute as well, of :data:`VARIANTS`.

        Returns:
            For each image: "scores", n float32 in [0, 1], and the same for each variant.
        """
        results, proposals, owners = [], [], []
        for row, image in enumerate(images):
            result, found = self._look(image, variants)
            results.append(result)
            proposals += found
            owners += [row] * len(found)
        again = reidentify(self.encoder, self.text, proposals, self.settings.crop_batch_size)
        for result in results:
            result["scores"] = result["dmar"].copy()
        for row, proposal, probability in zip(owners, proposals, again.tolist()):
            scores = results[row]["scores"]
            scores[proposal.class_index] = (scores[proposal.class_index] + probability) / 2
        for result in results:
            result["cwr"] = result["scores"]
        return [{k: r[k] for k in ("scores", *variants)} for r in results]

    def _look(
        self, image: np.ndarray, variants: Collection[str]
    ) -> tuple[dict[str, np.ndarray], list[Proposal]]:
        """Runs everything up to DMAR on one image, and cuts the crops for CWR."""
        encoder, settings = self.encoder, self.settings
        if settings.squeeze:
            pixels = to_pixels(image, *[encoder.native_size] * 2, encoder.normalisation)
        else:
            pixels = to_patch_grid(image, encoder.patch_size, encoder.normalisation)
        pixels = pixels.to(encoder.device).unsqueeze(0)
        grid = tuple(side // encoder.patch_size for side in pixels.shape[-2:])
        attention = VotedAttention(self.window, settings.votes)
        tokens = encoder.backbone(pixels, attention)

        coarse = self._classify(encoder.value_features(tokens))
        refined = refine(attention.result(), coarse, grid, open_border=settings.open_border)
        result = {
            "coarse": strongest_patch(coarse, self.class_count),
            "dmar": strongest_patch(refined, self.class_count),
        }
        if "clip_native" in variants or "coarse_last" in variants:
            attended = self._classify(encoder.attended_features(tokens))
            result["clip_native"] = attended[:, 0, : self.class_count]
            result["coarse_last"] = strongest_patch(attended[:, 1:], self.class_count)
        result = {name: scores[0].float().cpu().numpy() for name, scores in result.items()}
        if "clip" in variants:
            result["clip"] = global_scores(encoder, self.text, self.class_count, image)
        if not settings.reidentify:
            return result, []
        return result, propose(
            pixels[0],
            refined[0],
            self.class_count,
            alpha=settings.alpha,
            patch_size=encoder.patch_size,
            native_size=encoder.native_size,
            open_border=settings.open_border,
            cwr_stop=settings.cwr_stop,
        )

    def _classify(self, features: torch.Tensor) -> torch.Tensor:
        return class_probabilities(features, self.text, self.encoder.temperature)


@torch.inference_mode()
def global_scores(
    encoder: ClipEncoder, text: torch.Tensor, class_count: int, image: np.ndarray
) -> np.ndarray:
    """Scores an image by CLIP's class token, the baseline: n float32 in [0, 1].

    The image, H×W×3 uint8, is squeezed to the native size.
    """
    side = encoder.native_size
    pixels = to_pixels(image, side, side, encoder.normalisation)
    features = encoder.image_features(pixels.to(encoder.device).unsqueeze(0))
    scores = class_probabilities(features, text, encoder.temperature)
    return scores[0, :class_count].float().cpu().numpy()


def choose_tags(scores: np.ndarray, alpha: float, min_score: float = 0.0) -> tuple[int, ...]:
    """Returns the classes above θ_img = min + α·(max − min) of one image's n scores.

    When none is above it, the best one is taken. With a ``min_score`` above 0 classes must also
    exceed that, so that an image that shows nothing of the vocabulary has no tag.
    """
    low, high = scores.min(), scores.max()
    chosen = np.flatnonzero(scores > low + alpha * (high - low))
    if not len(chosen):
        chosen = np.array([scores.argmax()])
    return tuple(int(k) for k in chosen if min_score == 0 or scores[k] > min_score)
