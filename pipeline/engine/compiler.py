"""Kernels in C++, which are compiled on first use and kept in the user's cache."""

import ctypes
import errno
import os
import platform
import shlex
import shutil
import signal
import stat
import subprocess
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

from pipeline.engine.progress import note, say
from pipeline.errors import UserError, shown
from pipeline.files.atomic import replacing, write_atomically
from pipeline.files.fingerprints import fingerprint

_MAX_SECONDS = 300  # of a compilation
_SCRIPT = Path(__file__).with_name("compile.sh")

_OF_THE_SYSTEM = (
    "memory",
    *{os.strerror(number) for number in errno.errorcode if number != errno.ENOENT},
    *filter(None, map(signal.strsignal, signal.valid_signals())),
)
"""What a compiler says of a passing fault, such as a full disk; a missing header is none."""

_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH


class NoKernelError(Exception):
    """No kernel can be used on this machine; the message gives the reason, without a full stop."""


def note_fallback(reason: object) -> None:
    """Tells the user, once, that a run goes on without a kernel."""
    note(f"the run is slower than with a compiled kernel, since {reason}")


@cache
def compiled(
    source: Path,
    options: Sequence[str],
    libraries: Sequence[str] = (),
    version: str = "",
    headers: Sequence[Path] = (),
) -> bytes:
    """Returns the shared library that a source is compiled to, unless it is kept.

    It is kept under a name made of source, compiler, options and version, with a digest at its end.
    Since loading a kernel runs its code, none is kept or looked for where others may write.

    Args:
        source: a file in C++.
        options: of the compiler, before the source.
        libraries: further options, after it, that follow from the environment.
        version: of what the kernel is linked to.
        headers: what the source includes, beside it.

    Raises:
        NoKernelError: no compiler is installed, or compiling failed. If the cause is the source or
            the options, a log beside the kernels tells later processes not to try again.
    """
    try:
        command = shlex.split(os.environ.get("CXX", "c++"))
        found = shutil.which(command[0]) if command else None
        if found is None:
            raise NoKernelError(f"there is no C++ compiler {' '.join(command)}")
        compiler = Path(found).resolve().stat()
        about = (found, compiler.st_size, compiler.st_mtime_ns, command[1:], version)
        texts = [path.read_text(encoding="utf-8") for path in (source, *headers)]
        key = fingerprint(*texts, *options, platform.machine(), *map(str, about))
        place = _folder_of_kernels() / f"{source.stem}-{key}.so"
        return _kept(place) or _compile([*command, *options, str(source), *libraries], place)
    except subprocess.TimeoutExpired:
        problem = f"it takes more than {_MAX_SECONDS} seconds"
    except (OSError, ValueError, RuntimeError) as error:  # also a command that is none
        problem = str(error)
    raise NoKernelError(f"{source.name} could not be compiled ({problem})")


def load(kernel: bytes, *functions: str) -> list[Any]:
    """Loads functions of a kernel, from a copy that is ours alone, or raises a NoKernelError."""
    try:
        library = _load(kernel)
        return [getattr(library, name) for name in functions]
    except (OSError, AttributeError) as error:
        raise NoKernelError(f"a kernel could not be loaded ({error})") from error


def _load(kernel: bytes) -> ctypes.CDLL:
    with suppress(OSError, AttributeError):  # another system than Linux, or no /proc
        copy = os.memfd_create("kernel")  # stays open: the loader takes equal paths for one library
        os.write(copy, kernel)
        return ctypes.CDLL(f"/proc/self/fd/{copy}")
    with tempfile.NamedTemporaryFile(suffix=".so") as file:
        file.write(kernel)
        file.flush()
        return ctypes.CDLL(file.name)


def _kept(kernel: Path) -> bytes:
    """Returns a kernel that was kept; b"" if there is none, or it is damaged or another's."""
    with suppress(OSError):
        opened = os.open(kernel, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)  # a pipe would block
        with os.fdopen(opened, "rb") as file:
            content = file.read() if _is_ours(os.fstat(opened)) else b""
        if content[-16:] == fingerprint(content[:-16]).encode():
            return content[:-16]
    return b""


def _compile(command: Sequence[str], place: Path) -> bytes:
    """Compiles a kernel, and keeps it or the error of the compiler; a RuntimeError if it fails."""
    log = place.with_suffix(".log")
    refused = RuntimeError(f"the reason is in {log}; remove it to try again")
    if log.is_file():
        raise refused
    say("compiling a kernel for this machine")
    script = ["sh", str(_SCRIPT), *command]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(script, **pipes, start_new_session=True) as process:
        held, process.stdin = process.stdin, None  # else it would be closed at once
        with held:
            kernel, said = process.communicate(timeout=_MAX_SECONDS)
    if kernel and process.returncode == 0:
        with suppress(UserError), replacing(place) as file:
            os.fchmod(file.fileno(), 0o600)
            file.write(kernel + fingerprint(kernel).encode())
        return kernel
    messages = said.decode(errors="replace")
    if "error:" in messages and not any(text in messages for text in _OF_THE_SYSTEM):
        with suppress(UserError):
            write_atomically(log, f"{shlex.join(command)}\n{messages}")
            raise refused
    lines = messages.splitlines() or ["it wrote no file"]
    raise RuntimeError(shown(next((line for line in lines if "error:" in line), lines[-1])))


def _folder_of_kernels() -> Path:
    """Returns the user's cache, or a folder for temporary files where others may write to it."""
    usual = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "afseg")
    for folder in (usual, Path(tempfile.gettempdir(), f"afseg-{os.getuid()}")):
        with suppress(OSError, RuntimeError):  # it cannot be made, or there is no home
            folder = folder.expanduser().absolute()
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            is_closed = _is_fixed(folder / "kernel") and _is_ours(folder.stat())
            if is_closed and os.access(folder, os.W_OK):
                return folder
    return Path(os.devnull)  # in which nothing can be kept


def _is_fixed(path: Path) -> bool:
    """Tells whether nobody else can put another folder in the place of one that a path names."""
    owners = os.getuid(), Path(path.anchor).stat().st_uid
    for folder in reversed(path.parents):  # each fixes the next
        about = folder.lstat()
        is_open = about.st_mode & _OTHERS_WRITE and not about.st_mode & stat.S_ISVTX
        if folder.is_symlink():
            is_open = not _is_fixed(folder.parent / folder.readlink() / path.name)
        if is_open or about.st_uid not in owners:
            return False
    return True


def _is_ours(about: os.stat_result) -> bool:
    return about.st_uid == os.getuid() and not about.st_mode & _OTHERS_WRITE
