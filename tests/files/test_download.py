"""Downloads that break off, servers that lie, disks that are full: what happens, what is kept."""

from __future__ import annotations

import hashlib
import os
import resource
import socket
from pathlib import Path
from types import SimpleNamespace

import pytest

from pipeline.errors import UserError
from pipeline.files import download
from pipeline.files.download import STATE, Source, fetch, kept_bytes, size_text
from tests.files.server import Answer

CONTENT = bytes(range(256)) * 40
MD5 = hashlib.md5(CONTENT).hexdigest()
SHA256 = hashlib.sha256(CONTENT).hexdigest()
SIZE = len(CONTENT)
HALF = SIZE // 2


@pytest.fixture
def web(server, tmp_path):
    """Serves ``file.tar``, which is to become ``path``."""
    server.files["file.tar"] = CONTENT
    path = tmp_path / STATE / "file.tar"  # where archives are; others become what lies beside it
    return SimpleNamespace(server=server, path=path, url=server.url("file.tar"))


def source_of(web, size=SIZE, algorithm="sha256", digest=SHA256, urls=()):
    """A source whose checksum is published."""
    return Source("file.tar", urls or (web.url,), size, algorithm, digest)


def unknown(web):
    """A source of which nothing is published."""
    return source_of(web, None, "", "")


def is_intact(web):
    return web.path.read_bytes() == CONTENT and [*web.path.parent.iterdir()] == [web.path]


def refused(web, source, match):
    with pytest.raises(UserError, match=match) as caught:
        fetch(source, web.path)
    assert str(caught.value).isprintable()
    assert not web.path.exists()
    return str(caught.value)


@pytest.mark.parametrize("size", [None, SIZE])
@pytest.mark.parametrize(
    "algorithm, digest", [("", ""), ("md5", MD5), ("sha256", SHA256), ("sha256", SHA256[:8])]
)
def test_a_whole_file_appears(size, algorithm, digest, web):
    seen = []
    fetch(source_of(web, size, algorithm, digest), web.path, lambda *each: seen.append(each))
    assert is_intact(web)
    assert seen[0] == (0, SIZE) and seen[-1] == (SIZE, SIZE)


# Breaks


def test_a_break_is_resumed_at_once_where_it_was(web):
    web.server.plan["file.tar"] = [Answer(stop_after=HALF), Answer(stop_after=100)]
    fetch(source_of(web), web.path)
    assert is_intact(web)
    assert web.server.ranges == [None, f"bytes={HALF}-", f"bytes={HALF + 100}-"]


@pytest.mark.parametrize("size", [None, SIZE])
def test_a_later_call_starts_over_without_a_checksum(size, web):
    source = source_of(web, size, "", "")
    web.server.usual = Answer(stop_after=HALF)
    message = refused(web, source, f"broke off after {size_text(HALF)}")
    assert "run the same command to try again" in message and not [*web.path.parent.iterdir()]
    web.path.with_name("file.tar.partial").write_bytes(b"x" * HALF)  # of a process that was killed
    web.server.usual = Answer()
    fetch(source, web.path)
    assert is_intact(web) and {*web.server.ranges} == {None}


def break_off(web, source):
    """Ends a download in the middle, and returns what it says."""
    web.server.plan["file.tar"] = [Answer(stop_after=HALF), Answer(503), Answer(503)]
    message = refused(web, source, "answers 503")
    assert kept_bytes(web.path) == HALF
    web.server.plan.clear()
    web.server.requests.clear()
    return message


def test_a_later_call_resumes_what_an_earlier_one_left(web):
    message = break_off(web, source_of(web))
    assert f"run the same command to continue after {size_text(HALF)}" in message
    fetch(source_of(web), web.path)
    assert is_intact(web) and web.server.ranges == [f"bytes={HALF}-"]


def test_another_address_goes_on(web):
    web.server.files["mirror/file.tar"] = CONTENT
    web.server.plan["file.tar"] = [Answer(stop_after=HALF), Answer(404)]
    fetch(source_of(web, urls=(web.url, web.server.url("mirror/file.tar"))), web.path)
    assert is_intact(web) and web.server.requests[-1] == ("mirror/file.tar", f"bytes={HALF}-")


def test_another_address_replaces_a_wrong_file(web):
    web.server.files |= {"file.tar": CONTENT[::-1], "mirror/file.tar": CONTENT}
    fetch(source_of(web, urls=(web.url, web.server.url("mirror/file.tar"))), web.path)
    assert is_intact(web) and web.server.ranges == [None, None]


def test_a_server_without_ranges_sends_everything_again(web):
    break_off(web, source_of(web))
    web.server.usual = Answer(ranges=False)
    fetch(source_of(web), web.path)
    assert is_intact(web)


