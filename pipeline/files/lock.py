"""One writer at a time in a folder, over processes and machines that share a file system."""

from __future__ import annotations

import json
import os
import platform
import threading
import time
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil
from filelock import FileLock, Timeout

from pipeline.errors import UserError
from pipeline.files.atomic import read_json

LOCK, HOLDER = ".lock", ".holder.json"

_SIGN_OF_LIFE = 15.0  # seconds between two signs of life of a holder
_SILENCE = 120.0  # seconds without one after which a holder on another machine counts as dead
_ORPHANS = 15.0  # seconds in which the children of a killed holder notice that they are alone
_POLL = 0.2


class FolderLock:
    """Held by one process at a time.

    Within a machine, and on shared file systems that support it, the operating system's lock
    decides; it ends with its process, however that ends. Where a shared file system does not pass
    such locks on, the holder's file does: it names the holder, who touches it every 15 seconds.
    """

    def __init__(self, folder: Path, wait: float = 0.0):
        """Prepares a lock that is not held yet.

        Args:
            folder: what is locked.
            wait: seconds to wait for another holder.
        """
        self._folder = folder
        self._wait = wait
        self._file_lock = FileLock(folder / LOCK)
        self._holder = folder / HOLDER
        self._token = uuid.uuid4().hex
        self._released = threading.Event()
        self._is_lost = False

    def acquire(self) -> None:
        """Takes the lock.

        Raises:
            UserError: another process holds it, named with its host and since when.
            OSError: the folder cannot be written to.
        """
        deadline = time.monotonic() + self._wait
        orphans_until = time.monotonic() + _ORPHANS
        while True:
            by_system = self._acquire_file_lock()
            if by_system is not False:
                try:
                    holder = self._living_holder(by_system is None)
                    if holder is None and self._claim():
                        break
                except OSError:
                    self._file_lock.release()
                    raise
                self._file_lock.release()
            else:
                holder = read_json(self._holder) or {}
                # The children of a process that was killed hold its lock until they end.
                if _is_dead(holder) and time.monotonic() < orphans_until:
                    time.sleep(_POLL)
                    continue
            if time.monotonic() >= deadline:
                raise self._refusal(holder or {})
            time.sleep(_POLL)
        self._released.clear()
        threading.Thread(target=self._show_life, daemon=True).start()

    def _refusal(self, holder: Mapping[str, Any]) -> UserError:
        elsewhere = holder.get("host") not in (None, platform.node())
        killed = "; if it was killed, two minutes are enough" if elsewhere else ""
        return UserError(
            f"{self._folder} is being written by process {holder.get('process', '?')} on"
            f" {holder.get('host', '?')} since {holder.get('since', '?')}: stop it, or wait for it"
            f" with runtime.wait=SECONDS{killed}"
        )

    def release(self) -> None:
        """Gives the lock back."""
        self._released.set()
        if self._is_ours():
            self._holder.unlink(missing_ok=True)
        self._file_lock.release()

    def check(self) -> None:
        """Makes sure that the lock is still held.

        Raises:
            UserError: another process took it over, since this one gave no sign of life for long,
                as a machine does that sleeps.
        """
        if self._is_lost:
            raise UserError(
                f"{self._folder} was taken over by another process while this one was not heard of:"
                " run the same command again when that one has ended"
            )

    def _acquire_file_lock(self) -> bool | None:
        """Takes the system's lock; returns none where the file system has no such thing."""
        try:
            self._file_lock.acquire(timeout=0)
        except Timeout:
            return False
        except NotImplementedError:
            return None
        return True

    def _living_holder(self, without_file_lock: bool) -> dict[str, Any] | None:
        """Returns who holds the lock all the same, by its file."""
        holder = read_json(self._holder)
        if holder is None:
            return None
        if holder.get("host") == platform.node():
            # With the system's lock in hand, whoever had it on this machine has ended.
            return holder if without_file_lock and not _is_dead(holder) else None
        return holder if self._silence() < _SILENCE else None

    def _silence(self) -> float:
        """Returns the seconds since the holder's last sign of life, by the file system's clock."""
        probe = self._folder / f"{HOLDER}.{self._token}"
        try:
            probe.touch()
            return probe.stat().st_mtime - self._holder.stat().st_mtime
        except FileNotFoundError:
            return float("inf")
        finally:
            probe.unlink(missing_ok=True)

    def _claim(self) -> bool:
        """Writes the holder's file, if no other process was faster."""
        about = {
            "host": platform.node(),
            "process": os.getpid(),
            "started": psutil.Process().create_time(),
            "since": datetime.now(UTC).isoformat(timespec="seconds"),
            "token": self._token,
        }
        draft = self._folder / f"{HOLDER}.{self._token}"
        try:
            draft.write_text(json.dumps(about), encoding="utf-8")
            self._holder.unlink(missing_ok=True)
            try:
                os.link(draft, self._holder)  # fails where another one stands
            except FileExistsError:
                return False
            except OSError:  # a file system without links
                draft.replace(self._holder)
        finally:
            draft.unlink(missing_ok=True)
        return self._is_ours()

    def _is_ours(self) -> bool:
        return (read_json(self._holder) or {}).get("token") == self._token

    def _show_life(self) -> None:
        while not self._released.wait(_SIGN_OF_LIFE):
            if not self._is_ours():
                self._is_lost = not self._released.is_set()
                return
            try:
                os.utime(self._holder)
            except OSError:  # the file system is away for a moment
                continue


def _is_dead(holder: dict[str, Any]) -> bool:
    """Tells whether a holder is a process of this machine that has ended."""
    if holder.get("host") != platform.node() or "process" not in holder:
        return False
    try:
        process = psutil.Process(holder["process"])
        # A number is given anew to another process some day.
        return process.create_time() != holder.get("started", process.create_time()) or (
            process.status() == psutil.STATUS_ZOMBIE
        )
    except psutil.NoSuchProcess:
        return True
