"""CWR, class-wise re-identification (TagCLIP, section 3.4; ALGORITHMS §2).

Every class that the patches propose is looked at again by the whole CLIP, in a crop around where
it was seen.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from pipeline.clip.attention import one_by_one
from pipeline.clip.boxes import Box, bounding_box, minmax_scale
from pipeline.clip.encoder import ClipEncoder
from pipeline.tags.patches import class_probabilities

_OBJECT = 0.5  # a patch belongs to the object when its scaled score is above this


@dataclass(frozen=True)
class Proposal:
    """A class to look at again.

    Attributes:
        class_index: from 0.
        crop: 3×native×native float32, the part of the normalised image that holds the class.
        inside: native grid, bool: the patches that belong to the object.
    """

    class_index: int
    crop: torch.Tensor
    inside: torch.Tensor


def score_threshold(scores: torch.Tensor, alpha: float) -> torch.Tensor:
    """Returns θ = min + α·(max − min) over all of the scores."""
    low, high = scores.min(), scores.max()
    return low + alpha * (high - low)


def propose(
    pixels: torch.Tensor,
    scores: torch.Tensor,
    class_count: int,
    *,
    alpha: float,
    patch_size: int,
    native_size: int,
    open_border: bool,
    cwr_stop: bool,
) -> list[Proposal]:
    """Cuts out the classes of one image whose local score exceeds θ.

    Args:
        pixels: the image as CLIP saw it, 3×(P·h)×(P·w).
        scores: S² of the image, N×C.
        class_count: n.
        alpha: α of θ, which is taken over all of S².
        patch_size: P.
        native_size: side of the crops in pixels.
        open_border: quirk, see :func:`pipeline.clip.boxes.bounding_box`.
        cwr_stop: quirk: an empty box also ends the search, so that all later classes keep their
            local score; otherwise only the class with the empty box does.
    """
    grid = (pixels.shape[1] // patch_size, pixels.shape[2] // patch_size)
    native_grid = (native_size // patch_size,) * 2
    local = scores[:, :class_count].amax(0)
    threshold = score_threshold(scores, alpha)
    proposals = []
    for index in torch.nonzero(local > threshold).flatten().tolist():
        scaled = minmax_scale(scores[:, index].reshape(grid).float().cpu().numpy())
        mask = scaled > _OBJECT
        top, left, bottom, right = box = bounding_box(mask, open_border=open_border)
        if bottom <= top or right <= left:
            if cwr_stop:
                break
            continue
        inside = torch.from_numpy(mask[top:bottom, left:right]).float()
        inside = F.interpolate(inside[None, None], native_grid, mode="nearest")[0, 0] > 0
        crop = cut(pixels, box, patch_size, native_size)
        proposals.append(Proposal(index, crop, inside.to(pixels.device)))
    return proposals


def cut(pixels: torch.Tensor, box: Box, patch_size: int, native_size: int) -> torch.Tensor:
    """Cuts a box, in patches, out of 3×H×W pixels and resizes it to the native square."""
    top, left, bottom, right = (edge * patch_size for edge in box)
    part = pixels[:, top:bottom, left:right].unsqueeze(0)
    return F.interpolate(
        part, (native_size, native_size), mode="bilinear", align_corners=False, antialias=False
    )[0]


def reidentify(
    encoder: ClipEncoder, text: torch.Tensor, proposals: list[Proposal], batch_size: int
) -> torch.Tensor:
    """Classifies crops with the whole CLIP, its class token attending to the object only.

    Every batch is padded to ``batch_size``, so that a crop's result does not depend on its company.

    Args:
        encoder: the image tower.
        text: C×E class embeddings.
        proposals: crops, of any number of images.
        batch_size: crops in a batch.

    Returns:
        The probability of each proposal's class, one float32 a proposal, on the CPU.
    """
    found = []
    for start in range(0, len(proposals), batch_size):
        batch = proposals[start : start + batch_size]
        padded = batch + batch[-1:] * (batch_size - len(batch))
        features = encoder.image_features(
            torch.stack([p.crop for p in padded]), torch.stack([p.inside for p in padded])
        )
        probabilities = one_by_one(
            lambda rows: class_probabilities(rows, text, encoder.temperature), features
        )
        found += [probabilities[row, p.class_index] for row, p in enumerate(batch)]
    return torch.stack(found).float().cpu() if found else torch.empty(0)
