"""What can befall a training, in sentences that say how to go on."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.errors import UserError

_OF_THE_DISK = frozenset(
    getattr(errno, name)
    for name in ("ENOSPC", "EDQUOT", "EROFS", "EACCES", "EPERM", "EFBIG", "EIO")
    if hasattr(errno, name)
)
_KILLED_LOADER = "DataLoader worker"


@contextmanager
def explain_faults(work_dir: Path) -> Iterator[None]:
    """Turns faults of the disk and of processes that load images into errors with the remedy.

    Args:
        work_dir: where the training writes.

    Raises:
        UserError: the disk is full or cannot be written to, a process that loads images was killed,
            or it raised this itself.
    """
    with _threads_fail_quietly():
        try:
            yield
        except UserError as error:
            raise UserError(_last_line(error)) from error
        except Exception as error:
            if sentence := _explain(error, work_dir):
                raise UserError(sentence) from error
            raise


def _explain(error: Exception, work_dir: Path) -> str | None:
    for cause in _causes(error):
        if _is_of_the_disk(cause):
            return (
                f"cannot write {cause.filename or work_dir}: {os.strerror(cause.errno)}; what was"
                " finished is kept, run the same command again when this is mended"
            )
        # PyTorch raises this wherever the training is when a process ends.
        if isinstance(cause, RuntimeError) and str(cause).startswith(_KILLED_LOADER):
            return (
                "a process that loads images was killed, as happens where memory or shared memory"
                " (/dev/shm) is short: lower segmenter.workers, and run the same command again to"
                " go on from the last checkpoint"
            )
    return None


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _is_of_the_disk(error: BaseException | None) -> bool:
    return isinstance(error, OSError) and error.errno in _OF_THE_DISK


@contextmanager
def _threads_fail_quietly() -> Iterator[None]:
    """Keeps TensorBoard's thread from printing a traceback where its file cannot be written.

    It hands the error on to the training as well, which ends with it.
    """
    previous = threading.excepthook

    def hook(arguments: threading.ExceptHookArgs) -> None:
        if not _is_of_the_disk(arguments.exc_value):
            previous(arguments)

    threading.excepthook = hook
    try:
        yield
    finally:
        threading.excepthook = previous


def _last_line(error: UserError) -> str:
    """Takes our sentence out of the traceback that a loading process sends along."""
    return str(error).strip().splitlines()[-1].removeprefix("pipeline.errors.UserError: ")
