"""The cache: keys, journals, locks, damage."""

from __future__ import annotations

import errno
import json
import os
import platform
import subprocess

import numpy as np
import pytest

from pipeline.engine.store import Store
from pipeline.errors import UserError
from pipeline.files.atomic import write_atomically
from pipeline.files.fingerprints import fingerprint_cached, remember_in
from tests.results import open_writer, write


@pytest.fixture
def store(tmp_path) -> Store:
    return Store(tmp_path)


def reopen(store: Store, configuration=None):
    return open_writer(store, "val", "masks", configuration or {"a": 1})


def test_what_was_written_is_done_until_input_or_file_change(store):
    with reopen(store) as folder:
        write(folder, "a/b c", {"photograph": "in1"}, {"a/b c.png": b"bytes"})
        folder.finish(["a/b c"])
    folder = reopen(store)
    assert any(folder.results.candidates("a/b c", {"photograph": "in1"}))
    assert not any(folder.results.candidates("a/b c", {"photograph": "in2"}))
    assert not any(folder.results.candidates("other", {"photograph": "in1"}))
    (folder.path / "a/b c.png").write_bytes(b"byte")
    assert not any(folder.results.candidates("a/b c", {"photograph": "in1"}))
    (folder.path / "a/b c.png").unlink()
    assert not any(folder.results.candidates("a/b c", {"photograph": "in1"}))


def test_a_torn_line_and_stale_temporaries_are_passed_over(store):
    with reopen(store) as folder:
        write(folder, "a", {"photograph": "1"}, {"a.png": b"x"})
        write(folder, "b", {"photograph": "1"}, {"b.png": b"y"})
    journal = folder.path / "entries.jsonl"
    journal.write_text(journal.read_text()[:-10])
    (folder.path / ".partial-xyz").write_bytes(b"half a file")
    with reopen(store) as folder:
        assert any(folder.results.candidates("a", {"photograph": "1"})) and not any(
            folder.results.candidates("b", {"photograph": "1"})
        )
        assert not list(folder.path.glob(".partial-*"))
        write(folder, "b", {"photograph": "1"}, {"b.png": b"y"})
        folder.finish(["a", "b"])
    assert [json.loads(line)["id"] for line in journal.read_text().splitlines()] == ["a", "b"]


def test_the_result_does_not_depend_on_the_order_or_on_interruptions(store, tmp_path):
    with reopen(store) as folder:
        for name in "bca":
            write(folder, name, {"photograph": "1"}, {f"{name}.png": name.encode()})
        folder.finish(["a", "b", "c"])
    other = Store(tmp_path / "other")
    with reopen(other) as first:
        write(first, "a", {"photograph": "1"}, {"a.png": b"a"})
    with reopen(other) as second:
        write(second, "b", {"photograph": "1"}, {"b.png": b"b"})
        write(second, "c", {"photograph": "1"}, {"c.png": b"c"})
        second.finish(["a", "b", "c"])
    journals = [(f.path / "entries.jsonl").read_bytes() for f in (folder, second)]
    assert journals[0] == journals[1]


def test_failures_are_listed_until_they_are_mended(store):
    with reopen(store) as folder:
        folder.fail("broken", "cannot be decoded")
        folder.finish(["broken"])
    assert reopen(store).results.failures == {"broken": "cannot be decoded"}
    with reopen(store) as folder:
        write(folder, "broken", {"photograph": "2"}, {"broken.png": b"now fine"})
        folder.finish(["broken"])
    assert not (folder.path / "failures.jsonl").exists()


def test_one_writer_at_a_time(store):
    with reopen(store) as folder:
        with pytest.raises(UserError, match="is being written by process"), reopen(store):
            pass
        folder.finish([])
    with reopen(store):
        pass


def test_latest_points_to_the_newest_complete_key(store):
    for value in (1, 2):
        with reopen(store, {"a": value}) as folder:
            folder.finish([])
        assert (folder.path.parent / "latest").resolve() == folder.path
    with reopen(store, {"a": 3}) as unfinished:
        pass
    assert (unfinished.path.parent / "latest").resolve() == folder.path
    complete = [manifest["key"] for _, manifest in store.folders() if manifest.get("complete")]
    assert complete.count(folder.results.key) == 1 and len(complete) == 2


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.txt"
    write_atomically(path, "old")
    with pytest.raises(TypeError):
        write_atomically(path, object())
    assert path.read_text() == "old"
    blocked = tmp_path / "a.txt" / "b.txt"
    with pytest.raises(UserError, match="cannot write"):
        write_atomically(blocked, "x")


