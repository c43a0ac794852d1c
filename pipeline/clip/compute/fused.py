"""The fused attention: a kernel in C++ for CPUs with AMX, which is compiled on first use.

The weights of a head stay in the cache of one core between the product, the softmax, the average
over the heads and the second product; in bfloat16 the products run on AMX. Its results differ from
those of :mod:`pipeline.clip.attention` by rounding, so it is in no key. The CPU and the compiler of
the machine that computes decide whether it is used, never a measurement.
"""

from __future__ import annotations

import ctypes
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.clip.device import BY_HEAD, FUSED, cpu_flags, is_cpu
from pipeline.engine.compiler import NoKernelError, compiled, load, note_fallback
from pipeline.errors import UserError

if TYPE_CHECKING:
    import torch

_SOURCE = Path(__file__).with_name("attention.cpp")
# Without contraction, since compilers would fuse different products and sums.
_OPTIONS = (
    *("-O3", "-std=c++20", "-march=sapphirerapids", "-ffp-contract=off", "-fopenmp"),
    *("-fPIC", "-shared"),
)
_REQUIRED = {"amx_tile", "amx_bf16", "avx512_bf16"}  # as /proc/cpuinfo calls them
_MIN_QUERIES = 16  # packing the keys pays off from here on


def choose_attention(wanted: str, device: str) -> FusedKernel | None:
    """Returns the kernel that computes attention on this machine; none computes it by head.

    "auto" takes the kernel if there is one, and "fused" raises a UserError if there is none.
    """
    if wanted == BY_HEAD or not is_cpu(device):
        if wanted == FUSED:
            raise UserError("runtime.attention=fused is for CPUs: give auto")
        return None
    try:
        return FusedKernel()
    except NoKernelError as error:
        if wanted == FUSED:
            raise UserError(f"runtime.attention=fused, but {error}: give by_head") from error
        if cpu_flags() >= _REQUIRED:
            note_fallback(error)
        return None


class FusedKernel:
    """The compiled kernel."""

    def __init__(self) -> None:
        """Loads it, perhaps compiled anew; a NoKernelError without AMX, or if either fails."""
        if not cpu_flags() >= _REQUIRED:
            raise NoKernelError("this machine's CPU has no AMX")
        import torch  # before the kernel, which uses its libraries

        folder = Path(torch.__file__).parent
        libraries = f"-I{folder / 'include'}", f"-L{folder / 'lib'}", "-ltorch_cpu", "-lc10"
        kernel = compiled(_SOURCE, _OPTIONS, libraries, version("torch"))
        single, brain = load(kernel, "attend_float32", "attend_bfloat16")
        self._functions = {torch.float32: single, torch.bfloat16: brain}
        for function in self._functions.values():
            function.restype = ctypes.c_char_p

    def suits(self, query: torch.Tensor) -> bool:
        """Tells whether the kernel computes the attention of these queries."""
        is_known = query.device.type == "cpu" and query.dtype in self._functions
        return is_known and query.shape[-2] >= _MIN_QUERIES and not query.requires_grad

    def __call__(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor | None,
        bias: torch.Tensor | None = None,
        *,
        prefix: int | None = None,
    ) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        """Returns :meth:`~pipeline.clip.attention.Attention.with_weights`, as far as it is needed.

        Args:
            query: B×heads×T×d, float32 or bfloat16.
            key: B×heads×S×d of the same type.
            value: the same; none if the output is not needed.
            bias: added to the attention logits, T×S or B×1×T×S, where B may be 1.
            prefix: the number of tokens before the patches, if the attention between patches is
                needed, with S = T.
        """
        query, key = _with_whole_rows(query), _with_whole_rows(key)
        value = None if value is None else _with_whole_rows(value)
        batch, heads, rows, width = query.shape
        keys = key.shape[-2]
        attended = None if value is None else query.new_empty(batch, rows, heads, width)
        before = prefix or 0
        size = batch, rows - before, keys - before
        mean = None if prefix is None else key.float().new_empty(size)
        bias_stride = 0
        if bias is not None:
            bias = bias.float().contiguous()
            bias_stride = rows * keys if bias.dim() == 4 and len(bias) > 1 else 0
        read = (query, key, key if value is None else value)
        strides = [step for features in read for step in features.stride()[:3]]
        numbers = (*strides, bias_stride, batch, heads, rows, keys, width, before)
        given = (query, key, value, bias, attended, mean)
        pointers = (ctypes.c_void_p(None if t is None else t.data_ptr()) for t in given)
        function = self._functions[query.dtype]
        if problem := function(*pointers, (ctypes.c_int64 * len(numbers))(*numbers)):
            raise RuntimeError(problem.decode(errors="replace"))
        return None if attended is None else attended.transpose(1, 2), mean


def _with_whole_rows(features: torch.Tensor) -> torch.Tensor:
    """Returns features whose channels lie side by side, in words of 32 bits."""
    words = all(step * features.element_size() % 4 == 0 for step in features.stride()[:3])
    aligned = words and features.data_ptr() % 4 == 0
    return features if aligned and features.stride(-1) == 1 else features.contiguous()
