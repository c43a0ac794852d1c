"""Fingerprints of files, kept from run to run for photographs."""

from __future__ import annotations

import errno
import os
import time

import pytest

from pipeline.files.atomic import MENDABLE
from pipeline.files.fingerprints import FILE, fingerprint_cached, fingerprint_file, remember_in
from pipeline.files.journal import OF_FILES, Journal


@pytest.fixture(autouse=True)
def own_memory():
    yield
    remember_in(None)


@pytest.fixture
def path(tmp_path):
    """A photograph that was written a minute ago."""
    path = tmp_path / "a b.jpg"
    path.write_bytes(b"one")
    settle(path)
    return path


def settle(path, seconds=60):
    past = time.time() - seconds
    os.utime(path, (past, past))


def not_read(monkeypatch):
    read = "pipeline.files.fingerprints.fingerprint_file"
    monkeypatch.setattr(read, lambda _: pytest.fail("it was read"))


def test_a_known_photograph_is_not_read_again_until_it_changes(path, tmp_path, monkeypatch):
    remember_in(tmp_path)
    first = fingerprint_cached(path)
    assert first == fingerprint_file(path)

    remember_in(tmp_path)  # the next run
    with monkeypatch.context() as patched:
        not_read(patched)
        assert fingerprint_cached(path) == first
    path.write_bytes(b"two")
    assert fingerprint_cached(path) != first
    path.write_bytes(b"one")
    assert fingerprint_cached(path) == first


def test_size_and_time_hide_no_change(path, tmp_path, monkeypatch):
    """As of a file that was copied with its time over another one."""
    remember_in(tmp_path)
    first, status = fingerprint_cached(path), path.stat()
    other = tmp_path / "other.jpg"
    # A file system whose clock has not moved since tells them apart by nothing.
    while True:
        other.write_bytes(b"two")
        os.utime(other, ns=(status.st_atime_ns, status.st_mtime_ns))
        if other.stat().st_ctime_ns != status.st_ctime_ns:
            break
    other.rename(path)
    assert path.stat().st_mtime_ns == status.st_mtime_ns
    remember_in(tmp_path)
    assert fingerprint_cached(path) != first


def test_other_files_are_read_every_time(path, tmp_path, monkeypatch):
    remember_in(tmp_path)
    first, status = fingerprint_file(path), path.stat()
    path.write_bytes(b"two")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert fingerprint_file(path) != first
    assert not (tmp_path / FILE).exists()


def test_a_file_as_young_as_its_entry_is_not_trusted(tmp_path, monkeypatch):
    """It may change again within the resolution of the file system's clock."""
    path = tmp_path / "a.jpg"
    path.write_bytes(b"one")
    remember_in(tmp_path)
    first = fingerprint_cached(path)
    monkeypatch.setattr("pipeline.files.fingerprints.fingerprint_file", lambda _: "read again")
    remember_in(tmp_path)
    assert fingerprint_cached(path) == "read again" != first


@pytest.mark.parametrize("hours", [-5, 5])
def test_only_the_clock_of_the_file_system_counts(hours, path, tmp_path, monkeypatch):
    """This machine's may differ from a file server's: by hours, where a time zone is wrong."""
    now = time.time_ns()
    monkeypatch.setattr(time, "time_ns", lambda: now + hours * 3600 * 10**9)
    young = tmp_path / "young.jpg"
    young.write_bytes(b"one")
    remember_in(tmp_path)
    first = fingerprint_cached(path)
    fingerprint_cached(young)
    remember_in(tmp_path)
    monkeypatch.setattr("pipeline.files.fingerprints.fingerprint_file", lambda _: "read again")
    assert fingerprint_cached(path) == first
    assert fingerprint_cached(young) == "read again"


