"""A lock on a folder, across processes and machines that share a file system."""

import errno
import fcntl
import json
import os
import platform
from datetime import UTC, datetime
from pathlib import Path
from typing import Self

from filelock import BaseFileLock, FileLock, SoftFileLease, Timeout

from pipeline.errors import UserError
from pipeline.files.atomic import Complete, open_own, read_json, write_atomically

LOCK, HOLDER = ".lock", ".holder.json"

_LEASE = ".lease"
_SHAPE = Complete(host=str, process=int, since=str)

_HEARTBEAT = 15.0  # seconds between two signs of life of a holder
_EXPIRY = 120.0  # seconds without one after which a waiting process takes a lease over
_ORPHANS = 2.0  # seconds in which the children of a killed holder, which hold its lock, end


class FolderLock:
    """A lock that one process holds at a time; a context manager, which acquires and releases it.

    The operating system's lock decides; it ends with its process, however that ends. On file
    systems without such locks it is a lease, which its holder renews: a process that waits takes it
    over after it has seen no renewal for two minutes.
    """

    def __init__(self, folder: Path, wait: float = 0.0):
        """Prepares the lock without acquiring it; ``wait`` are seconds to wait for a holder."""
        self._folder, self._wait = folder, max(wait, _ORPHANS)
        # filelock's own fallback is a file that stays when its process is killed, and then blocks
        # other machines for good.
        self._lock: BaseFileLock = FileLock(folder / LOCK, fallback_to_soft=False)
        self._holder = folder / HOLDER

    def acquire(self) -> None:
        """Acquires the lock.

        Raises:
            UserError: another process holds it: names the process, its host and since when.
            OSError: the folder cannot be written to.
        """
        try:
            self._acquire()
        except OSError as error:
            if error.errno not in (errno.ENOSYS, errno.ENOTSUP):
                raise
            # Threads other than the one that acquires it ask whether it is lost.
            durations = {"lease_duration": _EXPIRY, "heartbeat_interval": _HEARTBEAT}
            self._lock = SoftFileLease(self._folder / _LEASE, thread_local=False, **durations)
            self._acquire()
        since = datetime.now(UTC).isoformat(timespec="seconds")
        about = {"host": platform.node(), "process": os.getpid(), "since": since}
        try:
            write_atomically(self._holder, json.dumps(about))
        except BaseException:
            self._lock.release()
            raise

    def _acquire(self) -> None:
        try:
            self._lock.acquire(timeout=self._wait, poll_interval=0.2)
        except Timeout as error:
            holder = read_json(self._holder, _SHAPE) or dict.fromkeys(_SHAPE, "?")
            remedies = "stop it, or wait for it with runtime.wait=SECONDS"
            if isinstance(self._lock, SoftFileLease):
                remedies += "; if it was killed, runtime.wait=130 takes its lock over"
            raise UserError(
                f"{self._folder} is being written by process {holder['process']} on"
                f" {holder['host']} since {holder['since']}: {remedies}"
            ) from error

    def __enter__(self) -> Self:
        self.acquire()
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def release(self) -> None:
        """Releases the lock."""
        if self._lock.is_locked and getattr(self._lock, "compromise", None) is None:
            self._holder.unlink(missing_ok=True)
        self._lock.release()

    def check(self) -> None:
        """Raises a UserError if another process took the lock over, as on a machine that slept."""
        if getattr(self._lock, "compromise", None) is not None:  # of a lease
            raise UserError(
                f"{self._folder} was taken over by another process while this one was silent: run"
                " the same command again when the other process has ended"
            )


def is_held(folder: Path) -> bool:
    """Tells whether a process holds the lock of a folder; several processes may ask at once."""
    try:
        with os.fdopen(open_own(folder / LOCK, os.O_RDONLY)) as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            return False
    except (OSError, UserError) as error:  # no lock, or a lease, which outlives a kill
        return isinstance(error, BlockingIOError) or (folder / _LEASE).exists()