def test_a_server_that_always_breaks_off_at_one_place_is_given_up(web):
    web.server.usual = Answer(stop_after=HALF, ranges=False)
    refused(web, source_of(web), rf"broke off after {size_text(HALF)}.*store it as {web.path}")
    assert kept_bytes(web.path) == HALF and len(web.server.requests) == 2


@pytest.mark.parametrize("size, match", [(None, "answers 416"), (SIZE, "and it was deleted")])
def test_too_much_that_was_kept_is_dropped(size, match, web):
    """As of another version of the file: the next call starts over."""
    web.path.parent.mkdir()
    web.path.with_name("file.tar.partial").write_bytes(CONTENT + b"more")
    assert "the same command to try again" in refused(web, source_of(web, size), match)
    fetch(source_of(web, size), web.path)
    assert is_intact(web)


def test_all_that_was_kept_is_not_asked_for_again(web):
    web.path.parent.mkdir()
    web.path.with_name("file.tar.partial").write_bytes(CONTENT)
    fetch(source_of(web), web.path)
    assert is_intact(web) and not web.server.requests


def test_a_file_that_changed_since_is_deleted_and_fetched_again(web):
    web.server.files["file.tar"] = CONTENT[::-1]
    break_off(web, source_of(web))
    web.server.files["file.tar"] = CONTENT
    refused(web, source_of(web), "does not give the published file .*it was deleted.*to try again")
    fetch(source_of(web), web.path)
    assert is_intact(web) and web.server.ranges[-1] is None


# Lies


def test_less_than_was_announced_is_not_a_file(web):
    web.server.usual = Answer(announced=SIZE + 50)
    refused(web, unknown(web), "broke off after")
    assert not [*web.path.parent.iterdir()]


@pytest.mark.parametrize(
    "answer, match",
    [
        (Answer(204), r"answers 204 \(No Content\)"),
        (Answer(framing="close"), "does not state the size"),
        (Answer(framing="close", stop_after=HALF), "does not state the size"),
        (Answer(framing="chunked", stop_after=HALF), "broke off after"),
    ],
)
def test_an_answer_that_may_be_another_file_or_half_of_it_is_refused(answer, match, web):
    web.server.usual = answer
    refused(web, unknown(web), match)
    assert not [*web.path.parent.iterdir()]


@pytest.mark.parametrize("framing, publish", [("chunked", unknown), ("close", source_of)])
def test_a_complete_answer_may_have_no_length(framing, publish, web):
    web.server.usual = Answer(framing=framing)
    fetch(publish(web), web.path)
    assert is_intact(web)


def test_a_size_tells_whether_the_connection_was_closed_too_early(web):
    sized = source_of(web, SIZE, "", "")
    web.server.usual = Answer(framing="close", stop_after=HALF)
    refused(web, sized, "broke off after")
    web.server.usual = Answer(framing="close")
    fetch(sized, web.path)
    assert is_intact(web)


def test_the_checksum_decides_on_an_archive_that_a_server_calls_encoded(web):
    web.server.usual = Answer(headers={"Content-Encoding": "x-gzip"})
    fetch(source_of(web), web.path)
    assert is_intact(web)


def test_more_than_was_announced_fails_the_checksum(web):
    web.server.usual = Answer(announced=HALF)
    refused(web, source_of(web, None), f"its sha256 is .* instead of {SHA256}.*it was deleted")
    assert not [*web.path.parent.iterdir()]


@pytest.mark.parametrize("algorithm, digest", [("md5", "0" * 32), ("sha256", "0" * 8)])
def test_a_file_with_another_checksum_is_deleted(algorithm, digest, web):
    found = {"md5": MD5, "sha256": SHA256}[algorithm]
    wrong = source_of(web, algorithm=algorithm, digest=digest)
    refused(web, wrong, f"{web.url} does not give .*its {algorithm} is {found} instead of {digest}")
    assert not [*web.path.parent.iterdir()]


# Networks


def test_a_missing_file_is_named_at_once(web):
    message = refused(web, source_of(web, urls=(web.server.url("none"),)), r"answers 404 \(Not F")
    assert "run the same command to try again, or download it elsewhere" in message
    assert len(web.server.requests) == 1


def test_a_refused_connection_is_one_sentence(web):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}/file.tar"
        refused(web, source_of(web, urls=(url,)), r"cannot be reached \(Connection refused\)")


def test_a_redirection_is_followed_also_to_the_rest(web):
    web.server.usual = Answer(302, headers={"Location": web.server.url("moved")})
    web.server.files["moved"] = CONTENT
    web.server.plan["moved"] = [Answer(stop_after=HALF), Answer()]
    fetch(source_of(web), web.path)
    assert is_intact(web) and web.server.requests[-1] == ("moved", f"bytes={HALF}-")


