"""Frozen linear layers and products, by the library that is fastest at them.

On a CPU torch hands products in float32 to MKL, which leaves half of an AMD processor's vector unit
unused. oneDNN, which torch comes with as well, uses all of it, reads weights that were laid out for
it once, and applies the activation while a result is still in a register. A GPU's products are its
own library's.
"""

from __future__ import annotations

import platform
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

HAS_ONEDNN = (
    platform.machine().lower() in ("x86_64", "amd64")
    and torch.backends.mkldnn.is_available()
    and hasattr(torch.ops.mkldnn, "_linear_pointwise")
)
"""Whether this torch was built with oneDNN for x86; on ARM it does not apply activations itself."""


def _suits_onednn(tensor: torch.Tensor) -> bool:
    """Returns whether oneDNN has products of a tensor's type on this machine."""
    if not HAS_ONEDNN or tensor.device.type != "cpu":
        return False
    if tensor.dtype == torch.bfloat16:
        return torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return tensor.dtype == torch.float32


def product(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """Returns left·rightᵀ; without gradients.

    Args:
        left: T×I.
        right: S×I, of the same type.

    Returns:
        T×S.
    """
    return _by_onednn(left, right, None) if _suits_onednn(left) else left @ right.mT


class Linear:
    """A frozen linear layer, and the activation after it if there is one."""

    def __init__(
        self,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        activation: nn.Module | None = None,
        *,
        differentiable: bool = False,
    ):
        """Lays a layer out for the device on which it lies.

        Args:
            weight: W, O×I.
            bias: b, O, or none, of the same type.
            activation: applied to W·x + b.
            differentiable: whether gradients with respect to the inputs will be asked for, which
                keeps the weight as it was, too.
        """
        self._bias = bias
        self._activation = activation
        self._fused: tuple[str, str] | None = None
        self._packed: torch.Tensor | None = None
        self._weight: torch.Tensor | None = weight
        if _suits_onednn(weight):
            self._fused = _fused(activation)
            self._packed = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous())
            self._weight = weight if differentiable else None

    def __call__(self, inputs: torch.Tensor) -> torch.Tensor:
        """Returns the layer's output, …×O, of inputs of the weight's type, …×I.

        Raises:
            RuntimeError: the inputs ask for gradients, and the layer was not laid out for them.
        """
        if self._packed is None:
            return self._activate(F.linear(inputs, self._weight, self._bias))
        if torch.is_grad_enabled() and inputs.requires_grad:
            if self._weight is None:
                raise RuntimeError("gradients need a layer laid out with differentiable=True")
            return self._activate(_Product.apply(inputs, self._packed, self._bias, self._weight))
        if self._fused is None:
            return self._activate(_by_onednn(inputs, self._packed, self._bias))
        return _by_onednn(inputs, self._packed, self._bias, *self._fused)

    def _activate(self, outputs: torch.Tensor) -> torch.Tensor:
        return outputs if self._activation is None else self._activation(outputs)


def _fused(activation: nn.Module | None) -> tuple[str, str] | None:
    """Returns oneDNN's name and variant of an activation, if it has it."""
    if activation is None:
        return "none", ""
    if type(activation) is nn.SiLU:
        return "swish", ""
    if type(activation) is nn.GELU:
        return "gelu", activation.approximate
    return None


def _by_onednn(
    inputs: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    activation: str = "none",
    variant: str = "",
) -> torch.Tensor:
    # Rows that lie apart would be taken one by one.
    inputs = inputs.contiguous()
    return torch.ops.mkldnn._linear_pointwise(inputs, weight, bias, activation, [], variant)


class _Product(torch.autograd.Function):
    """oneDNN's product, which torch has no derivative of."""

    @staticmethod
    def forward(
        inputs: torch.Tensor,
        packed: torch.Tensor,
        bias: torch.Tensor | None,
        weight: torch.Tensor,
    ) -> torch.Tensor:
        return _by_onednn(inputs, packed, bias)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
        ctx.save_for_backward(inputs[3])

    @staticmethod
    def backward(ctx: Any, gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (weight,) = ctx.saved_tensors
        return _Product.apply(gradients, weight.mT, None, weight.mT), None, None, None

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[int | None, ...], inputs: torch.Tensor, *layer: torch.Tensor
    ) -> tuple[torch.Tensor, int]:
        # The gradients of several scores are no more than further rows.
        return _Product.apply(inputs.movedim(in_dims[0], 0), *layer), 0
