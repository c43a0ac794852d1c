"""Every place that starts a process, in a folder whose files would run as code."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.engine import children
from tests import REPOSITORY
from tests.processes import run_python
from tests.slurm import write_slurm
from tests.tiers import large_except

PLACES = {
    "engine/pool.py": ["pool", "plugin"],
    "engine/dask_pool.py": ["cluster", "jobs"],
    "engine/compiler.py": ["kernel"],
    "engine/versions.py": ["commit"],
    "segmenter/samples.py": ["loader"],
    "commands/app.py": ["browser"],
    "commands/command_line.py": ["utf8"],
    "app/finished.py": [],  # see tests/app/test_finished.py
}
"""Modules of the package that start processes, and how the program of this test does so."""

STARTS = re.compile(
    r"\b(Popen|subprocess\.run|get_reusable_executor|ProcessPoolExecutor|DataLoader|LocalCluster"
    r"|\w*jobqueue|webbrowser\.open|os\.(exec|fork|posix_spawn|spawn|system|popen)\w*"
    r"|get_context|multiprocessing\.(Process|Pool))\("
    r"|getattr\(dask_jobqueue"
)
MODULES = ("joblib", "torch", "sitecustomize", "multiprocessing", "pipeline", "distributed")
PROGRAMS = ("git", "c++", "sh")
PROGRAM = Path(__file__).with_name("starting.py")


@pytest.fixture
def theirs(mark, tmp_path) -> Path:
    """A folder in which nothing may run: modules, and programs, that leave the mark."""
    folder = tmp_path / "theirs"
    folder.mkdir()
    for name in MODULES:
        (folder / f"{name}.py").write_text(f"open({str(mark.path)!r}, 'a').write({name!r})\n")
    for name in PROGRAMS:
        (folder / name).write_text(f"#!/bin/sh\necho {name} >> {mark.path}\n")
        (folder / name).chmod(0o755)
    return folder


WAYS = [(place, "command") for places in PLACES.values() for place in places]
WAYS += [("pool", "library"), ("cluster", "library")]
SLOW = {("loader", "command"), ("cluster", "command")}


def start(place: str, theirs: Path, way: str = "command") -> subprocess.CompletedProcess:
    """Starts processes in a folder, with search paths that name it, and a relative folder."""
    mine = theirs.parent / "mine"
    (mine / "code").mkdir(parents=True)
    (mine / "code" / "plug.py").write_text("def answer(item):\n    return 42\n")
    write_slurm(mine / "bin", mine / "job.log")
    environment = {"PATH": f":bin:{os.environ['PATH']}", "PYTHONPATH": "code:"}
    if place == "utf8":  # it starts itself anew, where it is
        environment |= {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
        del environment["PYTHONPATH"]
    environment["XDG_CACHE_HOME"] = str(mine)
    cwd = theirs if place == "utf8" else mine
    return run_python(PROGRAM, place, theirs, way, cwd=cwd, **environment)


def test_every_place_that_starts_a_process_is_attacked():
    root = REPOSITORY / "pipeline"
    sources = {path.relative_to(root).as_posix(): path.read_text() for path in root.rglob("*.py")}
    assert {name for name, text in sources.items() if STARTS.search(text)} == set(PLACES)


@pytest.mark.parametrize(("place", "way"), large_except({*WAYS} - SLOW, WAYS))
def test_the_folder_in_which_a_process_is_started_runs_no_code(place, way, theirs, mark):
    for module in {"cluster": ["distributed"], "jobs": ["dask_jobqueue"]}.get(place, []):
        pytest.importorskip(module)
    done = start(place, theirs, way)
    ran = mark.path.read_text() if mark.is_left else ""
    assert not ran and done.returncode == 0, (ran, done.stderr)


def test_an_unprotected_process_does_run_them(theirs, mark):
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONSAFEPATH"}
    line = [sys.executable, "-c", "import joblib"]
    assert mark.is_left_by(lambda: subprocess.run(line, cwd=theirs, env=environment, check=True))


def test_search_paths_keep_what_they_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("PYTHONSAFEPATH", *children._SEARCHED):
        monkeypatch.setenv(name, f":code:{tmp_path / 'code'}::/usr/bin:.:./:code/..:")
    for _ in range(2):
        children.protect_children()
        assert os.environ["PATH"] == os.environ["LD_LIBRARY_PATH"] == f"{tmp_path}/code:/usr/bin"
        assert os.environ["PYTHONPATH"] == f"{os.environ['PATH']}:{tmp_path}:{REPOSITORY}"
        assert os.environ["PYTHONSAFEPATH"] == "1"


def test_threads_that_wait_leave_their_core_unless_the_user_chose(monkeypatch):
    policy, spins = "OMP_WAIT_POLICY", "GOMP_SPINCOUNT"
    for chosen, expected in (({}, "10000"), ({spins: "7"}, "7"), ({policy: "ACTIVE"}, None)):
        monkeypatch.setattr(os, "environ", dict(chosen))
        children.protect_children()
        assert os.environ.get(spins) == expected


def test_openmp_reads_how_long_to_wait(monkeypatch):
    """Torch, which a tool's module imports, comes after the environment is set."""
    for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT"):
        monkeypatch.delenv(name, raising=False)
    program = "from pipeline.commands.command_line import answer; answer('torch:tensor')"
    assert "GOMP_SPINCOUNT = '10000'" in run_python("-c", program, OMP_DISPLAY_ENV="VERBOSE").stderr
