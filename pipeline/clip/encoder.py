"""CLIP's vision transformer, opened up: tokens and attentions of every block.

Notation of ALGORITHMS.md: B images, patch grid h×w, N = h·w patches, width D, L blocks (counted
from 1), embedding E. Tokens are B×(1+N)×D, the class token first.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from open_clip.transformer import ResidualAttentionBlock, VisionTransformer
from torch import nn

from pipeline.clip.architectures import REMEDY, ClipModel
from pipeline.clip.attention import attend, one_by_one, watch
from pipeline.clip.block import Block, Projections
from pipeline.clip.pixels import OPENAI_NORMALISATION, Normalisation, patch_grid, to_pixels
from pipeline.errors import UserError

OnAttention = Callable[[int, torch.Tensor], None]
"""Receives a block's number and its patch-to-patch attention, averaged over heads: B×N×N float32.
An attribute ``blocks`` says which blocks it wants; without one it wants all."""

_PATCHES_OF_A_FULL_BATCH = 1600
_OUTSIDE = -1000.0  # added to the attention logits from the class token to masked patches (CWR)


@dataclass(frozen=True)
class BeforeLast:
    """What enters block L, and what that block makes of it before it attends.

    Attributes:
        tokens: B×(1+N)×D float32.
        query: block L's queries, B×heads×(1+N)×d.
        key: its keys, the same shape.
        value: its values, the same shape.
    """

    tokens: torch.Tensor
    query: torch.Tensor
    key: torch.Tensor
    value: torch.Tensor

    @property
    def projections(self) -> Projections:
        """Queries, keys and values."""
        return self.query, self.key, self.value

    def row(self, index: int) -> BeforeLast:
        """Returns one image of the batch, as a batch of one that does not keep the others."""
        if len(self.tokens) == 1:
            return self
        part = slice(index, index + 1)
        return BeforeLast(*(one[part].clone() for one in (self.tokens, *self.projections)))


class ClipEncoder:
    """The frozen image tower of a CLIP whose vision transformer has a class token.

    Attributes:
        patch_size: P, in pixels.
        native_size: side of the square images that the model was trained on, in pixels.
        depth: L.
        temperature: τ = exp(logit_scale), which multiplies cosines before the softmax.
        normalisation: what its pixels have to be normalised with.
    """

    def __init__(
        self,
        clip: ClipModel,
        *,
        position_fp16: bool = False,
        normalisation: Normalisation = OPENAI_NORMALISATION,
        precision: torch.dtype = torch.float32,
        most_patches: int | None = None,
    ):
        """Wraps a model that is already on its device, and converts its blocks to a precision.

        Args:
            clip: open_clip's model, frozen. Its blocks' weights are laid out now, so that later
                changes of them are not seen.
            position_fp16: quirk: the interpolated position embedding is rounded to float16.
            normalisation: the one of its training, see
                :func:`pipeline.clip.architectures.find_training`.
            precision: of the blocks' weights, and so of nearly all products; tokens, norms and
                softmax stay in float32.
            most_patches: see :func:`pipeline.clip.pixels.patch_grid`.

        Raises:
            UserError: the image tower is no plain vision transformer with a class token.
        """
        visual = clip.visual
        plain = (
            isinstance(visual, VisionTransformer)
            and visual.attn_pool is None
            and visual.pool_type == "tok"
            and not visual.final_ln_after_pool
            and all(
                type(b) is ResidualAttentionBlock and type(b.attn) is nn.MultiheadAttention
                for b in visual.transformer.resblocks
            )
        )
        if not plain:
            raise UserError(
                f"this CLIP's image tower ({type(visual).__name__}) has no class token, or"
                f" blocks of another kind, but {REMEDY}"
            )
        for block in visual.transformer.resblocks:
            block.attn.to(precision)
        *blocks, last = visual.transformer.resblocks
        self._blocks = [Block(block, precision) for block in blocks]
        self._last = Block(last, precision, differentiable=True)
        for block in visual.transformer.resblocks:
            block.mlp.to(precision)
        self.visual = visual
        self.position_fp16 = position_fp16
        self.patch_size = visual.patch_size[0]
        self.native_size = visual.image_size[0]
        self.depth = len(visual.transformer.resblocks)
        self.temperature = float(clip.logit_scale.exp())
        self.normalisation = normalisation
        self.most_patches = most_patches

    @property
    def device(self) -> torch.device:
        """Where the weights lie."""
        return self.visual.proj.device

    def grid_of(self, image: np.ndarray) -> tuple[int, int]:
        """Returns the patch grid h, w on which an image, H×W×3, is looked at."""
        return patch_grid(*image.shape[:2], self.patch_size, self.most_patches)

    def batch_of(self, grid: tuple[int, int], wanted: int) -> int:
        """Returns how many images of a grid are looked at together.

        Attention takes memory with the square of the patches: larger images than those of VOC and
        COCO, which have some 1,000 and up to 1,600, go in smaller batches.
        """
        return max(1, min(wanted, wanted * _PATCHES_OF_A_FULL_BATCH**2 // (grid[0] * grid[1]) ** 2))

    def prepare(self, image: np.ndarray, *, squeeze: bool = False) -> torch.Tensor:
        """Resizes an image to its patch grid and normalises it.

        Args:
            image: H×W×3 uint8, RGB.
            squeeze: whether it is squeezed to the native size instead.

        Returns:
            3×(P·h)×(P·w) float32 on the CPU.
        """
        side = self.native_size
        rows, columns = self.grid_of(image)
        size = (side, side) if squeeze else (rows * self.patch_size, columns * self.patch_size)
        return to_pixels(image, *size, self.normalisation)

    def embed_patches(self, pixels: torch.Tensor) -> torch.Tensor:
        """Turns pixels into the tokens that enter the first block.

        Args:
            pixels: B×3×(P·h)×(P·w) float32, normalised.

        Returns:
            B×(1+N)×D.
        """
        visual = self.visual
        patches = visual.conv1(pixels)
        positions = self.position_embedding(*patches.shape[-2:])
        class_token = visual.class_embedding.expand(len(pixels), 1, -1)
        return visual.ln_pre(torch.cat([class_token, patches.flatten(2).mT], 1) + positions)

    def position_embedding(self, rows: int, columns: int) -> torch.Tensor:
        """Returns the position embedding for a patch grid, (1+N)×D (ALGORITHMS §1)."""
        embedding = self.visual.positional_embedding
        native = self.visual.grid_size
        if (rows, columns) == tuple(native):
            return embedding
        grid = embedding[1:].unflatten(0, native).permute(2, 0, 1).unsqueeze(0)
        grid = F.interpolate(grid, (rows, columns), mode="bilinear", align_corners=False)
        embedding = torch.cat([embedding[:1], grid[0].flatten(1).mT])
        return embedding.half().float() if self.position_fp16 else embedding

    def backbone(self, pixels: torch.Tensor, *listeners: OnAttention) -> BeforeLast:
        """Runs blocks 1 to L−1 as they are, and shows the attention of all L; without gradients.

        Args:
            pixels: B×3×(P·h)×(P·w) float32, normalised.
            listeners: told the attention of every block, or of those in their ``blocks``; block
                L's is the one that it would have, from its own queries and keys.

        Returns:
            What enters block L.
        """
        tokens = self.embed_patches(pixels)
        for number, block in enumerate(self._blocks, 1):
            projections = block.project(block.ln_1(tokens))
            if heard := _listening(listeners, number):
                gathered, between_patches = watch(*projections)
                _tell(heard, number, between_patches)
            else:
                gathered = attend(*projections)
            tokens = block.finish(tokens, gathered)
        query, key, value = self._last.project(self.last_attention_input(tokens))
        if heard := _listening(listeners, self.depth):
            _tell(heard, self.depth, watch(query, key, None)[1])
        return BeforeLast(tokens, query, key, value)

    def value_features(self, before: BeforeLast) -> torch.Tensor:
        """Runs block L with the identity as its attention: what every patch says by itself.

        This is the patch-level classification of TagCLIP (section 3.2).

        Args:
            before: what enters block L.

        Returns:
            The patches' embeddings, B×N×E, of length 1.
        """
        return self._embed(self._last.finish(before.tokens[:, 1:], before.value[:, :, 1:]))

    def attended_features(self, before: BeforeLast) -> torch.Tensor:
        """Runs block L as it is: embeddings of class token and patches, B×(1+N)×E, of length 1."""
        return self._embed(self._last.finish(before.tokens, attend(*before.projections)))

    def last_attention_input(self, tokens: torch.Tensor) -> torch.Tensor:
        """Returns the output of block L's ln_1, where Grad-CAM looks: B×(1+N)×D."""
        return self._last.ln_1(tokens)

    def features_of_gathered(self, tokens: torch.Tensor, gathered: torch.Tensor) -> torch.Tensor:
        """Runs block L from what its attention has gathered on, differentiable with respect to it.

        Args:
            tokens: those that enter block L, for the residual, B×(1+N)×D.
            gathered: B×heads×(1+N)×d.

        Returns:
            All tokens after block L and ln_post, before the projection, B×(1+N)×D.
        """
        return self.visual.ln_post(self._last.finish(tokens, gathered))

    def pull_back(self, gradients: torch.Tensor) -> torch.Tensor:
        """Takes gradients with respect to block L's projections back to the output of its ln_1.

        Args:
            gradients: …×3D: of queries, keys and values, heads side by side.

        Returns:
            …×D float32.
        """
        return self._last.pull_back(gradients)

    def project(self, features: torch.Tensor) -> torch.Tensor:
        """Projects features of width D into CLIP's embedding, …×E, of length 1."""
        return F.normalize((features @ self.visual.proj).float(), dim=-1)

    def image_features(
        self, pixels: torch.Tensor, inside: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Returns the class token's embedding of the whole model, B×E, of length 1.

        Args:
            pixels: B×3×(P·h)×(P·w) float32, normalised.
            inside: B×h×w bool; where given, the class token of every block attends to these patches
                only (TagCLIP's class-wise re-identification).
        """
        tokens = self.embed_patches(pixels)
        bias = class_bias = None
        if inside is not None:
            count = tokens.shape[1]
            bias = tokens.new_zeros(len(tokens), 1, count, count)
            bias[:, 0, 0, 1:] = torch.where(inside.flatten(1), 0.0, _OUTSIDE)
            class_bias = bias[:, :, :1]
        for block in self._blocks:
            tokens = block.finish(tokens, attend(*block.project(block.ln_1(tokens)), bias))
        # Nobody asks what the patches become in block L.
        normed = self.last_attention_input(tokens)

        def finish(token: torch.Tensor, *of_one: torch.Tensor) -> torch.Tensor:
            return self._embed(self._last.finish(token, attend(*of_one)))[:, 0]

        bias = [] if class_bias is None else [class_bias]
        projections = self._last.project_for(normed, normed[:, :1])
        return one_by_one(finish, tokens[:, :1], *projections, *bias)

    def _embed(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.project(self.visual.ln_post(tokens))


def _listening(listeners: Sequence[OnAttention], number: int) -> list[OnAttention]:
    """Returns the listeners that want a block's attention."""
    return [one for one in listeners if number in getattr(one, "blocks", (number,))]


def _tell(listeners: Sequence[OnAttention], number: int, attention: torch.Tensor) -> None:
    for listener in listeners:
        listener(number, attention)
