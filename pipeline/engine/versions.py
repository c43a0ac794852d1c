"""Which code computed a result: the packages that it depends on, and our own commit."""

from __future__ import annotations

import platform
import subprocess
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

_REPOSITORY = Path(__file__).resolve().parents[2]
_PACKAGES = ("torch", "open_clip_torch", "numpy", "scikit-image", "pydensecrf2", "mmsegmentation")


@cache
def versions() -> dict[str, str]:
    """Returns the versions of Python, of the packages that results depend on, and our commit."""
    found = {"commit": commit(), "python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "missing"
    return found


@cache
def commit() -> str:
    """Returns the commit that is checked out, with a "+" where files were changed since.

    Outside a git repository, as in an unpacked archive, it is "unknown".
    """
    command = ["git", "-C", str(_REPOSITORY), "describe", "--always", "--exclude=*"]
    command += ["--abbrev=10", "--dirty=+"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
