"""Kernels: what is loaded is what was checked, and no fault of a moment is remembered."""

from __future__ import annotations

import ctypes.util
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import psutil
import pytest

from pipeline.engine import compiler
from pipeline.engine.compiler import NoKernelError, compiled, load
from tests.processes import wait_until

OPTIONS = ("-fPIC", "-shared")
COMPILER = """#!/bin/sh
echo run >> {log}
[ -e {fault} ] && . {fault}
exec c++ "$@"
"""
WAITS = "echo $$ > {process}; sleep 100 & echo $! > {child}; wait"


class Machine:
    """A machine with a compiler of its own, which has a fault while there is a file of it."""

    def __init__(self, root: Path):
        self.cache, self.temporary = root / "cache", root / "tmp"
        self.log, self.fault = root / "log", root / "fault"
        self.script = root / "compiler"
        self._root = root
        for folder in (self.cache, self.temporary):
            folder.mkdir(mode=0o700)
        self.script.write_text(COMPILER.format(log=self.log, fault=self.fault))
        self.script.chmod(0o755)

    def source(self, answer: object, name: str = "answer") -> Path:
        """Writes a source."""
        path = self._root / f"{name}.cpp"
        path.write_text(f'extern "C" int answer() {{ return {answer}; }}\n')
        return path

    @property
    def compilations(self) -> int:
        return len(self.log.read_text().splitlines()) if self.log.exists() else 0

    def kept(self, pattern: str = "*.so") -> list[Path]:
        return sorted((self.cache / "afseg").glob(pattern))


@pytest.fixture
def machine(tmp_path, monkeypatch):
    machine = Machine(tmp_path)
    monkeypatch.setenv("CXX", str(machine.script))
    monkeypatch.setenv("XDG_CACHE_HOME", str(machine.cache))
    monkeypatch.setenv("TMPDIR", str(machine.temporary))
    monkeypatch.setattr(tempfile, "tempdir", None)
    yield machine
    compiled.cache_clear()


def answer(source: Path) -> int:
    """Returns what a kernel answers in another process."""
    compiled.cache_clear()
    (function,) = load(compiled(source, OPTIONS), "answer")
    return function()


def test_a_kernel_is_compiled_once(machine, monkeypatch):
    source = machine.source(42)
    for _ in range(2):
        assert answer(source) == 42 and machine.compilations == 1
    [kernel] = machine.kept("*")
    assert kernel.stat().st_mode & 0o77 == kernel.parent.stat().st_mode & 0o77 == 0
    monkeypatch.setenv("CXX", f"{machine.script} -O1")
    assert answer(source) == 42 and machine.compilations == 2
    assert answer(machine.source(43)) == 43 and machine.compilations == 3


def test_kernels_of_one_process_are_not_mistaken_for_each_other(machine):
    first, second = (
        load(compiled(machine.source(n, f"n{n}"), OPTIONS), "answer")[0] for n in (1, 2)
    )
    assert (first(), second()) == (1, 2)


def test_without_files_in_memory_a_private_copy_is_loaded(machine, monkeypatch):
    monkeypatch.delattr(os, "memfd_create")
    assert answer(machine.source(42)) == 42
    assert [*machine.temporary.iterdir()] == []


def test_a_umask_that_lets_the_group_write_does_not_matter(machine):
    before = os.umask(0o002)
    try:
        for _ in range(2):
            assert answer(machine.source(42)) == 42 and machine.compilations == 1
    finally:
        os.umask(before)


def exchange(machine: Machine, source: Path) -> Path:
    """Puts the kernel of another source, which answers 13, in the place of a source's."""
    compiled(source, OPTIONS)
    [right] = machine.kept()
    compiled(machine.source(13, "evil"), OPTIONS)
    [evil] = {*machine.kept()} - {right}
    return evil.replace(right)


def test_what_is_loaded_is_what_was_checked(machine):
    source = machine.source(42)
    kernel = compiled(source, OPTIONS)
    exchange(machine, source)
    assert load(kernel, "answer")[0]() == 42
    assert answer(source) == 13, "the exchange itself does not work"


@pytest.mark.parametrize("mode", [0o770, 0o707])
@pytest.mark.parametrize("what", ["cache/afseg/{}", "cache/afseg", "cache", "."])
def test_nothing_is_loaded_where_others_may_write(machine, what, mode):
    """Others could exchange every folder on the way, perhaps for another one of the user's."""
    source = machine.source(42)
    kernel = exchange(machine, source)
    machine.temporary.chmod(mode)
    (machine.cache.parent / what.format(kernel.name)).chmod(mode)
    assert answer(source) == 42


def test_links_are_followed_only_where_nobody_else_can_change_them(machine):
    source = machine.source(42)
    kernel = exchange(machine, source)
    evil = kernel.parent.rename(machine.cache / "evil")
    (machine.cache / "afseg").symlink_to(evil)
    assert answer(source) == 13, "this user's own link is not followed"
    shared = machine.temporary / "shared"
    shared.mkdir()
    shared.chmod(0o777)
    (shared / "link").symlink_to(evil)
    (machine.cache / "afseg").unlink()
    (machine.cache / "afseg").symlink_to(shared / "link")
    assert answer(source) == 42


