"""The lock on a folder, between processes and between machines."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import platform
import subprocess
import sys
import time

import psutil
import pytest

from pipeline.errors import UserError
from pipeline.files import lock as lock_module
from pipeline.files.lock import HOLDER, FolderLock
from tests import REPOSITORY
from tests.processes import wait_until

HOLDING = """
import sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from pipeline.files.lock import FolderLock
lock = FolderLock(Path(sys.argv[2]))
lock.acquire()
print("held", flush=True)
time.sleep(600)
"""


def hold(folder) -> subprocess.Popen:
    command = [sys.executable, "-c", HOLDING, str(REPOSITORY), str(folder)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    return process


def write_holder(folder, seconds_ago: float, **changes):
    about = {"host": "another", "process": 7, "since": "2026-01-01T00:00:00+00:00", **changes}
    path = folder / HOLDER
    path.write_text(json.dumps(about))
    os.utime(path, (time.time() - seconds_ago,) * 2)


def test_the_holder_is_named_and_gone_when_it_is_released(tmp_path):
    first, second = FolderLock(tmp_path), FolderLock(tmp_path)
    first.acquire()
    with pytest.raises(UserError) as refused:
        second.acquire()
    assert f"by process {os.getpid()} on {platform.node()} since 20" in str(refused.value)
    first.release()
    second.acquire()
    second.release()
    assert not (tmp_path / HOLDER).exists()
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]


def test_a_lock_ends_with_its_process(tmp_path):
    process = hold(tmp_path)
    with pytest.raises(UserError, match=f"by process {process.pid} on"):
        FolderLock(tmp_path).acquire()
    process.kill()
    process.wait()
    with FolderLock(tmp_path):
        pass


def test_the_children_of_a_dead_holder_are_waited_for(tmp_path):
    """Children of a run may inherit its lock, and end a little later."""
    process = hold(tmp_path)
    write_holder(tmp_path, 0, host=platform.node(), process=2**22 + 1)
    subprocess.Popen(["sh", "-c", f"sleep 0.7; kill -9 {process.pid}"])
    began = time.monotonic()
    with FolderLock(tmp_path):
        assert time.monotonic() - began > 0.5
    process.wait()


def test_a_second_run_may_wait(tmp_path):
    process = hold(tmp_path)
    subprocess.Popen(["sh", "-c", f"sleep 0.7; kill -9 {process.pid}"])
    began = time.monotonic()
    with FolderLock(tmp_path, wait=300):
        assert 0.5 < time.monotonic() - began < 200
    process.wait()


def test_another_machine_holds_it_while_it_shows_life(tmp_path):
    """As on a shared file system without the system's locks."""
    write_holder(tmp_path, seconds_ago=60)
    with pytest.raises(UserError, match="by process 7 on another since 2026.* two minutes") as said:
        FolderLock(tmp_path).acquire()
    assert "runtime.wait=SECONDS" in str(said.value)
    write_holder(tmp_path, seconds_ago=130)
    with FolderLock(tmp_path) as lock:
        lock.check()


def process_of_holder(folder) -> int:
    return json.loads((folder / HOLDER).read_text())["process"]


def test_the_systems_lock_decides_on_this_machine(tmp_path):
    """A file of a holder here that no longer has it counts for nothing, however young it is."""
    parent = os.getppid()  # which lives
    started = psutil.Process(parent).create_time()
    write_holder(tmp_path, 0, host=platform.node(), process=parent, started=started)
    with FolderLock(tmp_path):
        assert process_of_holder(tmp_path) == os.getpid()


@pytest.fixture
def no_system_lock(monkeypatch):
    """A file system without locks."""

    def missing(*_):
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", missing)


def test_the_number_of_a_process_may_be_that_of_another_one_later(tmp_path, no_system_lock):
    parent = os.getppid()
    started = psutil.Process(parent).create_time()
    write_holder(tmp_path, 0, host=platform.node(), process=parent, started=started)
    with pytest.raises(UserError, match=f"is being written by process {parent} on"):
        FolderLock(tmp_path).acquire()
    write_holder(tmp_path, 0, host=platform.node(), process=parent, started=started - 1000)
    with FolderLock(tmp_path):
        assert process_of_holder(tmp_path) == os.getpid()


@pytest.mark.parametrize("number", [errno.EPERM, errno.ENOTSUP])
def test_a_file_system_may_have_neither_locks_nor_links(
    number, tmp_path, no_system_lock, monkeypatch
):
    def refused(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "link", refused)
    first, second = FolderLock(tmp_path), FolderLock(tmp_path)
    first.acquire()
    assert process_of_holder(tmp_path) == os.getpid()
    with pytest.raises(UserError, match="is being written"):
        second.acquire()
    first.check()
    first.release()
    assert not (tmp_path / HOLDER).exists()


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOTSUP])
def test_without_the_systems_locks_the_file_decides(number, tmp_path, monkeypatch):
    def missing(self, timeout):
        raise OSError(number, "")

    monkeypatch.setattr("filelock.FileLock.acquire", missing)
    first, second = FolderLock(tmp_path), FolderLock(tmp_path)
    first.acquire()
    with pytest.raises(UserError, match="is being written"):
        second.acquire()
    first.release()
    second.acquire()
    second.release()


def test_a_killed_holder_elsewhere_does_not_block_where_there_is_no_flock(tmp_path, no_system_lock):
    """filelock's fallback would leave a file that blocks other machines for good."""
    lock = FolderLock(tmp_path)
    lock.acquire()
    # The process is killed: nothing is released, and its file falls silent.
    lock._released.set()
    write_holder(tmp_path, seconds_ago=60)
    with pytest.raises(UserError, match="by process 7 on another"):
        FolderLock(tmp_path).acquire()
    write_holder(tmp_path, seconds_ago=130)
    with FolderLock(tmp_path) as second:
        second.check()
    assert not (tmp_path / HOLDER).exists()


def test_other_errors_of_the_systems_lock_are_raised(tmp_path, monkeypatch):
    def broken(self, timeout):
        raise OSError(errno.EACCES, "Permission denied")

    monkeypatch.setattr("filelock.FileLock.acquire", broken)
    with pytest.raises(PermissionError):
        FolderLock(tmp_path).acquire()


def test_whoever_was_taken_over_stops_writing(tmp_path, monkeypatch):
    monkeypatch.setattr(lock_module, "_SIGN_OF_LIFE", 0.05)
    lock = FolderLock(tmp_path)
    lock.acquire()
    before = (tmp_path / HOLDER).stat().st_mtime_ns
    wait_until(lambda: (tmp_path / HOLDER).stat().st_mtime_ns > before)  # it shows life
    lock.check()
    write_holder(tmp_path, 0, token="another's")

    def refuses() -> bool:
        try:
            lock.check()
        except UserError as error:
            return "was taken over by another process" in str(error)
        return False

    wait_until(refuses)
    lock.release()
    assert (tmp_path / HOLDER).exists(), "the other's stays"
