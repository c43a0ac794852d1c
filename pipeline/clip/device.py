"""The device and the precision that models run in."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch

from pipeline.errors import UserError, did_you_mean

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
"""Configuration's name → torch's type."""


def choose_device(wanted: str) -> str:
    """Returns the device's name for torch; "auto" takes a GPU where there is one.

    Raises:
        UserError: a device that is not there.
    """
    if wanted == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(wanted)
    except RuntimeError as error:
        raise UserError(f"runtime.device={wanted} is no device: give cpu, cuda or auto") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UserError(f"runtime.device={wanted}, but torch finds no GPU: give cpu or auto")
    return wanted


def choose_precision(wanted: str, device: str) -> torch.dtype:
    """Returns the type of the weights of CLIP's image tower, in which its products are taken.

    Args:
        wanted: "fp32", "bf16" or "fp16".
        device: the device's name.

    Raises:
        UserError: a precision that does not exist, or that the device is no good at.
    """
    if wanted not in PRECISIONS:
        known = ", ".join(PRECISIONS)
        hint = did_you_mean(wanted, PRECISIONS)
        raise UserError(f"runtime.precision={wanted} is no precision: {hint}choose from {known}")
    if wanted == "fp16" and torch.device(device).type == "cpu":
        raise UserError(
            "runtime.precision=fp16 is for GPUs, since CPUs compute it several times slower than"
            " fp32: give bf16 or fp32"
        )
    return PRECISIONS[wanted]


class Batches(NamedTuple):
    """How much is done at a time.

    Attributes:
        images: that the backbone looks at together.
        crops: that CWR classifies together.
        waiting: decoded images that may wait, for the model and for others of their size.
    """

    images: int
    crops: int
    waiting: int


def choose_batches(runtime: Mapping[str, Any], device: str) -> Batches:
    """Returns the sizes of batches: those that are given, or those that suit the device.

    A CPU is busy with a single image; filling batches up would only cost it time. A GPU is not.
    """
    on_cpu = torch.device(device).type == "cpu"
    images = runtime["batch_size"] or (1 if on_cpu else 16)
    crops = runtime["crop_batch_size"] or (4 if on_cpu else 64)
    return Batches(images, crops, runtime["most_waiting"] or max(8, 4 * images))


_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # glibc's M_TRIM_THRESHOLD and M_MMAP_MAX
_KEPT_BYTES = 2**30


def keep_freed_memory() -> None:
    """Tells glibc to keep what torch frees for what it allocates next.

    Otherwise every block's activations go back to the system and are mapped anew page by page,
    which takes a seventh of the time of a ViT-B/16 on a CPU, and a quarter on images of 1024×1024
    pixels. What is free at the end of the heap beyond a gigabyte goes back. Elsewhere than on Linux
    it does nothing.
    """
    if sys.platform != "linux":
        return
    try:
        set_option = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # another C library
        return
    set_option(_MMAP_MAX, 0)  # blocks of any size
    set_option(_TRIM_THRESHOLD, _KEPT_BYTES)
