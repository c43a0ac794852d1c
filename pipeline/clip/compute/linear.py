"""Frozen linear layers and matrix products by the fastest library.

On a CPU torch computes float32 products with MKL, which leaves half of an AMD processor's vector
unit unused. oneDNN, which is part of torch too, uses all of it, takes weights that were packed
once, and fuses the activation. Products on a GPU are torch's own.
"""

import platform
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.autograd import Function

HAS_ONEDNN = (
    platform.machine().lower() in ("x86_64", "amd64")
    and torch.backends.mkldnn.is_available()
    and hasattr(torch.ops.mkldnn, "_linear_pointwise")
)
"""Whether this torch was built with oneDNN for x86; on ARM oneDNN does not fuse activations."""

_FUSED = {type(None): "none", nn.SiLU: "swish", nn.GELU: "gelu"}
"""Class of an activation → oneDNN's name of it, for those that it fuses with a product."""

_PIECE = 400
"""Rows of a product: oneDNN shares those of more rows badly among cores with AMX (769×3072 by
3072×768 on two cores: 3.8 ms, 2.2 in pieces)."""


def _suits_onednn(tensor: torch.Tensor) -> bool:
    """Tells whether oneDNN multiplies tensors of this type on this machine."""
    if not HAS_ONEDNN or tensor.device.type != "cpu":
        return False
    if tensor.dtype == torch.bfloat16:
        return torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return tensor.dtype == torch.float32


def product(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """Returns left·rightᵀ, T×S, of T×I and S×I in the same precision; without gradients."""
    return _by_onednn(left, right, None) if _suits_onednn(left) else left @ right.mT


class Linear:
    """A frozen linear layer with an optional activation."""

    def __init__(
        self,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        activation: nn.Module | None = None,
        *,
        differentiable: bool = False,
        packed: bool = True,
    ):
        """Packs a layer, W of O×I and b of the same type, for the device of its weight.

        Args:
            activation: applied to W·x + b.
            differentiable: whether gradients with respect to the inputs can be computed, which
                keeps a second copy of the weight.
            packed: whether oneDNN may take the weight.
        """
        self._bias = bias
        self._activation = activation
        self._fused = _FUSED.get(type(activation))
        self._packed: torch.Tensor | None = None
        self._weight: torch.Tensor | None = weight
        if packed and _suits_onednn(weight):
            self._packed = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous())
            self._weight = weight if differentiable else None

    def __call__(self, inputs: torch.Tensor) -> torch.Tensor:
        """Applies the layer to inputs, …×I, of the weight's type; returns …×O.

        Raises:
            RuntimeError: the inputs require gradients, but the layer is not differentiable.
        """
        if self._packed is None:
            outputs = F.linear(inputs, self._weight, self._bias)
        elif torch.is_grad_enabled() and inputs.requires_grad:
            if self._weight is None:
                raise RuntimeError("gradients need a layer with differentiable=True")
            outputs = _Product.apply(inputs, self._packed, self._bias, self._weight)
        elif self._fused is not None:
            variant = getattr(self._activation, "approximate", "")  # of GELU
            return _by_onednn(inputs, self._packed, self._bias, self._fused, variant)
        else:
            outputs = _by_onednn(inputs, self._packed, self._bias)
        return outputs if self._activation is None else self._activation(outputs)


def in_pieces(layers: Callable[[torch.Tensor], torch.Tensor], inputs: torch.Tensor) -> torch.Tensor:
    """Applies layers to a few hundred rows of inputs, B×T×I, at a time; returns B×T×O.

    All images are cut alike, so that a result does not depend on the place in the batch.
    """
    batch, rows = inputs.shape[:2]
    if (parts := -(-rows // _PIECE)) > 1:
        axis, pieces = 1, inputs.tensor_split(parts, 1)
    else:
        fitting = [size for size in range(1, _PIECE // rows + 1) if batch % size == 0]
        axis, pieces = 0, inputs.split(max(fitting), 0)
    return torch.cat([layers(piece) for piece in pieces], axis)


def _by_onednn(
    inputs: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    activation: str = "none",
    variant: str = "",
) -> torch.Tensor:
    # oneDNN would compute strided rows one by one.
    inputs = inputs.contiguous()
    return torch.ops.mkldnn._linear_pointwise(inputs, weight, bias, activation, [], variant)


class _Product(Function):
    """oneDNN's product with a derivative, which torch does not define."""

    @staticmethod
    def forward(
        inputs: torch.Tensor, packed: torch.Tensor, bias: torch.Tensor | None, weight: torch.Tensor
    ) -> torch.Tensor:
        return _by_onednn(inputs, packed, bias)

    @staticmethod
    def setup_context(ctx: Function, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
        ctx.save_for_backward(inputs[3])

    @staticmethod
    def backward(ctx: Function, gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (weight,) = ctx.saved_tensors
        return _Product.apply(gradients, weight.mT, None, weight.mT), None, None, None

    @staticmethod
    def vmap(
        info: object, in_dims: tuple[int | None, ...], inputs: torch.Tensor, *layer: torch.Tensor
    ) -> tuple[torch.Tensor, int]:
        # The gradients of several scores are just more rows.
        return _Product.apply(inputs.movedim(in_dims[0], 0), *layer), 0
