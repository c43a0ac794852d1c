"""A frozen vision transformer with access to the tokens and the attention of every block.

Notation, as in docs/method.md: B images, patch grid h×w, N = h·w patches, R registers, width D,
L blocks counted from 1, d channels of each attention head, embedding size E. Pixels are
B×3×(P·h)×(P·w) float32, normalised. Tokens are B×T×D, T = 1+R+N: the class token first, then the
registers, which CLIP does not have, and the patches.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torchvision.transforms.functional import normalize

from pipeline.clip.attention import Attention, one_by_one
from pipeline.clip.block import Block
from pipeline.clip.compute.fused import FusedKernel
from pipeline.clip.compute.kept import KeptFeatures, digest
from pipeline.clip.dimensions import OPENAI_NORMALISATION, Normalisation, patch_grid
from pipeline.clip.image_tower import ImageTower

AttentionHook = Callable[[int, torch.Tensor], None]
"""Receives a block's number and its attention between patches, averaged over heads: B×N×N float32.
It is called for the blocks in its attribute ``blocks``, or for all blocks if it has none."""

_MAX_PATCHES_OF_FULL_BATCH = 1600
_MASKED_LOGIT = -1000.0  # added to attention logits from the class token to masked patches


class BlockInput(NamedTuple):
    """The tokens that enter a block, with that block's queries, keys and values.

    Tokens are B×T×D float32, the others B×heads×T×d in the encoder's precision.
    """

    tokens: torch.Tensor
    query: torch.Tensor
    key: torch.Tensor
    value: torch.Tensor


class BlockHook(ABC):
    """Looks at what enters every block, L among them, before the block runs."""

    @abstractmethod
    def __call__(self, number: int, block: Block, inputs: BlockInput) -> None:
        """Takes in a block's number, counted from 1, the block and what enters it."""

    @abstractmethod
    def result(self) -> torch.Tensor:
        """Returns what came of it, B×…, after the pass."""


