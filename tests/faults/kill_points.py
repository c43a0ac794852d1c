"""Points at which a run is killed: whatever opens a file to write, or changes a folder."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT
_EVENTS = ("os.rename", "os.link", "os.symlink", "os.remove", "os.mkdir", "os.truncate")


def watch(root: str, trace: str, kill_at: int | None) -> None:
    """Writes a line to ``trace`` for each point below ``root``; kills this process at one of them.

    A point is an open-for-write, fsync, rename, link, mkdir or remove, before it happens.
    """
    lines, below, count = open(trace, "w"), f"{root}{os.sep}", 0  # noqa: PTH123, SIM115

    def reach(what: str, path: object) -> None:
        nonlocal count
        lines.write(f"{what} {str(path).removeprefix(below)}\n")
        lines.flush()
        if count == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        count += 1

    def hook(event: str, arguments: tuple) -> None:
        # What is renamed, linked or removed; for two paths, the one that appears.
        path = arguments[event in ("os.rename", "os.link", "os.symlink")] if arguments else None
        if not isinstance(path, str | Path) or not str(path).startswith(below):
            return
        if event in _EVENTS or (event == "open" and arguments[2] & _WRITES):
            reach(event.removeprefix("os."), path)

    fsync = os.fsync

    def watched(descriptor: int) -> None:
        reach("fsync", Path(f"/proc/self/fd/{descriptor}").readlink())
        fsync(descriptor)

    os.fsync = watched
    sys.addaudithook(hook)
