"""Training in several processes, as ``torchrun`` starts them, one for each GPU."""

from __future__ import annotations

import atexit
import os

import torch
from torch import distributed


def process_count() -> int:
    """Returns how many processes train together: those that torchrun started, or one."""
    return int(os.environ.get("WORLD_SIZE", 1))


def process_rank() -> int:
    """Returns which of them this one is, from 0; the first alone writes files."""
    return int(os.environ.get("RANK", 0))


def is_launched() -> bool:
    """Tells whether torchrun, or a launcher like it, started this process."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


def local_device(device: str) -> str:
    """Returns this process's own device, the GPU of its number on this machine."""
    if torch.device(device).type == "cuda" and is_launched():
        return f"cuda:{os.environ.get('LOCAL_RANK', 0)}"
    return device


def join(device: str) -> None:
    """Joins the other processes, once and to the end; does nothing in a single one.

    mmengine would do it for GPUs only.

    Args:
        device: this process's own.
    """
    if not is_launched() or distributed.is_initialized():
        return
    on_gpu = torch.device(device).type == "cuda"
    if on_gpu:
        torch.cuda.set_device(device)
    distributed.init_process_group("nccl" if on_gpu else "gloo")
    atexit.register(distributed.destroy_process_group)
