"""Training in several processes started by ``torchrun``, one for each GPU."""

from __future__ import annotations

import atexit
import os

import torch
from torch import distributed


def process_count() -> int:
    """Returns the number of processes that torchrun started, or 1."""
    return int(os.environ.get("WORLD_SIZE", 1))


def process_rank() -> int:
    """Returns the rank of this process, from 0; only rank 0 writes files."""
    return int(os.environ.get("RANK", 0))


def local_device(device: str) -> str:
    """Returns the device of this process: under torchrun the GPU of its local rank."""
    if torch.device(device).type == "cuda" and process_count() > 1:
        return f"cuda:{os.environ.get('LOCAL_RANK', 0)}"
    return device


def join(device: str) -> None:
    """Joins the process group of several processes, which lasts until this one ends.

    mmengine supports this for GPUs only.
    """
    if process_count() == 1 or distributed.is_initialized():
        return
    on_gpu = torch.device(device).type == "cuda"
    if on_gpu:
        torch.cuda.set_device(device)
    distributed.init_process_group("nccl" if on_gpu else "gloo")
    atexit.register(distributed.destroy_process_group)
