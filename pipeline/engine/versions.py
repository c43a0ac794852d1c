"""The code that computed a result: versions of packages, and our own version and commit."""

import platform
import subprocess
from email.parser import Parser
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

DISTRIBUTION = "annotation-free-segmentation"

_REPOSITORY = Path(__file__).resolve().parents[2]
_FIRST = "0.1.0"  # until a commit has a tag such as v0.2.0
_PACKAGES = (
    *(("torch",), ("torchvision",), ("open_clip_torch",), ("timm",), ("numpy",), ("scipy",)),
    *(("scikit-image",), ("scikit-learn",), ("pillow",), ("pydensecrf2",)),
    # One of several with the same import names.
    ("opencv-python", "opencv-python-headless"),
    ("mmsegmentation", "onedl-mmsegmentation"),
    ("mmengine", "onedl-mmengine"),
    ("mmcv-lite", "mmcv", "onedl-mmcv"),
)
"""Packages that compute pixels or weights."""


@cache
def versions() -> dict[str, str]:
    """Returns the versions of Python, of the packages that results depend on, and our commit.

    Of several distributions of a module, those installed are named, or else the first as "missing".
    """
    found = {"commit": commit(), "python": platform.python_version()}
    for alternatives in _PACKAGES:
        installed = {name: number for name in alternatives if (number := _version(name))}
        found |= installed or {alternatives[0]: "missing"}
    return found


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


@cache
def commit() -> str:
    """Returns the commit of this code, with a "+" if files were changed since.

    It is that of the checkout, or the one from which an installed package was built. For an
    unpacked archive without either it is "unknown".
    """
    if (_REPOSITORY / ".git").exists():
        return _describe("--always", "--exclude=*", "--abbrev=10", "--dirty=+") or "unknown"
    _, _, built_from = (_version(DISTRIBUTION) or "").partition("+g")
    return built_from.replace(".changed", "+") or "unknown"


def package_version() -> str:
    """Returns the version that a build of the package receives.

    It is that of the last tag ("v0.2.0"), and 0.1.0 without a tag; the commit follows ("+g" and ten
    digits), then ".changed" if files were changed since. A source archive keeps its version.
    """
    if (archive := _REPOSITORY / "PKG-INFO").is_file():
        return Parser().parsestr(archive.read_text(encoding="utf-8"))["Version"]
    tag = _describe("--tags", "--match=v[0-9]*", "--abbrev=0").removeprefix("v") or _FIRST
    built_from = commit().replace("+", ".changed")
    return tag if built_from == "unknown" else f"{tag}+g{built_from}"


def current_version() -> str:
    """Returns the version of the checkout, or that of the installed package."""
    is_checkout = (_REPOSITORY / ".git").exists()
    return not is_checkout and _version(DISTRIBUTION) or package_version()


def _describe(*options: str) -> str:
    """Returns what ``git describe`` prints in our repository, or "" if it fails."""
    command = ["git", "-C", str(_REPOSITORY), "describe", *options]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""
