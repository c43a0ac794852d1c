"""What a second backbone says of the patches of images that CLIP sees.

Notation as in :mod:`pipeline.clip.encoder`; h×w is the patch grid of the second backbone.
"""

import math

import torch
import torch.nn.functional as F

from pipeline.clip.compute.fused import FusedKernel
from pipeline.clip.compute.kept import KeptFeatures
from pipeline.clip.dimensions import Normalisation
from pipeline.clip.encoder import ClipEncoder
from pipeline.clip.image_tower import ImageTower


class SecondEncoder:
    """A frozen vision transformer that sees the pixels that were prepared for CLIP.

    Attributes:
        patch_size: in pixels.
    """

    def __init__(
        self,
        tower: ImageTower,
        precision: torch.dtype,
        kernel: FusedKernel | None,
        kept: KeptFeatures | None = None,
        name: str = "",
    ):
        """Wraps a tower that is already on its device, and has a name among ``kept`` features."""
        self._encoder = ClipEncoder(tower, precision=precision, kernel=kernel, kept=kept, name=name)
        self.patch_size = tower.patch_size

    def grid(self, pixels: torch.Tensor) -> tuple[int, int]:
        """Returns the patch grid of pixels, B×3×H×W."""
        return tuple(math.ceil(side / self.patch_size) for side in pixels.shape[-2:])

    def tokens(self, pixels: torch.Tensor, normalisation: Normalisation) -> torch.Tensor:
        """Returns the tokens of patches after the last norm, B×D×h×w float32.

        Args:
            pixels: B×3×H×W float32, normalised; if H or W is not a multiple of the patch size, they
                are resized to whole patches (bilinear).
            normalisation: that of the pixels.
        """
        seen, grid = self._see(pixels, normalisation)
        encoder = self._encoder
        tokens = encoder.attended(encoder.backbone_results(seen)[0]())
        return encoder.patches(tokens).mT.unflatten(-1, grid)

    def projections(
        self, pixels: torch.Tensor, normalisation: Normalisation
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Returns queries, keys and values of the last block, heads side by side: B×D×h×w each.

        Rotary positions have not turned them. Arguments as of :meth:`tokens`.
        """
        seen, grid = self._see(pixels, normalisation)
        tokens, *found = self._encoder.backbone_results(seen)[0]()
        block = self._encoder.last_block
        if block.rotary is not None:  # the released code of methods reads them before they turn
            found = block.project(block.ln_1(tokens))
        return tuple(
            self._encoder.patches(each).transpose(2, 3).flatten(1, 2).unflatten(-1, grid).float()
            for each in found
        )

    def _see(
        self, pixels: torch.Tensor, normalisation: Normalisation
    ) -> tuple[torch.Tensor, tuple[int, int]]:
        """Returns pixels as this backbone takes them, and its patch grid."""
        rows, columns = grid = self.grid(pixels)
        size = rows * self.patch_size, columns * self.patch_size
        if pixels.shape[-2:] != size:
            pixels = F.interpolate(pixels, size, mode="bilinear", align_corners=False)
        theirs, own = (
            [pixels.new_tensor(each)[:, None, None] for each in given]
            for given in (normalisation, self._encoder.normalisation)
        )
        return (pixels * theirs[1] + theirs[0] - own[0]) / own[1], grid


def unit(features: torch.Tensor) -> torch.Tensor:
    """Returns features of patches, B×D×h×w, as B×N×D, each of length 1."""
    return F.normalize(features.flatten(2).mT, dim=-1)
