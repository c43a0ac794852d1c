"""Downloads of one file by several processes at once."""

from __future__ import annotations

import hashlib
import json
import platform
import select
import signal
import subprocess
import sys
import tarfile
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import pytest

from pipeline.datasets import obtain as obtaining
from pipeline.datasets.obtain import DownloadTask, obtain
from pipeline.datasets.sources import Archive
from pipeline.errors import UserError
from pipeline.files import download
from pipeline.files.atomic import TEMPORARY
from pipeline.files.download import STATE, Source
from pipeline.files.lock import FolderLock
from tests import REPOSITORY
from tests.files.server import Answer, Pause, Server, serving
from tests.processes import wait_until
from tests.tiers import large_except

CONTENT = bytes(range(256)) * 4096
HALF = len(CONTENT) // 2

PROGRAM = """
import json, logging, sys
from pathlib import Path

from pipeline.commands.command_line import answer
from pipeline.datasets.obtain import DownloadTask, obtain
from pipeline.datasets.sources import Archive
from pipeline.files.download import Source

logger = logging.getLogger("filelock")  # which says that it waits
logger.setLevel(logging.DEBUG)
logger.addHandler(logging.StreamHandler(sys.stdout))
logger.addFilter(lambda record: "not acquired" in record.msg)
given = json.loads(sys.argv[1])
source, path = Source(**given["source"]), Path(given["path"])
archive = Archive(source, "here", "", "", (), False) if given["target"] else None
item = DownloadTask(source, path, "free", archive, Path(given["target"]))
answer(lambda _: obtain(item, given["wait"]))
"""


def tarred() -> bytes:
    """Returns an archive of one file."""
    buffer = BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        member = tarfile.TarInfo("file")
        member.size = len(CONTENT)
        archive.addfile(member, BytesIO(CONTENT))
    return buffer.getvalue()


@dataclass
class Case:
    """A download that several processes begin."""

    server: Server
    root: Path
    given: dict

    def start(self, wait: float) -> subprocess.Popen:
        command = [sys.executable, "-c", PROGRAM, json.dumps({**self.given, "wait": wait})]
        pipe = subprocess.PIPE
        return subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, cwd=REPOSITORY)

    def start_slow(self) -> tuple[subprocess.Popen, Pause]:
        """Starts a process that is in the middle of the file until the pause is over."""
        pause = Pause(HALF)
        self.server.plan["file"] = [Answer(ranges=False, pause=pause)]
        process = self.start(0)
        assert pause.reached.wait(300)
        return process, pause

    def is_intact(self) -> bool:
        """Whether the file is complete, and nothing but the lock and the note is beside it."""
        names = {path.name for path in self.root.rglob("*") if path.is_file()}
        return (self.root / "file").read_bytes() == CONTENT and names <= {
            *("file", ".lock", "file.tar.done")
        }


KINDS = ("file", "published file", "archive", "published archive")


@pytest.fixture
def case(request, tmp_path, monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    root, is_archive = tmp_path / "root", "archive" in request.param
    content = tarred() if is_archive else CONTENT
    path = root / ".download/file.tar" if is_archive else root / "file"
    with serving() as server:
        server.files["file"] = content
        source = {"name": path.name, "urls": [server.url("file")]}
        if "published" in request.param:
            source |= {"algorithm": "sha256", "digest": hashlib.sha256(content).hexdigest()}
        target = str(root) if is_archive else ""
        yield Case(server, root, {"source": source, "path": str(path), "target": target})


@pytest.mark.parametrize("case", large_except(["archive"], KINDS), indirect=True)
def test_a_second_process_waits_and_finds_the_file(case):
    first, pause = case.start_slow()
    other = Pause(HALF // 2)  # if the second begins to write, the first must not name its file
    case.server.plan["file"] = [Answer(ranges=False, pause=other)]
    second = case.start(wait=3600)
    wait_until(lambda: other.reached.is_set() or select.select([second.stdout], [], [], 0)[0])
    pause.over.set()
    assert first.wait(300) == 0, first.stderr.read()
    assert (case.root / "file").read_bytes() == CONTENT
    other.over.set()
    assert second.wait(300) == 0, second.stderr.read()
    assert case.is_intact() and len(case.server.requests) == 1


@pytest.mark.large
@pytest.mark.parametrize("case", KINDS[2:], indirect=True)
def test_a_killed_process_leaves_the_file_to_the_next(case):
    first, pause = case.start_slow()
    first.send_signal(signal.SIGKILL)
    first.wait()
    pause.over.set()
    second = case.start(wait=0)
    assert second.wait(300) == 0, second.stderr.read()
    assert case.is_intact() and len(case.server.requests) == 2


@pytest.mark.parametrize("case", KINDS[1:3], indirect=True)
def test_a_process_whose_lock_another_took_over_names_no_file(case, monkeypatch):
    """As on a machine that slept, when the other process may write to the same file."""
    given, lost = case.given, []

    def check(lock):
        if lost:
            raise UserError("was taken over")

    def then_lose(work):
        return lambda *given, **more: (work(*given, **more), lost.append(True))[0]

    archive = Archive(None, "here", "", "", (), False) if given["target"] else None
    module, name = (obtaining, "fetch") if archive else (download, "_differs")
    monkeypatch.setattr(module, name, then_lose(getattr(module, name)))
    monkeypatch.setattr(FolderLock, "check", check)
    source, path = download.Source(**given["source"]), Path(given["path"])
    with pytest.raises(UserError, match="was taken over"):
        obtaining.obtain(obtaining.DownloadTask(source, path, "free", archive, case.root), 0)
    assert not (case.root / "file").exists()


def test_what_a_killed_process_left_after_unpacking_is_removed(tmp_path, capsys):
    source, folder = Source("a.tar", ("http://127.0.0.1:1/a.tar",)), tmp_path / STATE
    archive = Archive(source, "here", "", "", (), False)
    item = DownloadTask(source, folder / "a.tar", "free", archive, tmp_path)
    folder.mkdir()
    item.note.write_text("its address")
    item.path.write_bytes(b"of gigabytes")
    killed = 2**22 + 1  # a process that there is not
    (folder / f"{TEMPORARY}{killed}-{platform.node()}-0123abcd").write_text("of the note")
    assert obtain(item, 0) == tmp_path
    assert [*folder.iterdir()] == [item.note]
    assert "a.tar was unpacked before" in capsys.readouterr().out
