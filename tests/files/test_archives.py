"""Archives that want more than to be unpacked, or cannot be."""

from __future__ import annotations

import io
import resource
import tarfile
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest

from pipeline.errors import UserError
from pipeline.files import archives
from pipeline.files.archives import UnusableArchive, unpack

FILES = {"VOC/JPEGImages/1.jpg": b"one" * 500, "VOC/lists/train.txt": b"1\n", "other.txt": b"x"}
KINDS = ("tar", "tgz", "zip")


def write(path, kind, files, special=()):
    """Writes an archive of files, and of members that are not files: (name, kind, link)."""
    if kind == "zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in files.items():
                archive.writestr(name, content)
            for name, is_kind, link in special:
                member = zipfile.ZipInfo(name)
                member.external_attr = (is_kind | 0o777) << 16
                archive.writestr(member, link)
        return path
    with tarfile.open(path, "w:gz" if kind == "tgz" else "w") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
        for name, is_kind, link in special:
            member = tarfile.TarInfo(name)
            member.type, member.linkname = is_kind, link
            archive.addfile(member)
    return path


@pytest.fixture
def target(tmp_path):
    return tmp_path / "target"


def contents(folder: Path):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def refused(archive, target, match, inside=""):
    """Checks that nothing is unpacked, neither into the target nor beside it."""
    before = {*archive.parent.rglob("*")}
    with pytest.raises(UnusableArchive, match=match) as caught:
        unpack(archive, target, inside)
    assert str(caught.value).isprintable()
    assert {*archive.parent.rglob("*")} == before and not target.exists()


@pytest.mark.parametrize("kind", KINDS)
def test_an_archive_is_unpacked(kind, tmp_path, target):
    archive = write(tmp_path / "a", kind, FILES)
    read = []
    assert unpack(archive, target, show=read.append) == 3
    assert contents(target) == FILES
    assert 0 < read[-1] <= archive.stat().st_size
    assert {*tmp_path.iterdir()} == {archive, target}


@pytest.mark.parametrize("kind", KINDS)
def test_one_folder_of_it_is_merged_into_what_is_there(kind, tmp_path, target):
    (target / "lists").mkdir(parents=True)
    (target / "lists" / "train.txt").write_text("old")
    (target / "lists" / "val.txt").write_text("kept")
    unpack(write(tmp_path / "a", kind, FILES), target, "VOC")
    assert contents(target) == {
        "JPEGImages/1.jpg": FILES["VOC/JPEGImages/1.jpg"],
        "lists/train.txt": b"1\n",
        "lists/val.txt": b"kept",
    }


def test_folders_may_lie_on_other_disks(tmp_path, target):
    (tmp_path / "large").mkdir()
    target.mkdir()
    (target / "JPEGImages").symlink_to(tmp_path / "large")
    unpack(write(tmp_path / "a", "tar", FILES), target, "VOC")
    assert (tmp_path / "large" / "1.jpg").is_file()


@pytest.mark.parametrize("name", ["../out.txt", "VOC/../../out.txt"])
def test_nothing_is_written_outside_the_folder(name, tmp_path, target):
    files = {**FILES, name: b"out"}
    refused(write(tmp_path / "a", "tar", files), target, r"damaged \(OutsideDestinationError\)")
    unpack(write(tmp_path / "a", "zip", files), target)
    assert not (tmp_path / "out.txt").exists() and contents(target).items() > FILES.items()


def test_a_link_in_a_tar_archive_leads_nowhere_else(tmp_path, target):
    archive = write(tmp_path / "a", "tar", FILES, [("VOC/link", tarfile.SYMTYPE, "/etc")])
    refused(archive, target, r"damaged \(AbsoluteLinkError\)")


def test_more_than_is_free_is_refused_before_the_disk_is_full(tmp_path, target, monkeypatch):
    archive = write(tmp_path / "a", "zip", FILES)
    monkeypatch.setattr(archives.shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    with pytest.raises(
        UserError, match=rf"a holds 1\.5 kB, and 1\.0 kB are free in {tmp_path}"
    ) as caught:
        unpack(archive, target)
    assert caught.type is UserError  # the archive is good, and stays
    assert {*tmp_path.iterdir()} == {archive}


@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_archive_is_named(kind, tmp_path, target):
    whole = write(tmp_path / "whole", kind, FILES).read_bytes()
    (tmp_path / "whole").unlink()
    archive = tmp_path / "a"
    for damaged in (b"", b"<html>503</html>", whole[: min(1000, len(whole) // 2)]):
        archive.write_bytes(damaged)
        refused(archive, target, "^a is damaged|^a contains no files")


def test_a_flipped_bit_of_a_zip_is_noticed(tmp_path, target):
    archive = tmp_path / "a"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_STORED) as file:
        file.writestr("1.jpg", b"one" * 500)
    content = bytearray(archive.read_bytes())
    content[700] ^= 1
    archive.write_bytes(content)
    refused(archive, target, r"a is damaged \(BadZipFile\)")


def test_an_archive_of_something_else_is_named(tmp_path, target):
    archive = write(tmp_path / "a", "tar", FILES)
    with pytest.raises(UnusableArchive, match="no files below COCO: download it"):
        unpack(archive, target, "COCO")
    assert not target.exists()


def test_a_disk_that_fills_up_leaves_nothing(tmp_path, target):
    archive = write(tmp_path / "a", "zip", {**FILES, "large": bytes(100_000)})
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, before[1]))
    try:
        with pytest.raises(UserError, match="cannot write .*File too large"):
            unpack(archive, target)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert {*tmp_path.iterdir()} == {archive}


def test_the_rest_of_a_killed_process_is_removed(tmp_path, target):
    archive = write(tmp_path / "a", "tar", FILES)
    (tmp_path / ".partial-a").mkdir()
    (tmp_path / ".partial-a" / "half.jpg").write_text("half")
    unpack(archive, target)
    assert contents(target) == FILES and {*tmp_path.iterdir()} == {archive, target}