def test_a_file_server_has_a_clock_of_its_own(path, tmp_path, monkeypatch):
    """An hour behind this machine, it writes a file and then an entry at the same time."""
    settle(path, 3600)
    remember_in(tmp_path)
    touch = type(path).touch
    monkeypatch.setattr(
        type(path), "touch", lambda self: touch(self) or settle(self, 3599) if self != path else 0
    )
    fingerprint_cached(path)
    (entry,) = Journal(tmp_path / FILE, OF_FILES).entries.values()
    assert entry["read"] < time.time_ns() - 3500 * 10**9
    monkeypatch.setattr("pipeline.files.fingerprints.fingerprint_file", lambda _: "read again")
    remember_in(tmp_path)
    assert fingerprint_cached(path) == "read again"


def test_a_dry_run_remembers_and_writes_nothing(path, tmp_path, monkeypatch):
    remember_in(tmp_path, write=False)
    first = fingerprint_cached(path)
    not_read(monkeypatch)
    assert fingerprint_cached(path) == first
    assert not (tmp_path / FILE).exists()


def size_of_journal(folder):
    return sum(len(file.read_bytes().splitlines()) for file in folder.glob(".fingerprints.*"))


def test_the_journal_does_not_grow_for_ever(path, tmp_path, monkeypatch):
    """Neither by a photograph that changes, nor by new ones that are removed; others stay known."""
    monkeypatch.setattr("pipeline.files.journal._SMALL", 300, raising=False)
    other = tmp_path / "other selection.jpg"
    other.write_bytes(b"other")
    settle(other)
    remember_in(tmp_path)
    fingerprint_cached(other)
    for k in range(60):
        daily = tmp_path / f"{k}.jpg"
        for each in (path, daily):
            each.write_bytes(b"%d" % k)
            settle(each)
        remember_in(tmp_path)
        known = [fingerprint_cached(each) for each in (path, daily)]
        daily.unlink()
    assert size_of_journal(tmp_path) < 30
    not_read(monkeypatch)
    remember_in(tmp_path)
    assert fingerprint_cached(path) == known[0] and fingerprint_cached(other)


def test_a_run_beside_one_that_tidies_loses_nothing(path, tmp_path, monkeypatch):
    monkeypatch.setattr("pipeline.files.journal._SMALL", 0, raising=False)
    remember_in(tmp_path)
    first, beside = fingerprint_cached(path), Journal(tmp_path / FILE, OF_FILES)
    beside.append({"id": "gone", "content": "1"})
    remember_in(tmp_path)
    beside.append({"id": "late", "content": "2"})
    found = Journal(tmp_path / FILE, OF_FILES).entries
    assert found["late"]["content"] == "2" and found[str(path)]["content"] == first
    beside.close()


def test_a_dry_run_tidies_nothing(path, tmp_path, monkeypatch):
    monkeypatch.setattr("pipeline.files.journal._SMALL", 0, raising=False)
    remember_in(tmp_path)
    fingerprint_cached(path)
    before = {file: file.read_bytes() for file in tmp_path.iterdir()}
    remember_in(tmp_path, write=False)
    assert {file: file.read_bytes() for file in tmp_path.iterdir()} == before


def test_without_a_journal_files_are_read_again(path, tmp_path):
    (tmp_path / FILE).write_text('{"id": "x", "content": "y"}\nnonsense\n')
    remember_in(tmp_path)
    first = fingerprint_cached(path)
    (tmp_path / FILE).write_bytes((tmp_path / FILE).read_bytes()[:-9])
    remember_in(tmp_path)
    assert fingerprint_cached(path) == first
    (tmp_path / FILE).unlink()
    (tmp_path / FILE).mkdir()
    remember_in(tmp_path)
    assert fingerprint_cached(path) == first


def test_what_is_not_a_file_is_an_error(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for name in ("pipe", "missing", "."):
        with pytest.raises(OSError) as caught:
            fingerprint_file(tmp_path / name)
        assert name != "pipe" or caught.value.errno in MENDABLE


def test_memory_of_another_user_is_not_a_photographs_fault(path, tmp_path, monkeypatch):
    (tmp_path / FILE).write_text("theirs")

    def refuse(journal, *_):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(journal))

    with monkeypatch.context() as patched:  # root may read everything
        patched.setattr("pipeline.files.journal.read_entries", refuse)
        remember_in(tmp_path)
        assert fingerprint_cached(path) == fingerprint_file(path)
