"""CWR, class-wise reidentification (TagCLIP, section 3.4; docs/method.md, section 2).

For every class with a high local score, the whole CLIP classifies a crop around its patches.
"""

from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import torch
import torch.nn.functional as F

from pipeline.clip.compute.boxes import Box, bounding_box, minmax_scale
from pipeline.clip.device import to_host
from pipeline.clip.encoder import ClipEncoder

_OBJECT_THRESHOLD = 0.5  # patches with a scaled score above it belong to the object


@dataclass(frozen=True)
class Proposal:
    """A class and the crop in which CWR classifies it.

    Attributes:
        class_index: from 0.
        crop: 3×native×native float32, cut from the normalised pixels.
        inside: bool on the native patch grid, the patches that belong to the object; on the CPU.
    """

    class_index: int
    crop: torch.Tensor
    inside: torch.Tensor


@dataclass(eq=False)
class Cwr:
    """Proposes classes of images, and classifies their crops.

    Attributes:
        encoder: the image tower.
        text: C×E class embeddings on the encoder's device; n classes, then perhaps backgrounds.
        num_classes: n.
        alpha: α of θ, which is computed over all of S².
        quirks: ``open_border``, see :func:`pipeline.clip.compute.boxes.bounding_box`; and
            ``cwr_stop``: an empty box also ends the loop, so that all later classes keep their
            local score; without it only the class with the empty box does.
    """

    encoder: ClipEncoder
    text: torch.Tensor
    num_classes: int
    alpha: float
    quirks: SimpleNamespace

    def propose(self, pixels: torch.Tensor, scores: np.ndarray) -> list[Proposal]:
        """Cuts a crop of native size for every class of an image whose local score exceeds θ.

        ``pixels`` are those of the shared pass, 3×(P·h)×(P·w) float32, ``scores`` S², N×C float32.
        """
        patch_size, native_size = self.encoder.patch_size, self.encoder.native_size
        grid = (pixels.shape[1] // patch_size, pixels.shape[2] // patch_size)
        native_side = native_size // patch_size
        local = scores[:, : self.num_classes].max(0)
        low, high = scores.min(), scores.max()
        threshold = low + self.alpha * (high - low)
        proposals = []
        for index in np.flatnonzero(local > threshold).tolist():
            mask = minmax_scale(scores[:, index].reshape(grid)) > _OBJECT_THRESHOLD
            box = bounding_box(mask, open_border=self.quirks.open_border)
            top, left, bottom, right = box
            if bottom <= top or right <= left:
                if self.quirks.cwr_stop:
                    break
                continue
            inside = torch.from_numpy(mask[top:bottom, left:right]).float()
            inside = F.interpolate(inside[None, None], native_side, mode="nearest")[0, 0] > 0
            proposals.append(Proposal(index, cut(pixels, box, patch_size, native_size), inside))
        return proposals

    def classify(self, proposals: list[Proposal], batch_size: int) -> np.ndarray:
        """Classifies crops with the whole CLIP, whose class token attends to the object only.

        Proposals are at least one and at most ``batch_size``, of any number of images. The batch is
        padded to its full size, so that a crop's result does not depend on the others. Returns the
        probability of each proposal's class, float32 in [0, 1].
        """
        padded = proposals + proposals[-1:] * (batch_size - len(proposals))
        crops = torch.stack([proposal.crop for proposal in padded])
        inside = torch.stack([proposal.inside for proposal in padded]).to(crops.device)
        probabilities = self.encoder.classify_images(crops, self.text, inside)
        chosen = [proposal.class_index for proposal in proposals]
        return to_host(probabilities[range(len(chosen)), chosen])[0]


def cut(pixels: torch.Tensor, box: Box, patch_size: int, native_size: int) -> torch.Tensor:
    """Cuts a box, in patches, out of 3×H×W pixels and resizes it to the native square."""
    top, left, bottom, right = (edge * patch_size for edge in box)
    part = pixels[:, top:bottom, left:right].unsqueeze(0)
    return F.interpolate(part, native_size, mode="bilinear", align_corners=False)[0]