class ClipEncoder:
    """The frozen image tower of an image-text model.

    Attributes:
        tower: what it computes with.
        patch_size: P, in pixels.
        native_size: side of the square training images, in pixels.
        depth: L.
        temperature: τ, which multiplies cosine similarities before the softmax; exp(logit_scale).
        normalisation: of the pixels.
        kept: what was found in images, for other names; none keeps nothing.
    """

    def __init__(
        self,
        tower: ImageTower,
        *,
        position_fp16: bool = False,
        precision: torch.dtype = torch.float32,
        max_patches: int | None = None,
        kernel: FusedKernel | None = None,
        kept: KeptFeatures | None = None,
        name: str = "",
    ):
        """Wraps a tower that is already on its device, and converts its blocks to a precision.

        Args:
            tower: the frozen image tower. Its blocks must not be changed after this call.
            position_fp16: quirk: the interpolated position embedding of a CLIP is rounded to
                float16.
            precision: of the blocks' weights and of nearly all matrix products; tokens, layer norms
                and softmax stay in float32.
            max_patches: see :func:`pipeline.clip.dimensions.patch_grid`.
            kernel: computes the attention, if the CPU has AMX.
            kept: see above.
            name: tells its features from those of other weights.
        """
        for block in tower.blocks:
            block.attn.to(precision)
        *blocks, last = tower.blocks
        in_pieces = kernel is not None and precision == torch.bfloat16
        self._blocks = [Block(block, precision, in_pieces=in_pieces) for block in blocks]
        self.last_block = Block(last, precision, differentiable=True, in_pieces=in_pieces)
        for block in tower.blocks:
            block.mlp.to(precision)
        self.tower = tower
        self.position_fp16 = position_fp16 and tower.is_stretched_as_clip
        self.patch_size = tower.patch_size
        self.native_size = tower.native_size
        self.depth = len(tower.blocks)
        self.temperature = tower.temperature
        self.normalisation = tower.normalisation
        self.max_patches = max_patches
        self.kept, self._name = kept, name
        self.attend = Attention(kernel, tower.prefix)

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        return self.tower.class_token.device

    @property
    def blocks(self) -> list[Block]:
        """All blocks, L among them."""
        return [*self._blocks, self.last_block]

    def to_images(self, pixels: torch.Tensor) -> np.ndarray:
        """Returns the images of normalised pixels, B×3×H×W float32: B×H×W×3 uint8."""
        mean, std = (pixels.new_tensor(each)[:, None, None] for each in self.normalisation)
        values = (255 * (pixels * std + mean)).round_().clamp_(0, 255).to(torch.uint8)
        return values.permute(0, 2, 3, 1).contiguous().cpu().numpy()

    def patches(self, tokens: torch.Tensor) -> torch.Tensor:
        """Returns the patches among tokens, or among their queries, keys or values: …×T×C."""
        return tokens[..., self.tower.prefix :, :]

    def patch_grid(self, image: np.ndarray) -> tuple[int, int]:
        """Returns the patch grid h, w of an image, H×W×3."""
        return patch_grid(*image.shape[:2], self.patch_size, self.max_patches)

    def batch_size_for(self, grid: tuple[int, int], batch_size: int) -> int:
        """Returns how many images of a patch grid form a batch, at most ``batch_size``.

        The memory for attention grows with the square of the number of patches. Images of VOC and
        COCO have about 1,000 and at most 1,600; larger images get smaller batches.
        """
        fitting = batch_size * _MAX_PATCHES_OF_FULL_BATCH**2 // (grid[0] * grid[1]) ** 2
        return max(1, min(batch_size, fitting))

    def prepare(self, image: np.ndarray, *, squeeze: bool = False) -> torch.Tensor:
        """Normalises an image, H×W×3 uint8, RGB: 3×(P·h)×(P·w) float32 on the CPU.

        It is resized to its patch grid; with ``squeeze``, to the native square.
        """
        side = self.native_size
        rows, columns = self.patch_grid(image)
        size = (side, side) if squeeze else (rows * self.patch_size, columns * self.patch_size)
        return to_pixels(image, *size, self.normalisation)

    def embed_patches(self, pixels: torch.Tensor) -> torch.Tensor:
        """Turns pixels into the tokens that enter the first block."""
        patches = self.tower.patch_embedding(pixels)
        return self.tower.first_tokens(patches, self.position_embedding(*patches.shape[-2:]))

    def position_embedding(self, rows: int, columns: int) -> torch.Tensor:
        """Returns a patch grid's position embedding, see :class:`ImageTower`."""
        embedding = self.tower.position_embedding(rows, columns)
        is_stretched = embedding is not self.tower.positions
        return embedding.half().float() if self.position_fp16 and is_stretched else embedding

    def backbone(self, pixels: torch.Tensor, *hooks: AttentionHook | BlockHook) -> BlockInput:
        """Runs blocks 1 to L−1 and calls hooks for all L; without gradients.

        Block L does not run; its attention is from its own queries and keys. Returns its input.
        """
        block_hooks = [hook for hook in hooks if isinstance(hook, BlockHook)]
        attention_hooks = [hook for hook in hooks if not isinstance(hook, BlockHook)]
        tokens = self.embed_patches(pixels)
        for number, block in enumerate(self.blocks, 1):
            inputs = BlockInput(tokens, *block.project(block.ln_1(tokens), pixels.shape[-2:]))
            for hook in block_hooks:
                hook(number, block, inputs)
            if number < self.depth:
                tokens = block.finish(tokens, self._attend(attention_hooks, number, *inputs[1:]))
        self._attend(attention_hooks, self.depth, inputs.query, inputs.key, None)
        return inputs

    def backbone_results(
        self, pixels: torch.Tensor, *hooks: AttentionHook | BlockHook
    ) -> tuple[Callable[[], BlockInput], tuple[torch.Tensor, ...]]:
        """Returns what gives the input of block L, see :meth:`backbone`, and the hooks' results."""
        if self.kept is None:
            inputs = self.backbone(pixels, *hooks)
            return (lambda: inputs), tuple(hook.result() for hook in hooks)

        def compute() -> tuple[torch.Tensor, ...]:
            tokens = self.backbone(pixels, *hooks).tokens
            return tokens, *(hook.result() for hook in hooks)

        # The hooks were not called yet.
        key = digest(pixels, self._name, self.position_fp16, self.tower.offset, *hooks)
        tokens, *found = self.kept.get_or(key, compute)
        block, size = self.last_block, pixels.shape[-2:]  # its projections are not kept
        return (lambda: BlockInput(tokens, *block.project(block.ln_1(tokens), size))), tuple(found)

    def tokens_after(
        self, pixels: torch.Tensor, numbers: Collection[int]
    ) -> dict[int, torch.Tensor]:
        """Returns the tokens after blocks, counted from 1: B×T×D float32 of each."""
        tokens, size, found = self.embed_patches(pixels), pixels.shape[-2:], {}
        for number, block in enumerate(self.blocks[: max(numbers, default=0)], 1):
            tokens = block.finish(tokens, self.attend(*block.project(block.ln_1(tokens), size)))
            if number in numbers:
                found[number] = tokens
        return found

    def value_features(self, inputs: BlockInput) -> torch.Tensor:
        """Runs block L with the identity as its attention, so that every patch keeps to itself.

        Returns patch embeddings, B×N×E float32, of length 1, for TagCLIP (patches, section 3.2).
        """
        return F.normalize(self.value_embeddings(inputs), dim=-1)

    def value_embeddings(self, inputs: BlockInput) -> torch.Tensor:
        """Returns the embeddings of :meth:`value_features`, B×N×E float32, of any length."""
        tokens, value = self.patches(inputs.tokens), self.patches(inputs.value)
        return self.embed(self.last_block.finish(tokens, value))

    def attended(self, inputs: BlockInput) -> torch.Tensor:
        """Runs block L unchanged: the embeddings of all tokens, B×T×E, of any length."""
        tokens, *projections = inputs
        return self.embed(self.last_block.finish(tokens, self.attend(*projections)))

    def attended_features(self, inputs: BlockInput) -> torch.Tensor:
        """Runs block L unchanged: the embeddings of all tokens, B×T×E, of length 1."""
        return F.normalize(self.attended(inputs), dim=-1)

    def classify_attended(
        self, inputs: BlockInput, text: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Runs block L unchanged, and classifies the whole image, B×C, and its patches, B×N×C."""
        found = self.classify(self.attended_features(inputs), self.text_for_patches(text))
        whole = found[:, 0]
        if self.tower.joins_patches:
            whole = self.classify(self.whole_image_features(inputs), text)
        return whole, self.patches(found)

    def whole_image_features(self, inputs: BlockInput) -> torch.Tensor:
        """Returns the embedding of the whole image alone, B×E float32, of length 1."""
        if self.tower.joins_patches:
            return self._join(self.attended(inputs), None)
        tokens, query, key, value = inputs
        return self._finish_class_token(tokens[:, :1], query[:, :, :1], key, value)

    def text_for_patches(self, text: torch.Tensor) -> torch.Tensor:
        """Returns what patches are compared with, of the embeddings of names."""
        return text[:, text.shape[1] * 2 // 3 :] if self.tower.joins_patches else text

    def classify(self, features: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
        """Returns the softmax of τ·f·t over all names, …×C float32; for patch features this is S⁰.

        The ``features`` f are …×E and of length 1, as is the ``text`` t, C×E: classes first, then
        backgrounds; of patches see :meth:`text_for_patches`.
        """
        return (self.temperature * features @ text[:, : features.shape[-1]].mT).softmax(-1)

    def classify_images(
        self, pixels: torch.Tensor, text: torch.Tensor, inside: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Classifies whole images, B×C; see :meth:`image_features`."""
        features = self.image_features(pixels, inside)
        return one_by_one(lambda rows: self.classify(rows, text), features)

    def image_features(
        self, pixels: torch.Tensor, inside: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Returns the embedding of the whole image, B×E float32, of length 1.

        If ``inside``, B×h×w bool, is given, the class token attends to these patches only, in every
        block (TagCLIP's class-wise reidentification). Registers are never masked.
        """
        if self.kept is None:
            return self._image_features(pixels, inside)
        masks = [None] * len(pixels) if inside is None else inside
        keys = [digest(*row, self.position_fp16) for row in zip(pixels, masks)]

        def make(rows: list[int]) -> torch.Tensor:
            # A batch of the same size, on which the last digits depend.
            rows = rows + rows[-1:] * (len(pixels) - len(rows))
            return self._image_features(pixels[rows], inside if inside is None else inside[rows])

        return self.kept.rows(keys, make)

    def _image_features(self, pixels: torch.Tensor, inside: torch.Tensor | None) -> torch.Tensor:
        tokens, size = self.embed_patches(pixels), pixels.shape[-2:]
        bias, class_bias = None, []
        if inside is not None:
            count = tokens.shape[1]
            bias = tokens.new_zeros(len(tokens), 1, count, count)
            bias[:, 0, 0, self.tower.prefix :] = torch.where(inside.flatten(1), 0.0, _MASKED_LOGIT)
            class_bias = [bias[:, :, :1]]
        for block in self._blocks:
            projected = block.project(block.ln_1(tokens), size)
            tokens = block.finish(tokens, self.attend(*projected, bias))
        block, normed = self.last_block, self.last_block.ln_1(tokens)
        if self.tower.joins_patches:
            attended = self.attend(*block.project(normed, size), bias)
            return self._join(self.embed(block.finish(tokens, attended)), inside)
        # Of block L only the class token is needed.
        projections = block.project_for(normed, normed[:, :1], size)
        return self._finish_class_token(tokens[:, :1], *projections, *class_bias)

    def embed(self, tokens: torch.Tensor) -> torch.Tensor:
        """Returns the embeddings of tokens after block L, …×D: …×E float32, of any length."""
        return self.tower.project(self.tower.norm_after(tokens.float()))

    def _join(self, embeddings: torch.Tensor, inside: torch.Tensor | None) -> torch.Tensor:
        """Joins those of the class token and the mean of the patches, or of the patches inside."""
        patches = self.patches(embeddings)
        weights = patches.new_ones(patches.shape[:2]) if inside is None else inside.flatten(1)
        weights = weights / weights.sum(1, keepdim=True)
        mean = (weights.unsqueeze(1) @ patches)[:, 0]
        return F.normalize(torch.cat([embeddings[:, 0], mean], 1), dim=-1)

    def _attend(
        self,
        hooks: Sequence[AttentionHook],
        number: int,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor | None,
    ) -> torch.Tensor | None:
        """Returns a block's attention output, if there are values, and calls the block's hooks."""
        wanting = [hook for hook in hooks if number in getattr(hook, "blocks", (number,))]
        if not wanting:
            return None if value is None else self.attend(query, key, value)
        attended, between_patches = self.attend.with_weights(query, key, value)
        for hook in wanting:
            hook(number, between_patches)
        return attended

    def _finish_class_token(self, token: torch.Tensor, *attention: torch.Tensor) -> torch.Tensor:
        def finish(token: torch.Tensor, *attention: torch.Tensor) -> torch.Tensor:
            embedded = self.embed(self.last_block.finish(token, self.attend(*attention)))
            return F.normalize(embedded, dim=-1)[:, 0]

        return one_by_one(finish, token, *attention)


def to_pixels(
    image: np.ndarray, height: int, width: int, normalisation: Normalisation = OPENAI_NORMALISATION
) -> torch.Tensor:
    """Resizes an image (Pillow's bicubic filter), scales it to [0, 1] and normalises it.

    From H×W×3 uint8, RGB, to 3×height×width float32.
    """
    resized = Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC)
    values = normalize((torch.arange(256) / 255).expand(3, 1, 256), *normalisation)  # of each byte
    channels = zip(values.numpy(), np.asarray(resized).transpose(2, 0, 1))
    return torch.from_numpy(np.stack([of_byte[0].take(channel) for of_byte, channel in channels]))