def test_a_link_is_no_kernel(machine):
    source = machine.source(42)
    kernel = exchange(machine, source)
    kernel.symlink_to(kernel.rename(kernel.with_name("evil.so")))
    assert answer(source) == 42


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a folder to another user")
@pytest.mark.parametrize("what", ["cache/afseg", "cache", "."])
def test_a_folder_of_another_user_is_not_used(machine, what):
    source = machine.source(42)
    exchange(machine, source)
    os.chown(machine.cache.parent / what, 12345, 12345)
    assert answer(source) == 42


def test_without_a_home_kernels_are_kept_in_the_folder_for_temporary_files(machine, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "~no-such-user/cache")
    for _ in range(2):
        assert answer(machine.source(42)) == 42 and machine.compilations == 1
    machine.temporary.chmod(0o770)
    assert answer(machine.source(42)) == 42 and machine.compilations == 2


@pytest.mark.parametrize("damage", ["empty", "half", "one byte", "foreign", "a pipe", "a folder"])
def test_a_damaged_kernel_is_compiled_anew(machine, damage):
    source = machine.source(42)
    answer(source)
    [kernel] = machine.kept()
    content = kernel.read_bytes()
    kernel.unlink()
    if damage == "a pipe":
        os.mkfifo(kernel)
    elif damage == "a folder":
        kernel.mkdir()
    else:
        contents = {
            "empty": b"",
            "half": content[: len(content) // 2],
            "one byte": content[:4000] + b"\x01" + content[4001:],
            "foreign": Path(ctypes.util.__file__).read_bytes(),
        }
        kernel.write_bytes(contents[damage])
        kernel.chmod(0o700)
    assert answer(source) == 42 and machine.compilations == 2
    if damage != "a folder":
        assert kernel.read_bytes() == content
        assert answer(source) == 42 and machine.compilations == 2


@pytest.mark.parametrize(
    "fault",
    [
        "exit 0",
        "exit 1",
        "kill -9 $$",
        "echo 'c++: fatal error: Killed signal terminated program cc1plus' >&2; exit 1",
        "echo 'cc1plus: error: out of memory allocating 65536 bytes' >&2; exit 1",
        "echo 'ld: final link failed: No space left on device'; echo 'ld: error: 1'; exit 1",
        "ulimit -f 1",
    ],
)
def test_a_passing_fault_is_not_remembered(machine, fault):
    source = machine.source(42)
    machine.fault.write_text(fault)
    with pytest.raises(NoKernelError, match="could not be compiled"):
        answer(source)
    assert machine.kept("*") == [] == [*machine.temporary.iterdir()]
    machine.fault.unlink()
    assert answer(source) == 42


@pytest.mark.parametrize("wrong", ["source", "option", "header", "library"])
def test_a_compilers_own_error_is_remembered(machine, wrong):
    source = machine.source("nothing" if wrong == "source" else 42)
    if wrong == "header":
        source.write_text('#include "nothing.h"')
    options = (*OPTIONS, *["-march=nothing"] * (wrong == "option"))
    libraries = ["-lnothing"] * (wrong == "library")
    for _ in range(2):
        compiled.cache_clear()
        with pytest.raises(NoKernelError, match="remove it to try again") as error:
            compiled(source, options, tuple(libraries))
        assert machine.compilations == 1
    [log] = machine.kept("*")
    assert str(log) in str(error.value) and "nothing" in log.read_text()


def test_a_compilation_has_a_time_limit(machine, monkeypatch):
    monkeypatch.setattr(compiler, "_MAX_SECONDS", 0.1)
    machine.fault.write_text("sleep 100")
    with pytest.raises(NoKernelError, match=r"more than 0\.1 seconds"):
        answer(machine.source(42))
    assert machine.kept("*") == [] == [*machine.temporary.iterdir()]


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT, "descendants"])
def test_a_killed_compilation_leaves_nothing_behind(machine, tmp_path, how):
    """Ctrl-C reaches the processes of a terminal, and a batch system those of a job.

    An interrupted run kills its workers with all that they started.
    """
    process, child = tmp_path / "process", tmp_path / "child"
    machine.fault.write_text(WAITS.format(process=process, child=child))
    program = (
        "import signal; from pathlib import Path; from pipeline.engine.compiler import compiled\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # ignored in the background
        f"compiled(Path({str(machine.source(42))!r}), {OPTIONS})"
    )
    run = subprocess.Popen(
        [sys.executable, "-c", program], stderr=subprocess.DEVNULL, start_new_session=True
    )
    wait_until(lambda: child.exists() and child.read_text().strip())
    if how == "descendants":
        for each in psutil.Process(run.pid).children(recursive=True):
            each.kill()
    if how == signal.SIGTERM:
        os.killpg(os.getpgid(int(process.read_text())), how)
    os.killpg(run.pid, signal.SIGKILL if how == "descendants" else how)
    assert run.wait(60) != 0
    for each in (process, child):
        place = Path("/proc", each.read_text().strip(), "stat")
        wait_until(lambda p=place: not p.exists() or ") Z " in p.read_text())
    wait_until(lambda: not [*machine.temporary.iterdir()])
    assert machine.kept("*") == []
