"""Archives that want more than to be unpacked, or cannot be."""

from __future__ import annotations

import gzip
import io
import resource
import stat
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


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["../out.txt", "VOC/../../out.txt", "/tmp/out.txt", "VOC\\..\\x"])
def test_a_path_that_leads_outside_is_refused(name, kind, tmp_path, target):
    archive = write(tmp_path / "a", kind, {**FILES, name: b"out"})
    refused(archive, target, "a path that leads outside: do not use this archive")


@pytest.mark.parametrize(
    "kind, special",
    [
        *[
            ("tar", k)
            for k in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.BLKTYPE)
        ],
        ("tgz", tarfile.SYMTYPE),
        *[("zip", k) for k in (stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR, stat.S_IFSOCK)],
    ],
)
def test_links_and_devices_are_refused(kind, special, tmp_path, target):
    # A file whose name begins with that of a link would be written behind the link.
    archive = write(tmp_path / "a", kind, FILES, [("VOC/link", special, "/etc")])
    refused(archive, target, "VOC/link, a link or a device: do not use this archive")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", [".download/1.zip.done", "VOC/a/.Download/x", ".download"])
def test_an_archive_cannot_say_that_others_were_unpacked(name, kind, tmp_path, target):
    archive = write(tmp_path / "a", kind, {**FILES, name: b"forged"})
    refused(archive, target, f"a holds {name}, a path in .download, which is reserved")


# More than an archive seems to hold

HUGE = 1 << 30
TOO_MUCH = r"a holds more than 1\.\d MB, too much for its size"


def header(name, kind=tarfile.REGTYPE, size=0, real_size=None):
    """Returns a header of GNU's tar, in which sizes may have any value of 88 bits."""
    block = bytearray(tarfile.TarInfo(name).tobuf(tarfile.GNU_FORMAT))
    block[156:157] = kind
    block[124:136] = (
        b"\x80" + size.to_bytes(11) if size >= 0 else b"\xff" + (256**11 + size).to_bytes(11)
    )
    if real_size is not None:  # of an old sparse file, without a piece that holds data
        block[483:495] = b"%011o\0" % real_size
    block[148:156] = b"%06o\0 " % (sum(block[:148]) + 8 * ord(" ") + sum(block[156:]))
    return bytes(block)


def test_a_sparse_file_is_refused(tmp_path, target):
    (tmp_path / "old").write_bytes(header("1", tarfile.GNUTYPE_SPARSE, 0, HUGE) + bytes(1024))
    member = tarfile.TarInfo("1")
    member.size = 512
    member.pax_headers = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0"}
    member.pax_headers |= {"GNU.sparse.name": "1", "GNU.sparse.realsize": str(HUGE)}
    with tarfile.open(tmp_path / "new", "w", format=tarfile.PAX_FORMAT) as archive:
        archive.addfile(member, io.BytesIO(b"0\n".ljust(512, b"\0")))
    for name in ("old", "new"):
        refused(tmp_path / name, target, f"{name} holds 1, a sparse file: do not use this archive")


@pytest.mark.parametrize("inside", ["", "VOC"])
@pytest.mark.parametrize("kind", ["tgz", "zip"])
def test_an_archive_that_becomes_much_larger_is_refused_while_it_is_unpacked(
    kind, inside, tmp_path, target, monkeypatch
):
    seek, reached = gzip.GzipFile.seek, []

    def note(file, position, whence=io.SEEK_SET):
        reached.append(position)
        return seek(file, position, whence)

    monkeypatch.setattr(gzip.GzipFile, "seek", note)
    archive = write(tmp_path / "a", kind, {**FILES, "large": bytes(30 << 20)})
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2 << 20, before[1]))  # else the disk would be full
    try:
        refused(archive, target, TOO_MUCH, inside)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert max(reached, default=0) < 2 << 20, "what is skipped is not decompressed either"


def test_any_number_of_empty_files_is_refused(tmp_path, target):
    archive = tmp_path / "a"
    archive.write_bytes(gzip.compress(header("1") * 40_000))
    refused(archive, target, TOO_MUCH)


def test_more_than_is_free_is_refused_before_the_disk_is_full(tmp_path, target, monkeypatch):
    archive = write(tmp_path / "a", "zip", FILES)
    monkeypatch.setattr(archives.shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    with pytest.raises(UserError, match=rf"more than 1\.0 kB.* disk of {tmp_path}") as caught:
        unpack(archive, target)
    assert caught.type is UserError  # the archive is good, and stays
    assert {*tmp_path.iterdir()} == {archive}


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME])
@pytest.mark.parametrize("size", [-512, HUGE, 1 << 62])
def test_a_header_that_claims_any_length_takes_no_memory(size, kind, tmp_path, target):
    archive = tmp_path / "a"
    archive.write_bytes(header("1") + header("2", kind, size) + bytes(1024))
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (16 << 30, before[1]))
    try:
        refused(archive, target, "a is damaged")
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def test_a_damaged_header_is_not_the_end(tmp_path, target):
    archive = tmp_path / "a"
    archive.write_bytes(header("1") + header("2").replace(b"2", b"3", 1) + bytes(1024))
    refused(archive, target, "a is damaged")


def test_a_member_that_leads_back_to_itself_is_refused(tmp_path, target):
    archive = tmp_path / "a"
    archive.write_bytes(header("1") + header("2", size=-512) + bytes(1024))
    refused(archive, target, "a is damaged")


@pytest.mark.parametrize("compression", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_compressions_without_bounds_are_refused(compression, tmp_path, target):
    with zipfile.ZipFile(tmp_path / "a", "w", compression) as archive:
        archive.writestr("1.jpg", b"one")
    refused(tmp_path / "a", target, r"a is damaged \(NotImplementedError\)")


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_of_a_member_but_its_bytes_is_used(kind, tmp_path, target):
    if kind == "zip":
        archive = write(tmp_path / "a", kind, {}, [("run", stat.S_IFREG | stat.S_ISUID, "x")])
    else:
        archive = tmp_path / "a"
        with tarfile.open(archive, "w") as file:
            member = tarfile.TarInfo("run")
            member.mode, member.mtime = 0o4777, 0
            file.addfile(member)
    unpack(archive, target)
    assert not (target / "run").stat().st_mode & (stat.S_ISUID | stat.S_IXUSR)


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


def test_an_offset_before_the_archive_and_a_member_without_a_name_are_damage(tmp_path, target):
    content = bytearray(write(tmp_path / "whole", "zip", FILES).read_bytes())
    (tmp_path / "whole").unlink()
    end = content.index(b"PK\x05\x06")
    content[end + 16 : end + 20] = (10**6).to_bytes(4, "little")  # where the directory begins
    archive = tmp_path / "a"
    archive.write_bytes(content)
    refused(archive, target, r"^a is damaged \(OSError\): download it again")
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr(zipfile.ZipInfo("\0"), b"one")
    refused(archive, target, "^a is damaged|^a holds , a path that leads outside")


def test_an_archive_of_something_else_is_named(tmp_path, target):
    archive = write(tmp_path / "a", "tar", FILES)
    with pytest.raises(UnusableArchive, match="a contains no files below COCO: download it again"):
        unpack(archive, target, "COCO")
    assert not target.exists()


def test_a_disk_that_fills_up_leaves_nothing(tmp_path, target):
    archive = write(tmp_path / "a", "zip", {**FILES, "large": bytes(100_000)})
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, before[1]))
    try:
        with pytest.raises(UserError, match="cannot write .*target: File too large"):
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
