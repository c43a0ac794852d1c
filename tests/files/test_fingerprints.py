"""Fingerprints of files, kept from run to run."""

from __future__ import annotations

import os
import time

import pytest

from pipeline.files.fingerprints import FILE, fingerprint_file, remember_in


@pytest.fixture(autouse=True)
def own_memory():
    yield
    remember_in(None)


def settle(path):
    """Makes a file look as if it was written a minute ago."""
    past = time.time() - 60
    os.utime(path, (past, past))


def test_a_known_file_is_not_read_again_until_it_changes(tmp_path, monkeypatch):
    path = tmp_path / "a b.jpg"
    path.write_bytes(b"one")
    settle(path)
    remember_in(tmp_path)
    first = fingerprint_file(path)

    remember_in(tmp_path)  # the next run
    with monkeypatch.context() as patched:
        patched.setattr("hashlib.file_digest", lambda *_: pytest.fail("it was read"))
        assert fingerprint_file(path) == first
    path.write_bytes(b"two")
    assert fingerprint_file(path) != first
    path.write_bytes(b"one")
    assert fingerprint_file(path) == first


def test_a_file_that_was_just_written_is_not_trusted(tmp_path):
    """It may change again within the resolution of the file system's clock."""
    path = tmp_path / "a.jpg"
    path.write_bytes(b"one")
    remember_in(tmp_path)
    first = fingerprint_file(path)
    assert not (tmp_path / FILE).exists()
    written = path.stat().st_mtime_ns
    path.write_bytes(b"two")
    os.utime(path, ns=(written, written))
    assert fingerprint_file(path) != first


def test_without_a_journal_files_are_read_again(tmp_path):
    path = tmp_path / "a.jpg"
    path.write_bytes(b"one")
    settle(path)
    (tmp_path / FILE).write_text('{"id": "x", "input": "y"}\nnonsense\n')
    remember_in(tmp_path)
    first = fingerprint_file(path)
    (tmp_path / FILE).write_bytes((tmp_path / FILE).read_bytes()[:-9])
    remember_in(tmp_path)
    assert fingerprint_file(path) == first
    (tmp_path / FILE).unlink()
    (tmp_path / FILE).mkdir()
    remember_in(tmp_path)
    assert fingerprint_file(path) == first
