"""Explains what can end a training from outside: a full disk, a killed process."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.errors import UserError
from pipeline.files.atomic import MENDABLE, cannot_write


@contextmanager
def explain_faults(work_dir: Path) -> Iterator[None]:
    """Turns faults of the disk and of processes that load images into errors with a remedy.

    Args:
        work_dir: the folder that the training writes to.

    Raises:
        UserError: the disk is full or read-only, a process that loads images was killed, or the
            block raised it.
    """
    # TensorBoard's thread would print a traceback if its file cannot be written. It also raises the
    # error in the main thread, which ends the training.
    previous = threading.excepthook

    def hook(arguments: threading.ExceptHookArgs) -> None:
        if not _is_mendable(arguments.exc_value):
            previous(arguments)

    threading.excepthook = hook
    try:
        yield
    except UserError as error:
        # A process that loads images sends a traceback, which ends in our sentence.
        line = str(error).strip().splitlines()[-1]
        raise UserError(line.removeprefix("pipeline.errors.UserError: ")) from error
    except Exception as error:
        cause: BaseException | None = error
        while cause is not None:
            if _is_mendable(cause):
                raise cannot_write(cause.filename or work_dir, cause) from error
            # PyTorch raises this at any point of the training when a process ends.
            if isinstance(cause, RuntimeError) and str(cause).startswith("DataLoader worker"):
                raise UserError(
                    "a process that loads images was killed, probably because memory or shared"
                    " memory (/dev/shm) ran out: lower segmenter.workers, and run the same"
                    " command again to resume from the last checkpoint"
                ) from error
            cause = cause.__cause__ or cause.__context__
        raise
    finally:
        threading.excepthook = previous


def _is_mendable(error: BaseException | None) -> bool:
    return isinstance(error, OSError) and error.errno in MENDABLE
