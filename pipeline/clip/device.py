"""The device, the precision and the batch sizes of the models.

PyTorch is imported only where a GPU may be, and where weights get their type.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from pipeline.errors import UserError, shown

if TYPE_CHECKING:
    import numpy as np
    import torch

PRECISIONS = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}
"""Name in the configuration → the name of torch's type."""

AUTO, FUSED, BY_HEAD = ATTENTIONS = ("auto", "fused", "by_head")
"""The values of ``runtime.attention``, see :mod:`pipeline.clip.compute.fused`."""

_DRIVERS = ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg", "/proc/driver/nvidia")
"""Device files of GPU drivers on Linux: NVIDIA's, AMD's, and Windows' for both."""

_CPU = Path("/proc/cpuinfo")
_ISA_LIMITS = ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA")
_ONEDNN_BF16 = frozenset({"avx512_bf16", "amx_bf16"})


def choose_device(wanted: str) -> str:
    """Returns torch's name of a device, or raises a UserError; "auto" is a GPU if there is one."""
    has_no_driver = sys.platform == "linux" and not any(Path(path).exists() for path in _DRIVERS)
    if wanted == "cpu" or (wanted == "auto" and has_no_driver):
        return "cpu"
    import torch

    if wanted == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(wanted)
    except RuntimeError as error:
        raise UserError(
            f"runtime.device={shown(wanted)} is not a device: give cpu, cuda or auto"
        ) from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UserError(f"runtime.device={wanted}, but torch finds no GPU: give cpu or auto")
    return wanted


def device_kind(device: str) -> str:
    """Returns the kind of a device, such as "cpu" or "cuda", by torch's name of it."""
    return device.partition(":")[0]


def is_cpu(device: str) -> bool:
    """Tells whether torch's name of a device is that of a CPU."""
    return device_kind(device) == "cpu"


@cache
def cpu_flags() -> frozenset[str]:
    """Returns the extensions of the CPU, as Linux calls them, without those kept from oneDNN.

    oneDNN multiplies for torch, and reads from the environment what it may use. Only Linux has any.
    """
    try:
        with _CPU.open(encoding="ascii", errors="replace") as lines:
            found = next((line for line in lines if line.startswith("flags")), "")
    except OSError:
        return frozenset()
    flags = frozenset(found.partition(":")[2].split())
    limit = next((os.environ[name] for name in _ISA_LIMITS if os.environ.get(name)), "ALL").upper()
    if limit in ("ALL", "DEFAULT") or "AMX" in limit:
        return flags
    hidden = ("amx_",) if "BF16" in limit or "FP16" in limit else ("amx_", "avx512_bf16")
    return frozenset(flag for flag in flags if not flag.startswith(hidden))


def settle_precision(wanted: str, device: str, key: str = "runtime.precision") -> str:
    """Returns the precision on a device: "auto" is bf16 on CPUs that multiply in it, else fp32.

    Refuses a precision that is slow on the device, by a UserError that names the ``key``.
    """
    if wanted == "fp16" and is_cpu(device):
        raise UserError(
            f"{key}=fp16 is for GPUs, since CPUs compute it several times slower than"
            " fp32: give bf16 or fp32"
        )
    if wanted != AUTO:
        return wanted
    return "bf16" if is_cpu(device) and not cpu_flags().isdisjoint(_ONEDNN_BF16) else "fp32"


def choose_precision(wanted: str, device: str, key: str = "runtime.precision") -> torch.dtype:
    """Returns torch's type of a precision, or refuses it; as :func:`settle_precision`."""
    import torch

    return getattr(torch, PRECISIONS[settle_precision(wanted, device, key)])


def to_host(*tensors: torch.Tensor) -> list[np.ndarray]:
    """Copies tensors of one type from their device in one go; floats become float32.

    Everything that is computed of images comes to the host through this function. Each copy waits
    for a GPU, so loops over classes, tags or crops must not contain one.
    """
    import torch

    tensors = [each.float() if each.is_floating_point() else each for each in tensors]
    if len(tensors) == 1:
        return [tensors[0].cpu().numpy()]
    joined = torch.cat([each.flatten() for each in tensors]).cpu()
    parts = joined.split([*map(torch.numel, tensors)])
    return [part.reshape(each.shape).numpy() for part, each in zip(parts, tensors)]


class Batches(NamedTuple):
    """The sizes of batches.

    Attributes:
        images: images in a batch of the backbone.
        crops: crops in a batch of CWR.
        waiting: decoded images that may wait for the model, or for others of their size.
    """

    images: int
    crops: int
    waiting: int


def choose_batches(runtime: Mapping[str, Any], device: str) -> Batches:
    """Returns the given sizes of batches, or those that suit the device.

    A single image keeps a CPU busy, where padding batches would take time; a GPU needs larger ones.
    """
    on_cpu = is_cpu(device)
    images = runtime["batch_size"] or (1 if on_cpu else 16)
    crops = runtime["crop_batch_size"] or (4 if on_cpu else 64)
    return Batches(images, crops, max(8, 4 * images))


_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # glibc's M_TRIM_THRESHOLD and M_MMAP_MAX
_KEPT_BYTES = 2**30


def keep_freed_memory() -> None:
    """Makes glibc keep memory that torch frees for its next allocations.

    Otherwise the activations of every block are returned to the system and mapped again page by
    page, which takes a seventh of the time of a ViT-B/16 on a CPU, and a quarter for images of
    1024×1024 pixels. Free memory above a gigabyte at the end of the heap is still returned. Other
    systems than Linux with glibc are left alone.
    """
    with suppress(OSError, TypeError, AttributeError):  # another C library
        set_option = ctypes.CDLL(None).mallopt
        set_option(_MMAP_MAX, 0)  # keep allocations of any size
        set_option(_TRIM_THRESHOLD, _KEPT_BYTES)