def test_a_redirection_in_a_circle_is_one_sentence(web):
    web.server.usual = Answer(302, headers={"Location": web.url})
    refused(
        web, source_of(web), r"answers 302 \(The HTTP server .* an infinite loop\): run the same"
    )


def test_what_a_server_says_cannot_change_the_terminal(web):
    web.server.usual = Answer(503, reason="\x1b[31mgone")
    refused(web, source_of(web), r"answers 503 \(\\x1b\[31mgone\)")


def test_nothing_but_the_web_is_read(web):
    place = "file:///etc/hostname"
    web.server.usual = Answer(302, headers={"Location": place})
    refused(web, source_of(web), "answers 302")
    refused(web, source_of(web, urls=(place,)), "is not an address of the web")


# Disks


def test_a_disk_without_room_is_refused_before_anything_arrives(web, monkeypatch):
    monkeypatch.setattr(download.shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    refused(web, source_of(web), r"needs 10.2 kB in .*download, where 1.0 kB are free")
    assert not web.server.requests


def test_a_disk_that_fills_up_keeps_what_can_be_resumed(web):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (HALF, before[1]))
    try:
        refused(web, source_of(web), "cannot write .*file.tar.partial: File too large; fix this")
        assert kept_bytes(web.path) == HALF
        web.server.files["other"] = CONTENT
        with pytest.raises(UserError, match="other.partial: File too large"):
            fetch(Source("other", (web.server.url("other"),)), web.path.with_name("other"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert kept_bytes(web.path.with_name("other")) == 0
    fetch(source_of(web), web.path)
    assert is_intact(web) and web.server.ranges[-1] == f"bytes={HALF}-"


def test_a_folder_that_cannot_be_made_is_named(web):
    web.path.parent.write_text("a file")
    refused(web, source_of(web), f"cannot write {web.path.parent}: File exists")
    assert not web.server.requests


def test_a_file_that_is_there_is_verified_and_not_downloaded(web):
    fetch(source_of(web), web.path)
    fetch(source_of(web), web.path)
    assert len(web.server.requests) == 1
    web.path.write_bytes(CONTENT[:-1] + b"x")
    with pytest.raises(UserError, match=rf"{web.path} is not the published file .*move it away"):
        fetch(source_of(web), web.path)
    assert web.path.is_file()  # it may be the user's


# What lies in the way


@pytest.mark.parametrize("publish", [source_of, unknown])
def test_a_users_own_file_stays(publish, web):
    web.path = web.path.parents[1] / "file.tar"
    own = web.path.with_name("file.tar.partial")
    own.write_bytes(CONTENT[:HALF])
    fetch(publish(web), web.path)
    assert web.path.read_bytes() == CONTENT and own.read_bytes() == CONTENT[:HALF]
    assert web.server.ranges == [None] and not [*web.path.with_name(STATE).iterdir()]


def a_link(partial, victim):
    partial.symlink_to(victim)


def a_dangling_link(partial, victim):
    partial.symlink_to(victim.with_name("new"))


def a_pipe(partial, victim):
    os.mkfifo(partial)


@pytest.mark.parametrize("put", [a_link, a_dangling_link, a_pipe])
@pytest.mark.parametrize("publish", [source_of, unknown])
def test_nothing_is_written_through_what_is_not_our_file(publish, put, web, tmp_path):
    victim = tmp_path / "victim"
    victim.write_bytes(CONTENT[:HALF])
    web.path.parent.mkdir()
    put(web.path.with_name("file.tar.partial"), victim)
    fetch(publish(web), web.path)
    assert is_intact(web) and web.server.ranges == [None]
    assert victim.read_bytes() == CONTENT[:HALF] and not victim.with_name("new").exists()


def test_a_link_that_appears_meanwhile_is_not_followed(web, tmp_path, monkeypatch):
    break_off(web, source_of(web))
    partial, kept = web.path.with_name("file.tar.partial"), tmp_path / "kept"
    opened = download.open_own

    def swap_and_open(*given):
        partial.replace(kept)
        partial.symlink_to(kept)
        return opened(*given)

    monkeypatch.setattr(download, "open_own", swap_and_open)
    refused(web, source_of(web), "file.tar.partial is a link, .*: remove it")
    assert kept.read_bytes() == CONTENT[:HALF]


@pytest.mark.parametrize("publish", [source_of, unknown])
@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo])
def test_what_is_not_a_file_is_not_taken_for_the_download(make, publish, web):
    web.path.parent.mkdir()
    make(web.path)
    with pytest.raises(UserError, match=r"not a file\): move it"):
        fetch(publish(web), web.path)


def test_sizes_are_decimal():
    assert [size_text(n) for n in (None, 7, 999, 2500, 815585330, 19336861798)] == [
        "unknown size",
        "7 bytes",
        "999 bytes",
        "2.5 kB",
        "815.6 MB",
        "19.3 GB",
    ]
