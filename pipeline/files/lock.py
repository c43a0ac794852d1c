"""A lock on a folder, across processes and machines that share a file system."""

import errno
import json
import os
import platform
import threading
import time
import uuid
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

import psutil
from filelock import FileLock, Timeout

from pipeline.errors import UserError
from pipeline.files.atomic import read_json

LOCK, HOLDER = ".lock", ".holder.json"

_SHAPE = {"host": str, "process": int, "started": int | float, "since": str, "token": str}

_SIGN_OF_LIFE = 15.0  # seconds between two signs of life of a holder
_SILENCE = 120.0  # seconds without one after which a holder on another machine counts as dead
_ORPHANS = 15.0  # seconds in which the children of a killed holder end
_POLL = 0.2


class FolderLock:
    """A lock that one process holds at a time; a context manager, which acquires and releases it.

    On one machine, and on shared file systems that support it, the operating system's lock decides;
    it ends with its process, however that ends. On file systems without such locks the holder's
    file decides: it names the holder, which touches it every 15 seconds.
    """

    def __init__(self, folder: Path, wait: float = 0.0):
        """Prepares the lock without acquiring it; ``wait`` are seconds to wait for a holder."""
        self._folder = folder
        self._wait = wait
        # filelock's own fallback is a file that stays when its process is killed, and then blocks
        # other machines for good.
        self._file_lock = FileLock(folder / LOCK, fallback_to_soft=False)
        self._holder = folder / HOLDER
        self._token = uuid.uuid4().hex
        self._released = threading.Event()
        self._is_lost = False

    def acquire(self) -> None:
        """Acquires the lock.

        Raises:
            UserError: another process holds it: names the process, its host and since when.
            OSError: the folder cannot be written to.
        """
        deadline = time.monotonic() + self._wait
        orphans_until = time.monotonic() + _ORPHANS
        while (holder := self._try()) is not None:
            # The children of a process that was killed hold its lock until they end.
            until = max(deadline, orphans_until) if _is_dead(holder) else deadline
            if time.monotonic() >= until:
                elsewhere = holder.get("host") not in (None, platform.node())
                expiry = "; if it was killed, its lock expires after two minutes"
                raise UserError(
                    f"{self._folder} is being written by process {holder.get('process', '?')} on"
                    f" {holder.get('host', '?')} since {holder.get('since', '?')}: stop it, or wait"
                    f" for it with runtime.wait=SECONDS{expiry * elsewhere}"
                )
            time.sleep(_POLL)
        self._released.clear()
        threading.Thread(target=self._show_life, daemon=True).start()

    def __enter__(self) -> Self:
        self.acquire()
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def release(self) -> None:
        """Releases the lock."""
        self._released.set()
        if self._is_ours():
            self._holder.unlink(missing_ok=True)
        self._file_lock.release()

    def check(self) -> None:
        """Raises a UserError if another process took the lock over, as on a machine that slept."""
        if self._is_lost:
            raise UserError(
                f"{self._folder} was taken over by another process while this one was silent: run"
                " the same command again when the other process has ended"
            )

    def _read_holder(self) -> dict[str, Any] | None:
        return read_json(self._holder, _SHAPE, ["host", "process"])

    def _try(self) -> dict[str, Any] | None:
        """Acquires the lock and returns None, or returns what is known of its holder."""
        has_system_lock = True
        try:
            self._file_lock.acquire(timeout=0)
        except Timeout:
            return self._read_holder() or {}
        except OSError as error:
            if error.errno not in (errno.ENOSYS, errno.ENOTSUP):
                raise
            has_system_lock = False  # the file system has no such locks
        about = {
            "host": platform.node(),
            "process": os.getpid(),
            "started": psutil.Process().create_time(),
            "since": datetime.now(UTC).isoformat(timespec="seconds"),
            "token": self._token,
        }
        draft = self._folder / f"{HOLDER}.{self._token}"
        acquired = False
        try:
            draft.write_text(json.dumps(about), encoding="utf-8")
            # The file system's clock, which several machines share, says what time it is.
            now = draft.stat().st_mtime
            holder = self._living_holder(has_system_lock, now)
            acquired = holder is None and self._claim(draft)
            for other in self._folder.glob(f"{HOLDER}.*"):  # of processes that were killed
                if acquired and other != draft and now - other.stat().st_mtime > _ORPHANS:
                    other.unlink(missing_ok=True)
        finally:
            if not acquired:
                self._file_lock.release()
            draft.unlink(missing_ok=True)
        return None if acquired else holder or {}

    def _living_holder(self, has_system_lock: bool, now: float) -> dict[str, Any] | None:
        """Returns the holder that the holder's file names, if it counts as alive."""
        holder = self._read_holder()
        if holder is None:
            return None
        if holder.get("host") == platform.node():
            # A process of this machine that held the system's lock before us has ended.
            return None if has_system_lock or _is_dead(holder) else holder
        try:
            return holder if now - self._holder.stat().st_mtime < _SILENCE else None
        except FileNotFoundError:
            return None

    def _claim(self, draft: Path) -> bool:
        """Makes a draft the holder's file; returns whether no other process was faster."""
        self._holder.unlink(missing_ok=True)
        try:
            os.link(draft, self._holder)  # fails if it exists
        except FileExistsError:
            return False
        except OSError:  # a file system without links
            draft.replace(self._holder)
        return self._is_ours()

    def _is_ours(self) -> bool:
        return (self._read_holder() or {}).get("token") == self._token

    def _show_life(self) -> None:
        while not self._released.wait(_SIGN_OF_LIFE):
            if not self._is_ours():
                self._is_lost = not self._released.is_set()
                return
            try:
                os.utime(self._holder)
            except OSError:  # the file system is briefly unavailable
                continue


def _is_dead(holder: dict[str, Any]) -> bool:
    """Tells whether a holder is a process of this machine that has ended."""
    if holder.get("host") != platform.node() or "process" not in holder:
        return False
    try:
        process = psutil.Process(holder["process"])
        # Systems reuse the numbers of processes.
        return process.create_time() != holder.get("started", process.create_time()) or (
            process.status() == psutil.STATUS_ZOMBIE
        )
    except (psutil.Error, OverflowError, ValueError):
        return True