def test_a_damaged_array_is_put_aside_and_made_again(tmp_path, capsys):
    """Whatever its damage: a flipped bit of a value, a torn end, the array of another key."""
    store, path = Store(tmp_path), tmp_path / "text" / "k.npz"
    values = np.arange(3.0)
    store.array("k", lambda: values)
    store.array("other", lambda: np.ones(3))
    whole = path.read_bytes()
    at = whole.index(values.tobytes()) + 9
    flipped = whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :]
    for damage in (flipped, whole[:-5], path.with_name("other.npz").read_bytes(), b""):
        path.write_bytes(damage)
        assert store.array("k", lambda: values).tolist() == [0, 1, 2]
        assert path.read_bytes() == whole
        assert path.with_suffix(".damaged").read_bytes() == damage
        assert "k.npz is damaged" in capsys.readouterr().err
    store.array("k", lambda: pytest.fail("it is whole"))


def test_halves_of_files_are_removed_when_their_process_has_ended(store, tmp_path):
    other = subprocess.Popen(["true"])
    other.wait()
    name = f"{platform.node()}-0123abcd"
    stale = tmp_path / f".partial-{other.pid}-{name}"
    used = tmp_path / f".partial-{os.getpid()}-{name}"
    of_another_machine = tmp_path / ".partial-7-another-0123abcd"
    of_an_earlier_version = tmp_path / ".partial-xyz"
    every = (stale, used, of_another_machine, of_an_earlier_version)
    for path in every:
        path.write_bytes(b"half a file")
    store.begin()
    assert [path.exists() for path in every] == [False, True, True, True]
    for path in every[1:]:
        os.utime(path, (0, 0))
    store.begin()
    assert [path.exists() for path in every] == [False, True, False, False]


@pytest.mark.parametrize("umask", [0o002, 0o027])
def test_every_file_of_a_folder_follows_the_umask(umask, tmp_path):
    """So that with 002 and setgid folders, another member of the group can go on."""
    before = os.umask(umask)
    try:
        store = Store(tmp_path / "out")
        store.begin()
        remember_in(store.root)
        (tmp_path / "photograph").write_bytes(b"x")
        fingerprint_cached(tmp_path / "photograph")
        with open_writer(store, "all", "tags", {}) as folder:
            write(folder, "a", {"photograph": "1"}, {"a.png": b"x"})
            folder.fail("b", "damaged")
            folder.finish(["a", "b"])
            found = {p: p.lstat().st_mode & 0o777 for p in store.root.rglob("*")}
    finally:
        remember_in(None)
        os.umask(before)
    assert {".fingerprints.jsonl", ".lock", "entries.jsonl"} <= {p.name for p in found}
    for path, mode in found.items():
        expected = 0o777 if path.is_dir() else 0o666
        assert path.is_symlink() or mode == expected & ~umask, path


def test_ids_that_a_disk_takes_for_one_are_refused(store, tmp_path):
    """On such a disk ``store.json`` is there under any case."""
    ids = ["a", "b", "sub/A", "A"]
    store.begin()
    store.refuse_equal_names(ids)
    (tmp_path / "STORE.JSON").touch()
    with pytest.raises(UserError, match="images a and A .* rename"):
        store.refuse_equal_names(ids)
    with pytest.raises(UserError, match="have one name"):
        store.refuse_equal_names(["\u00e9", "E\u0301"])
    store.refuse_equal_names(["a", "b", "sub/a", "a"])


@pytest.mark.parametrize("number", [errno.EPERM, errno.ENOSYS])
def test_a_disk_without_symbolic_links_is_refused_at_once(store, tmp_path, monkeypatch, number):
    def refuse(*_, **__):
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patched:
        patched.setattr(os, "symlink", refuse)
        refused = "store.json: the file system of this folder does not support symbolic links"
        with pytest.raises(UserError, match=refused):
            store.begin()
    assert not list(tmp_path.iterdir())
    store.begin()
    monkeypatch.setattr(os, "symlink", refuse)
    with reopen(store) as folder, pytest.raises(UserError, match="does not support symbolic links"):
        folder.finish([])


def test_a_folder_that_cannot_be_read_does_not_seem_empty(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may read everything
    with pytest.raises(UserError, match="ask its owner, or .* output_"):
        Store(tmp_path)
