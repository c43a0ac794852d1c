"""No tool replaces a file that it did not write."""

from __future__ import annotations

import os
import platform
import subprocess

import pytest

from pipeline.errors import UserError
from pipeline.files.own_files import RECORD, OwnFiles, computed_files


def test_what_a_tool_wrote_may_be_written_again(tmp_path):
    for content in ("first", "second", "first"):
        OwnFiles(tmp_path / "out", "one.py").write(tmp_path / "out/sub/a.txt", content)
    assert (tmp_path / "out/sub/a.txt").read_text() == "first"
    assert len((tmp_path / "out" / RECORD).read_text().splitlines()) == 2
    path = tmp_path / "out/sub/a.txt"
    for computed in ("labels", ""):  # the newest record of a content counts
        OwnFiles(tmp_path / "out", "one.py").write(path, "first", computed=computed)
        for content, read in (("first", ""), ("saved again", "labels"), ("changed", "others")):
            path.write_text(content)
            found = computed_files(path.parent, [path], lambda _, read=read: read)
            assert bool(found) == (bool(computed) and read != "others")
        path.write_text("first")
    moved = (tmp_path / "out").rename(tmp_path / "moved")
    OwnFiles(moved, "one.py").write(moved / "sub/a.txt", "third")


def test_the_record_does_not_grow_for_ever(tmp_path, monkeypatch):
    """Of a file that is written again and again, and of others that were removed since."""
    monkeypatch.setattr("pipeline.files.journal._SMALL", 300, raising=False)
    OwnFiles(tmp_path, "two.py").write(tmp_path / "theirs", "of the other tool")
    for k in range(60):
        own = OwnFiles(tmp_path, "one.py")
        own.write(tmp_path / "a", f"{k}")
        own.link(tmp_path / "b", tmp_path / f"{k % 7}")
        own.write(tmp_path / f"{k}.txt", "for a day")
        (tmp_path / f"{k}.txt").unlink()
    assert sum(len(file.read_bytes().splitlines()) for file in tmp_path.glob(".written.*")) < 40
    own.write(tmp_path / "a", "again")
    own.link(tmp_path / "b", tmp_path / "again")
    OwnFiles(tmp_path, "two.py").write(tmp_path / "theirs", "again")


def test_a_tool_beside_one_that_tidies_knows_its_files(tmp_path, monkeypatch):
    monkeypatch.setattr("pipeline.files.journal._SMALL", 0, raising=False)
    beside = OwnFiles(tmp_path, "one.py")
    beside.write(tmp_path / "early", "early")
    OwnFiles(tmp_path, "two.py").write(tmp_path / "b", "b")  # tidies
    beside.write(tmp_path / "late", "late")
    for name in ("early", "late"):
        OwnFiles(tmp_path, "one.py").refuse_foreign([tmp_path / name])


@pytest.mark.parametrize("state", ["foreign", "changed", "of another tool", "folder", "link"])
def test_other_files_stay(tmp_path, state):
    path, others = tmp_path / "a.txt", tmp_path / "theirs"
    others.write_text("theirs")
    if state == "foreign":
        path.write_text("theirs")
    elif state == "folder":
        path.mkdir()
    elif state == "link":
        path.symlink_to(others)
    else:
        OwnFiles(tmp_path, "two.py" if "another" in state else "one.py").write(path, "theirs")
        if state == "changed":
            path.write_text("theirs, corrected by hand")
    before = path.is_dir() or path.read_text()
    own = OwnFiles(tmp_path, "one.py")
    for act in (
        lambda: own.write(path, "ours"),
        lambda: own.link(path, others),
        lambda: own.refuse_foreign([path]),
    ):
        with pytest.raises(UserError, match=r"a\.txt exists, .* did not write"):
            act()
    assert (path.is_dir() or path.read_text()) == before and others.read_text() == "theirs"


def test_a_link_of_the_tool_may_be_replaced(tmp_path):
    (tmp_path / "photograph").write_text("photograph")
    own = OwnFiles(tmp_path, "one.py")
    own.link(tmp_path / "a", tmp_path / "photograph")
    own.write(tmp_path / "a", "copied")
    assert (tmp_path / "photograph").read_text() == "photograph"
    assert (tmp_path / "a").read_text() == "copied" and not (tmp_path / "a").is_symlink()


def test_a_run_that_was_killed_knows_its_files(tmp_path, monkeypatch):
    def die(path, data):
        path.write_bytes(data)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("pipeline.files.own_files.write_atomically", die)
        OwnFiles(tmp_path, "one.py").write(tmp_path / "a", "ours")
    OwnFiles(tmp_path, "one.py").write(tmp_path / "a", "ours again")


def test_halves_of_files_of_killed_processes_are_removed(tmp_path):
    killed = subprocess.Popen(["true"])
    killed.wait()
    stale = [f".partial-{killed.pid}-{platform.node()}-0123abcd", ".partial-7-another-0123abcd"]
    others = [f".partial-{os.getpid()}-{platform.node()}-0123abcd", ".partial-of-a-person"]
    for folder in (tmp_path, tmp_path / "sub", tmp_path / "theirs"):
        folder.mkdir(exist_ok=True)
        for name in (*stale, *others):
            (folder / name).write_text("half")
            os.utime(folder / name, (0, 0))
    own = OwnFiles(tmp_path, "one.py")
    own.write(tmp_path / "a", "ours")
    own.link(tmp_path / "sub" / "b", tmp_path / "a")
    for folder in (tmp_path, tmp_path / "sub"):
        assert {path.name for path in folder.glob(".partial-*")} == {*others}
    assert len([*(tmp_path / "theirs").iterdir()]) == 4, "nothing is written there"
