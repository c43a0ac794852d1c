"""What is asked of the image side of an image-text model: the parts that the encoder computes with.

Notation as in :mod:`pipeline.clip.encoder`. The parts stand in the order in which they are used.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from open_clip.transformer import ResidualAttentionBlock, VisionTransformer
from torch import nn

from pipeline.clip.architectures import REMEDY, ClipModel
from pipeline.clip.dimensions import OPENAI_NORMALISATION, Normalisation
from pipeline.errors import UserError

BILINEAR = {"mode": "bilinear", "align_corners": False}
"""How CLIP's positions are stretched; options of torch's ``interpolate``."""

BICUBIC = {"mode": "bicubic", "align_corners": False, "antialias": True}
"""The same of DINOv2 with registers; DINOv2 without them has others."""

AS_DINO = {"stretch": {"mode": "bicubic", "align_corners": False}, "offset": 0.1}
"""Attributes of a tower whose positions are stretched as DINO's code does."""


class Embedding:
    """What turns patches into the tokens that enter the first block: see :class:`ImageTower`."""

    class_token: torch.Tensor
    registers: torch.Tensor | None
    norm_before: nn.Module
    positions: torch.Tensor
    stretch: dict[str, Any]
    offset: float
    covers_square: bool

    def position_embedding(self, rows: int, columns: int) -> torch.Tensor:
        """Returns a patch grid's position embedding, (1+N)×D (docs/method.md, section 1)."""
        side = math.isqrt(len(self.positions) - 1)  # of the grid that was trained
        # An exported graph of any size must work for every grid, so it takes no shortcut for one.
        if isinstance(rows, int) and rows == columns == side:
            return self.positions
        sides = (torch.sym_max(rows, columns),) * 2 if self.covers_square else (rows, columns)
        wanted: dict[str, Any] = {"size": sides}
        if self.offset:
            scales = ((length + self.offset) / side for length in (rows, columns))
            wanted = {"scale_factor": tuple(scales)}
        grid = self.positions[1:].unflatten(0, (side, side)).permute(2, 0, 1).unsqueeze(0)
        stretched = F.interpolate(grid, **wanted, **self.stretch)[..., :rows, :columns]
        return torch.cat([self.positions[:1], stretched[0].flatten(1).mT])

    def first_tokens(self, patches: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """Returns the tokens of patches, B×D×h×w, with the position embedding of their grid."""
        class_token = self.class_token.expand(patches.shape[0], 1, -1)
        tokens = torch.cat([class_token, patches.flatten(2).mT], 1) + positions
        if self.registers is not None:
            registers = self.registers.expand(patches.shape[0], -1, -1)
            tokens = torch.cat([tokens[:, :1], registers, tokens[:, 1:]], 1)
        return self.norm_before(tokens)


@dataclass(frozen=True, eq=False)
class ImageTower(Embedding):
    """A frozen vision transformer whose patches are compared with names.

    Attributes:
        normalisation: of the pixels.
        native_size: side in pixels of the squares that a whole image or a crop is resized to.
        patch_embedding: turns pixels into patches, B×D×h×w; a convolution of stride P.
        class_token: D.
        positions: (1+N₀)×D, of the class token and of the square grid that was trained.
        stretch: options of torch's ``interpolate`` by which positions reach another grid.
        offset: is added to each side of that grid, by whose share of the native one positions are
            then stretched; 0 stretches them to its size.
        covers_square: whether positions are stretched to a square, of which the grid is a part.
        registers: R×D, tokens without positions behind the class token.
        norm_before: the layer norm before the first block; the identity if there is none.
        blocks: in open_clip's form, with layer scale or without. A block may have a module
            ``norm_after``, through which its tokens go before the next one.
        norm_after: the layer norm after block L.
        projection: D×E; none if E = D.
        temperature: τ, which multiplies cosine similarities before a softmax.
        joins_patches: whether the embedding of the whole image is that of the class token and the
            mean of those of the patches, side by side. The embedding of a text is as long, and is
            followed by the one that patches are compared with, half as long.
    """

    normalisation: Normalisation
    native_size: int
    patch_embedding: nn.Conv2d
    class_token: torch.Tensor
    positions: torch.Tensor
    norm_before: nn.Module
    blocks: Sequence[ResidualAttentionBlock]
    norm_after: nn.Module
    temperature: float
    stretch: dict[str, Any]
    projection: torch.Tensor | None = None
    registers: torch.Tensor | None = None
    joins_patches: bool = False
    offset: float = 0.0
    covers_square: bool = False

    @classmethod
    def of(
        cls, clip: ClipModel, normalisation: Normalisation = OPENAI_NORMALISATION
    ) -> "ImageTower":
        """Returns the image tower of a frozen CLIP of open_clip's own form.

        A UserError refuses one that is not a plain vision transformer with a class token.
        """
        visual = clip.visual
        is_plain = isinstance(visual, VisionTransformer) and all(
            type(block) is ResidualAttentionBlock and type(block.attn) is nn.MultiheadAttention
            for block in visual.transformer.resblocks
        )
        if not is_plain:
            raise UserError(
                f"the image tower of this CLIP ({type(visual).__name__}) has no class token, or"
                f" blocks of another kind, but {REMEDY}"
            )
        return cls(
            normalisation=normalisation,
            native_size=visual.image_size[0],
            patch_embedding=visual.conv1,
            class_token=visual.class_embedding,
            positions=visual.positional_embedding,
            stretch=BILINEAR,
            norm_before=visual.ln_pre,
            blocks=visual.transformer.resblocks,
            norm_after=visual.ln_post,
            projection=visual.proj,
            temperature=float(clip.logit_scale.exp()),
        )

    @property
    def patch_size(self) -> int:
        """P, in pixels."""
        return self.patch_embedding.kernel_size[0]

    @property
    def is_stretched_as_clip(self) -> bool:
        """Whether positions are stretched as those of CLIP, to which the quirks of these apply."""
        return self.stretch == BILINEAR and not self.covers_square

    @property
    def prefix(self) -> int:
        """The number of tokens before the patches: the class token and the registers, 1+R."""
        return 1 + (0 if self.registers is None else len(self.registers))

    def project(self, features: torch.Tensor) -> torch.Tensor:
        """Projects features after the last norm, …×D: …×E, of any length."""
        return features if self.projection is None else features @ self.projection
