"""Where the packages behind a result differ from those of the lock."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from pipeline.files.shipped import LOCKS

_PINNED = re.compile(r"^([\w.-]+)==(\S+)", re.MULTILINE)
_NOT_LOCKED = ("python", "commit")
_LOCKED_AS = {"opencv-python": "opencv-python-headless"}
"""Distributions of the same pixels."""


def describe_departures(versions: Mapping[str, str], locks: Path = LOCKS) -> str:
    """Returns in which packages a manifest's versions differ from the lock of their Python, or "".

    The lock is that of the maintained fork ("onedl-") if the result was made with it. Local parts
    of versions, which name builds of PyTorch ("+cpu"), do not count.
    """
    if "python" not in versions:
        return "versions are not recorded"
    python = versions["python"].split(".")
    family = "onedl-" if any(name.startswith("onedl-") for name in versions) else ""
    lock = locks / f"lock-{family}py{''.join(python[:2])}.txt"
    if not lock.is_file():
        return f"there is no lock of Python {'.'.join(python[:2])}"
    pinned, departures = _read(lock), []
    for name, version in versions.items():
        locked = pinned.get(_LOCKED_AS.get(name, name.replace("_", "-")))
        if name not in _NOT_LOCKED and version.partition("+")[0] != locked:
            wanted = f"not {locked}" if locked else "which it does not hold"
            departures.append(f"{name} {version}, {wanted}")
    return f"{lock.name}: {'; '.join(departures)}" if departures else ""


@cache
def _read(lock: Path) -> dict[str, str]:
    """Returns the version of each distribution in a lock."""
    return dict(_PINNED.findall(lock.read_text(encoding="utf-8")))
