"""A transformer block without its attention, its weights packed for the device.

Matrix products use the precision of the weights; tokens, layer norms and softmax stay in float32.
"""

from collections.abc import Callable, Sequence
from functools import cached_property

import torch
from open_clip.transformer import QuickGELU, ResidualAttentionBlock
from torch import nn

from pipeline.clip.compute.linear import Linear, in_pieces
from pipeline.clip.rotary import Rotary, Size
from pipeline.errors import UserError

_QUICK = 1.702  # QuickGELU(x) = x·sigmoid(1.702·x) = SiLU(1.702·x) / 1.702


class Block:
    """A residual attention block that leaves the attention itself to its caller."""

    def __init__(
        self,
        block: ResidualAttentionBlock,
        precision: torch.dtype = torch.float32,
        *,
        differentiable: bool = False,
        in_pieces: bool = False,
        packed: bool = True,
    ):
        """Packs the weights of open_clip's block, which is not modified, on their device.

        A module ``norm_after`` of the block follows it, as between DINOv2 and a head. By its
        attribute ``rotary``, see :class:`~pipeline.clip.rotary.Rotary`, patches are turned.

        If ``differentiable``, :meth:`finish` can be differentiated by the attention output. If
        ``in_pieces``, layers take few rows at a time, which suits bfloat16 on CPUs with AMX. If not
        ``packed``, PyTorch computes all products, so that autocast and exporters see them.
        """
        attn, expand, contract = block.attn, block.mlp.c_fc, block.mlp.c_proj
        activation, mlp = block.mlp.gelu, (expand.weight, expand.bias, contract.weight)
        if type(activation) is QuickGELU and precision != torch.float32:
            # With the scale in the weights on either side, one pass over the widest tensor replaces
            # three. In float32 it would gain 1% and change the last digits from those of the
            # released code.
            activation, scales = nn.SiLU(), (_QUICK, _QUICK, 1 / _QUICK)
            mlp = tuple(parameter * scale for parameter, scale in zip(mlp, scales))

        def pack(
            weight: torch.Tensor, bias: torch.Tensor, activation: nn.Module | None = None
        ) -> Linear:
            weight, bias = weight.detach().to(precision), bias.detach().to(precision)
            return Linear(weight, bias, activation, differentiable=differentiable, packed=packed)

        self.precision = precision
        self.ln_1 = block.ln_1
        self.heads = attn.num_heads
        self._in = pack(attn.in_proj_weight, attn.in_proj_bias)
        self._out = pack(attn.out_proj.weight, attn.out_proj.bias)
        self._expand = pack(*mlp[:2], activation)
        self._contract = pack(mlp[2], contract.bias)
        self.norm_after = getattr(block, "norm_after", nn.Identity())
        self.rotary: Rotary | None = getattr(block, "rotary", None)
        self._block = block
        self._in_pieces = in_pieces

    def project(self, normed: torch.Tensor, size: Size | None = None) -> Sequence[torch.Tensor]:
        """Returns queries, keys and values of the output of ln_1, B×T×D: each B×heads×T×d.

        Rotary positions, if the block has any, are those of an image of this ``size``.
        """
        projections = self._split_heads(self._in(normed.to(self.precision)), 3).unbind()
        if self.rotary is None or size is None:
            return projections
        query, key, value = projections
        return self.rotary.turn(query, size), self.rotary.turn(key, size), value

    def project_for(
        self, normed: torch.Tensor, query_inputs: torch.Tensor, size: Size | None = None
    ) -> Sequence[torch.Tensor]:
        """Returns the queries of some tokens, B×heads×Q×d, and all keys and values, B×heads×T×d.

        The output of ln_1 is ``normed``, B×T×D, and B×Q×D of the tokens that need queries, no
        patches among them. Of ``size`` see :meth:`project`.
        """
        project_query, project_key_value = self._in_parts
        (query,) = self._split_heads(project_query(query_inputs.to(self.precision)), 1)
        key, value = self._split_heads(project_key_value(normed.to(self.precision)), 2)
        if self.rotary is not None and size is not None:
            key = self.rotary.turn(key, size)
        return query, key, value

    def attention_output(self, attended: torch.Tensor, *, scaled: bool = True) -> torch.Tensor:
        """Merges and projects the heads, B×heads×T×d: what the attention adds to tokens, B×T×D.

        If not ``scaled``, it is returned as it is before the layer scale.
        """
        output = self._apply(self._out, attended.transpose(1, 2).flatten(2))
        return self._block.ls_1(output) if scaled else output

    def finish(self, tokens: torch.Tensor, attended: torch.Tensor) -> torch.Tensor:
        """Completes the block after its attention: output projection, residuals and MLP.

        From its input, B×T×D, and the output of the attention heads, B×heads×T×d, to B×T×D.
        """
        block = self._block
        tokens = tokens + self.attention_output(attended)
        normed = block.ln_2(tokens).to(self.precision)
        added = self._apply(lambda rows: self._contract(self._expand(rows)), normed)
        return self.norm_after(tokens + block.ls_2(added))

    def _apply(
        self, layers: Callable[[torch.Tensor], torch.Tensor], inputs: torch.Tensor
    ) -> torch.Tensor:
        if self._in_pieces and not inputs.requires_grad:
            return in_pieces(layers, inputs)
        return layers(inputs)

    def pull_back(self, gradients: torch.Tensor) -> torch.Tensor:
        """Backpropagates gradients of queries, keys and values, to the output of ln_1.

        From …×3D, heads side by side, to …×D float32; a UserError for rotary positions.
        """
        if self.rotary is not None:
            raise UserError("Grad-CAM cannot pass rotary positions: choose another cams=METHOD")
        return gradients.float() @ self._block.attn.in_proj_weight.float()

    def _split_heads(self, projected: torch.Tensor, count: int) -> torch.Tensor:
        """Splits ``count`` projections, B×T×count·D, into heads: count×B×heads×T×d."""
        return projected.unflatten(-1, (count, self.heads, -1)).permute(2, 0, 3, 1, 4)

    @cached_property
    def _in_parts(self) -> tuple[Linear, Linear]:
        attn = self._block.attn
        weight = attn.in_proj_weight.detach().to(self.precision)
        bias = attn.in_proj_bias.detach().to(self.precision)
        first = attn.embed_dim
        return Linear(weight[:first], bias[:first]), Linear(weight[first:], bias[first:])
