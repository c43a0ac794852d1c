"""Training in several processes started by ``torchrun``, one for each GPU."""

import atexit
import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager

from pipeline.clip.device import is_cpu
from pipeline.errors import UserError

_GROUP = frozenset(("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"))
"""Variables that torchrun sets in each process. Batch systems may set one or two of these."""


def process_count() -> int:
    """Returns the number of processes that torchrun started, or 1."""
    return int(os.environ["WORLD_SIZE"]) if os.environ.keys() >= _GROUP else 1


def process_rank() -> int:
    """Returns the rank of this process, from 0; only rank 0 writes files."""
    return int(os.environ["RANK"]) if process_count() > 1 else 0


def local_device(device: str) -> str:
    """Returns the device of this process: under torchrun the GPU of its local rank."""
    if not is_cpu(device) and process_count() > 1:
        return f"cuda:{os.environ.get('LOCAL_RANK', 0)}"
    return device


def join(device: str) -> None:
    """Waits for the other processes; joins their group first, which lasts until this one ends.

    mmengine supports this for GPUs only.
    """
    if process_count() == 1:
        return
    import torch
    from torch import distributed

    if not distributed.is_initialized():
        device = local_device(device)
        on_gpu = not is_cpu(device)
        if on_gpu:
            torch.cuda.set_device(device)
        distributed.init_process_group("nccl" if on_gpu else "gloo")
        atexit.register(_leave)
    distributed.barrier()


def _leave() -> None:
    """Leaves the group, and ends the threads of Gloo before the interpreter ends.

    A thread that asks for the interpreter's lock later aborts the process.
    """
    from torch import distributed

    distributed.destroy_process_group()
    gc.collect()  # the network and its runner, in a cycle, hold the group


@contextmanager
def explain_lost_process() -> Iterator[None]:
    """Turns the error after the end of another process, or of the network, into a UserError."""
    try:
        yield
    except RuntimeError as error:
        from torch import distributed

        # Gloo, the back end for CPUs, raises plain RuntimeErrors.
        if not isinstance(error, distributed.DistError) and "/gloo/" not in str(error):
            raise
        raise UserError(
            "another process of this training ended, or cannot be reached: run the same command"
            " again to resume from the last checkpoint"
        ) from error
