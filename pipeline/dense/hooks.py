"""Hooks of dense methods that use the blocks before the last one."""

from abc import abstractmethod
from collections.abc import Collection

import torch

from pipeline.clip.attention import attention_weights
from pipeline.clip.block import Block
from pipeline.clip.encoder import BlockHook, BlockInput


class MeanWeights(BlockHook):
    """Averages attention weights of some blocks, head by head; the blocks run unchanged.

    A block's weights are the sum of softmax(XYᵀ/√d) over pairs of its queries, keys and values.

    Attributes:
        blocks: their numbers, counted from 1.
        pairs: X and Y, by their names in :class:`~pipeline.clip.encoder.BlockInput`.
    """

    def __init__(self, blocks: Collection[int], *pairs: tuple[str, str]):
        self.blocks, self.pairs = blocks, pairs
        self._sum: torch.Tensor | float = 0.0

    def __call__(self, number: int, block: Block, inputs: BlockInput) -> None:
        """Adds a block's weights."""
        if number not in self.blocks:
            return
        for left, right in self.pairs:
            self._sum = self._sum + attention_weights(getattr(inputs, left), getattr(inputs, right))

    def result(self) -> torch.Tensor:
        """Returns the mean over the blocks, B×heads×(1+N)×(1+N) float32."""
        return self._sum / len(self.blocks)


class SecondPath(BlockHook):
    """A path of tokens beside the blocks from ``first`` on: each adds an attention, but no MLP."""

    def __init__(self, first: int):
        self.first = first
        self._tokens: torch.Tensor | None = None

    @abstractmethod
    def attention(self, block: Block, inputs: BlockInput) -> torch.Tensor:
        """Returns what a block adds to the path, B×(1+N)×D, from what enters the block."""

    def __call__(self, number: int, block: Block, inputs: BlockInput) -> None:
        """Continues the path by a block."""
        if number == self.first:
            self._tokens = inputs.tokens
        if number >= self.first:
            self._tokens = block.norm_after(self._tokens + self.attention(block, inputs))

    def result(self) -> torch.Tensor:
        """Returns the tokens of the path after block L, B×(1+N)×D float32."""
        return self._tokens


class EveryToken(BlockHook):
    """Keeps the tokens that enter every block."""

    def __init__(self) -> None:
        self._tokens: list[torch.Tensor] = []

    def __call__(self, number: int, block: Block, inputs: BlockInput) -> None:
        """Keeps those of a block."""
        self._tokens.append(inputs.tokens)

    def result(self) -> torch.Tensor:
        """Returns them, B×L×(1+N)×D float32."""
        return torch.stack(self._tokens, 1)


class TokensAfter(BlockHook):
    """Keeps, for each group of blocks, the sum of the tokens after them; counted from 1."""

    def __init__(self, *groups: Collection[int]):
        self._groups = groups
        self._sums: list[torch.Tensor | float] = [0.0] * len(groups)

    def __call__(self, number: int, block: Block, inputs: BlockInput) -> None:
        """Adds the tokens that enter a block, which are those after the block before."""
        for index, group in enumerate(self._groups):
            if number - 1 in group:
                self._sums[index] = self._sums[index] + inputs.tokens

    def result(self) -> torch.Tensor:
        """Returns the sums of G groups, B×G×(1+N)×D float32."""
        return torch.stack(self._sums, 1)
