"""Kernels in C++, which are compiled on first use and kept in the user's cache."""

from __future__ import annotations

import ctypes
import os
import platform
import shlex
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

from pipeline.engine.progress import say
from pipeline.files.fingerprints import fingerprint


class NoKernelError(Exception):
    """No kernel can be used on this machine; the message gives the reason, without a full stop."""


@cache
def compiled(
    source: Path,
    options: Sequence[str],
    libraries: Sequence[str] = (),
    version: str = "",
    headers: Sequence[Path] = (),
) -> Path:
    """Returns the shared library that a source is compiled to, unless it is there.

    It lies in the user's cache, under a name made of source, compiler, options and version. A file
    or folder that others may write to is not used, since loading a kernel runs its code. If the
    cache cannot be used, the kernel is compiled to a temporary folder of the process.

    Args:
        source: a file in C++.
        options: of the compiler, before the source.
        libraries: further options, after it, that follow from the environment.
        version: of what the kernel is linked to.
        headers: what the source includes, beside it.

    Raises:
        NoKernelError: no compiler is installed, or compiling failed. Then a log in the cache tells
            later processes not to try again.
    """
    try:
        return _compiled(source, options, libraries, version, headers)
    except (OSError, ValueError, RuntimeError) as error:  # a command or a folder that is none
        raise NoKernelError(f"it could not be compiled ({error})") from error


def load(kernel: Path, *functions: str) -> list[Any]:
    """Loads functions of a kernel's shared library.

    Raises:
        NoKernelError: this machine cannot load it, or it lacks one of them.
    """
    try:
        library = ctypes.CDLL(str(kernel))
        return [getattr(library, name) for name in functions]
    except (OSError, AttributeError) as error:
        raise NoKernelError(f"it could not be loaded ({error}); remove {kernel}") from error


def _compiled(
    source: Path,
    options: Sequence[str],
    libraries: Sequence[str],
    version: str,
    headers: Sequence[Path],
) -> Path:
    command = shlex.split(os.environ.get("CXX", "c++"))
    found = shutil.which(command[0]) if command else None
    if found is None:
        raise NoKernelError(f"there is no C++ compiler {' '.join(command)}")
    compiler = Path(found).resolve().stat()
    about = (found, compiler.st_size, compiler.st_mtime_ns, command[1:], version)
    texts = [path.read_text(encoding="utf-8") for path in (source, *headers)]
    key = fingerprint(*texts, *options, platform.machine(), *map(str, about))
    name = f"{source.stem}-{key[:16]}"
    arguments = [*command, *options, str(source), *libraries]
    cache_folder = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "afseg"
    with suppress(OSError):  # it cannot be written to
        cache_folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if _is_ours(cache_folder):
            return _compiled_in(cache_folder, name, arguments)
    return _compiled_in(Path(_folder_of_process().name), name, arguments)


@cache
def _folder_of_process() -> tempfile.TemporaryDirectory:
    return tempfile.TemporaryDirectory(prefix="afseg-")


def _compiled_in(folder: Path, name: str, arguments: list[str]) -> Path:
    kernel, log = folder / f"{name}.so", folder / f"{name}.log"
    if kernel.is_file() and _is_ours(kernel):
        return kernel
    failed = f"it could not be compiled ({log} says why; remove it to try again)"
    if log.is_file():
        raise NoKernelError(failed)
    say("compiling a kernel for this machine")
    # Each process compiles to a file of its own, so that none is loaded half written.
    with tempfile.TemporaryDirectory(dir=folder) as own:
        target = Path(own) / kernel.name
        whole = [*arguments, "-o", str(target)]
        done = subprocess.run(whole, capture_output=True, text=True, errors="replace")
        if done.returncode or not target.is_file():
            log.write_text(f"{shlex.join(whole)}\n{done.stdout}{done.stderr}", encoding="utf-8")
            raise NoKernelError(failed)
        target.chmod(0o700)
        with target.open("rb") as written:
            os.fsync(written.fileno())  # a power cut must not leave a part of it
        target.replace(kernel)
    return kernel


def _is_ours(path: Path) -> bool:
    """Tells whether nobody else may write to a file or folder."""
    about = path.stat()
    return about.st_uid == os.getuid() and not about.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
