"""The lock on a folder, between processes and between machines."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import platform
import re
import subprocess
import sys
import time
from unittest.mock import Mock

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


@pytest.fixture(autouse=True)
def orphans_end_at_once(monkeypatch):
    monkeypatch.setattr(lock_module, "_ORPHANS", 0.05)


def hold(folder) -> subprocess.Popen:
    command = [sys.executable, "-c", HOLDING, str(REPOSITORY), str(folder)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    return process


def test_the_holder_is_named_and_gone_when_it_is_released(tmp_path):
    first, second = FolderLock(tmp_path), FolderLock(tmp_path)
    first.acquire()
    with pytest.raises(UserError) as refused:
        second.acquire()
    assert f"by process {os.getpid()} on {platform.node()} since 20" in str(refused.value)
    assert "runtime.wait=SECONDS" in str(refused.value) and "wait=130" not in str(refused.value)
    first.release()
    second.acquire()
    second.release()
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]


def test_a_lock_ends_with_its_process(tmp_path):
    process = hold(tmp_path)
    with pytest.raises(UserError, match=f"by process {process.pid} on"):
        FolderLock(tmp_path).acquire()
    process.kill()
    process.wait()
    with FolderLock(tmp_path) as lock:
        lock.check()


@pytest.mark.parametrize(("wait", "orphans"), [(300, 0), (0, 300)])
def test_a_second_run_waits_if_asked_and_briefly_for_orphans(tmp_path, monkeypatch, wait, orphans):
    """Children of a killed run inherit its lock, and end a little later."""
    monkeypatch.setattr(lock_module, "_ORPHANS", orphans)
    process = hold(tmp_path)
    subprocess.Popen(["sh", "-c", f"sleep 0.7; kill -9 {process.pid}"])
    began = time.monotonic()
    with FolderLock(tmp_path, wait):
        assert 0.5 < time.monotonic() - began < 200
    process.wait()


def test_a_damaged_file_of_the_holder_is_no_traceback(tmp_path):
    with FolderLock(tmp_path):
        (tmp_path / HOLDER).write_text('{"process": "seven"')
        with pytest.raises(UserError, match=r"by process \? on \? since"):
            FolderLock(tmp_path).acquire()


def test_a_holder_that_cannot_be_written_leaves_the_lock_free(tmp_path, monkeypatch):
    with monkeypatch.context() as patched:
        full = Mock(side_effect=OSError(errno.ENOSPC, "full"))
        patched.setattr("pipeline.files.lock.write_atomically", full)
        with pytest.raises(OSError, match="full"):
            FolderLock(tmp_path).acquire()
    with FolderLock(tmp_path):
        pass


def test_other_errors_of_the_systems_lock_are_raised(tmp_path, monkeypatch):
    def broken(self, **_):
        raise OSError(errno.EACCES, "Permission denied")

    monkeypatch.setattr("filelock.FileLock.acquire", broken)
    with pytest.raises(PermissionError):
        FolderLock(tmp_path).acquire()


# Without the system's locks


@pytest.fixture(params=[errno.ENOSYS, errno.ENOTSUP])
def no_locks(request, monkeypatch):
    """A file system without locks, and a lease that is short."""

    def missing(*_):
        raise OSError(request.param, os.strerror(request.param))

    monkeypatch.setattr(fcntl, "flock", missing)
    monkeypatch.setattr(lock_module, "_HEARTBEAT", 0.05)
    monkeypatch.setattr(lock_module, "_EXPIRY", 1.0)


def of_another_machine(folder) -> None:
    """Makes a lease one of a process elsewhere, which nobody here can ask whether it lives."""
    marker = folder / ".lease"
    text = re.sub(r"host=.*", "host=another", marker.read_text())
    (folder / "other").write_text(text)
    (folder / "other").replace(marker)
    about = {"host": "another", "process": 7, "since": "2026-01-01T00:00:00+00:00"}
    (folder / HOLDER).write_text(json.dumps(about))


def test_a_lease_decides_where_there_are_no_locks(tmp_path, no_locks):
    first, second = FolderLock(tmp_path), FolderLock(tmp_path)
    first.acquire()
    with pytest.raises(UserError, match=f"by process {os.getpid()} on .*runtime.wait=130"):
        second.acquire()
    time.sleep(1.2)  # longer than an unrenewed lease
    with pytest.raises(UserError, match="is being written"):
        second.acquire()
    first.check()
    first.release()
    second.acquire()
    second.release()
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]


def test_who_waits_takes_over_what_a_killed_holder_elsewhere_left(tmp_path, no_locks):
    """filelock's fallback would leave a file that blocks other machines for good."""
    lost = FolderLock(tmp_path)
    lost.acquire()
    of_another_machine(tmp_path)
    with pytest.raises(UserError, match="by process 7 on another since 2026"):
        FolderLock(tmp_path).acquire()
    with FolderLock(tmp_path, wait=60) as lock:
        lock.check()
        assert json.loads((tmp_path / HOLDER).read_text())["process"] == os.getpid()

        # The process was only suspended: it notices, writes no more, and leaves the other's lock.
        def refuses() -> bool:
            try:
                lost.check()
            except UserError as error:
                return "was taken over by another process" in str(error)
            return False

        wait_until(refuses)
        lost.release()
        assert (tmp_path / HOLDER).exists() and (tmp_path / ".lease").exists()
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]
