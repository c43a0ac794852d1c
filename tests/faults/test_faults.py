"""Damaged files, full and read-only disks, dead workers, Ctrl-C, and company."""

from __future__ import annotations

import json
import random
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest

from pipeline.files.journal import Journal
from tests.faults.runs import Nursery, results_of_images, unfinished_files
from tests.faults.test_kills import prepare
from tests.processes import Run, wait_until

STAGES = ("tags", "cams", "masks", "predict")
PER_IMAGE = ("tags", "cams", "masks", "predictions")


@pytest.fixture
def copy(undisturbed: Path, tmp_path: Path) -> Path:
    """A copy of what all stages wrote."""
    return shutil.copytree(undisturbed, tmp_path / "copy", symlinks=True)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own, with room for a part of the results."""
    path = tmp_path / "disk"
    path.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=160k", "tmpfs", str(path)], capture_output=True
    )
    if mounted.returncode:
        pytest.skip("only root can mount a small disk")
    yield path
    subprocess.run(["umount", "-l", str(path)], check=True)


def remount(disk: Path, *settings: str) -> None:
    command = ["mount", "-o", ",".join(["remount", *settings]), str(disk)]
    subprocess.run(command, check=True)


@pytest.mark.large
@pytest.mark.parametrize("stage", PER_IMAGE)
def test_a_damaged_artefact_is_computed_again(stage, nursery, options, undisturbed, copy, kills):
    """Every kind of file of a stage, cut or changed somewhere; stages before it read none."""
    generator = random.Random(stage)
    stages = ",".join(STAGES[PER_IMAGE.index(stage) :])
    folder = (copy / "all" / stage / "latest").resolve()
    names = [p for p in sorted(folder.iterdir()) if p.is_file() and not p.name.startswith(".")]
    by_kind = {p.suffix if p.suffix == ".png" or p.name[0] == "n" else p.name: p for p in names}
    expected = results_of_images(undisturbed)
    for path in by_kind.values():
        whole = path.read_bytes()
        for number in range(kills):
            data = bytearray(whole)
            if number % 2:
                data[generator.randrange(len(data))] ^= 1 << generator.randrange(8)
            else:
                del data[generator.randrange(len(data)) :]
            path.write_bytes(bytes(data))
            nursery.run(*options, f"stage=[{stages}]", f"output_dir={copy}")
            assert results_of_images(copy) == expected, path.name


@pytest.mark.large
def test_damage_is_noticed_by_the_stage_that_reads_it(nursery, options, copy):
    for stage, reader in (("cams", "masks"), ("masks", "train")):
        suffix = ".npz" if stage == "cams" else ".png"
        path = (copy / "all" / stage / "latest").resolve() / f"n03{suffix}"
        whole = path.read_bytes()
        path.write_bytes((path.parent / f"n04{suffix}").read_bytes())  # whole, but of another image
        output = nursery.run(*options, f"stage={reader}", f"output_dir={copy}", code=2)
        assert f"{stage} for split all are not as they were written" in output
        assert "for image n03 (edited" in output
        path.write_bytes(whole)


@pytest.mark.large
def test_a_full_disk_keeps_what_is_done(nursery, options, undisturbed, small_disk, kills):
    arguments = [*options, "stage=[tags,cams,masks]", f"output_dir={small_disk / 'out'}"]
    ballast = small_disk / "ballast"
    for kilobytes in np.linspace(120, 24, max(2, kills), dtype=int):
        ballast.write_bytes(bytes(1024 * kilobytes))
        run = nursery.start(*arguments)
        assert run.wait() == 2, run.output
        errors = [line for line in run.output.splitlines() if line.startswith("error: ")]
        assert len(errors) == 1 and "No space left on device" in errors[0]
        assert "Traceback" not in run.output
    done = [len(list(small_disk.glob(f"out/all/{stage}/*/n*"))) for stage in ("cams", "masks")]
    assert any(done), "something was done before"
    remount(small_disk, "size=8m")
    nursery.run(*arguments)
    expected = results_of_images(undisturbed, "tags", "cams", "masks")
    assert results_of_images(small_disk / "out", "tags", "cams", "masks") == expected
    assert not unfinished_files(small_disk / "out")


@pytest.mark.large
def test_a_read_only_folder_is_said(nursery, run_stage, options, small_disk, undisturbed):
    out = small_disk / "out"
    remount(small_disk, "size=8m")
    nursery.run(*options, "stage=tags", f"output_dir={out}")
    remount(small_disk, "ro")
    for stage in ("tags", "cams", "evaluate"):
        finished = run_stage(*options, f"stage={stage}", f"output_dir={out}")
        assert finished.code == 2 and finished.errors.startswith("error: cannot write"), finished
        assert "Read-only file system" in finished.errors
    remount(small_disk, "rw")
    nursery.run(*options, "stage=cams", f"output_dir={out}")
    assert results_of_images(out, "cams") == results_of_images(undisturbed, "cams")


def children_of(process: int) -> list[psutil.Process]:
    """Returns the workers of a run; some of its children look after their memory instead."""
    try:
        children = psutil.Process(process).children(recursive=True)
        return [child for child in children if "popen_loky" in " ".join(child.cmdline())]
    except psutil.NoSuchProcess:
        return []


def kill_with_workers(run: Run) -> None:
    """Kills a run that has workers, and sees them end."""
    workers = children_of(run.process)
    assert workers
    run.kill()
    run.wait()
    _, alive = psutil.wait_procs(workers, timeout=60)
    assert not alive, "workers end with the run that started them"


def done_in(folder: Path) -> int:
    return sum(p.read_bytes().count(b"\n") for p in folder.glob("*entries*.jsonl"))


@pytest.mark.large
def test_a_killed_run_with_workers_goes_on(nursery, options, undisturbed, tmp_path, kills):
    """What workers had finished is taken over, and they end with the run."""
    generator = random.Random(4)
    times = max(1, kills // 3)
    for number in range(times):
        out = tmp_path / f"out-{number}"
        more = ["executor=processes", "runtime.workers=2", f"output_dir={out}"]
        run = nursery.start(*options, "stage=[tags,cams,masks]", *more)
        wanted = generator.randrange(1, 20)
        wait_until(lambda o=out, w=wanted: sum(map(done_in, o.glob("all/tags/*/"))) >= w)
        kill_with_workers(run)
        [folder] = out.glob("all/tags/*/")
        done = len(Journal(folder / "entries.jsonl").entries)  # with those of workers
        output = nursery.run(*options, "stage=[tags,cams,masks]", *more)
        assert re.search(rf"tags +all +24 images, {24 - done} computed now", output)
        assert results_of_images(out) == results_of_images(undisturbed, "tags", "cams", "masks")
        assert not unfinished_files(out)
        shutil.rmtree(out)


PROCESSES = ("executor=processes", "runtime.workers=2")


@pytest.mark.parametrize(
    ("stage", "more", "what"),
    [
        pytest.param("tags", (), "Ctrl-C", marks=pytest.mark.large),
        pytest.param("cams", (), "Ctrl-C", marks=pytest.mark.soak),
        pytest.param("masks", ("runtime.workers=2",), "Ctrl-C", marks=pytest.mark.soak),
        pytest.param("masks", ("runtime.workers=2",), "SIGTERM", marks=pytest.mark.soak),
        pytest.param("tags", PROCESSES, "Ctrl-C", marks=pytest.mark.soak),
        pytest.param("tags", PROCESSES, "SIGTERM", marks=pytest.mark.large),
        pytest.param("predict", (), "Ctrl-C", marks=pytest.mark.large),
    ],
)
def test_an_interrupted_stage_ends_and_then_resumes(
    stage, more, what, nursery, options, undisturbed, tmp_path
):
    out = tmp_path / "out"
    prepare(undisturbed, out, stage)
    run = nursery.start(*options, f"stage={stage}", *more, f"output_dir={out}")
    folder = "predictions" if stage == "predict" else stage
    wait_until(lambda: sum(map(done_in, out.glob(f"all/{folder}/*/"))) >= 1)
    workers = children_of(run.process)
    began = time.monotonic()
    run.send({"Ctrl-C": signal.SIGINT, "SIGTERM": signal.SIGTERM}[what])
    code = run.wait()
    seconds = time.monotonic() - began
    assert code == {"Ctrl-C": 130, "SIGTERM": 143}[what], run.output
    assert "interrupted: run the same command again to go on" in run.output
    assert "Traceback" not in run.output
    assert seconds < 60  # it ends in two on an idle machine
    _, alive = psutil.wait_procs(workers, timeout=60)
    assert not alive
    nursery.run(*options, f"stage={stage}", *more, f"output_dir={out}")
    assert results_of_images(out, folder) == results_of_images(undisturbed, folder)


@pytest.mark.large
def test_two_runs_of_a_stage_at_once(nursery, options, undisturbed, tmp_path, request):
    """The second says who is at work, or waits for it and finds everything done."""
    other = Nursery(tmp_path)
    request.addfinalizer(other.close)
    arguments = [*options, "stage=tags", f"output_dir={tmp_path / 'out'}"]
    first = nursery.start(*arguments)
    wait_until(lambda: any(tmp_path.glob("out/all/tags/*/.holder.json")))
    first.send(signal.SIGSTOP)
    output = other.run(*arguments, code=2)
    assert f"is being written by process {first.process} on " in output
    assert " since 20" in output and "runtime.wait=SECONDS" in output
    waiting = other.start(*arguments, "runtime.wait=60")
    time.sleep(0.5)
    first.send(signal.SIGCONT)
    assert first.wait() == 0
    assert waiting.wait() == 0, waiting.output
    assert "24 images, 0 computed now" in waiting.output
    assert results_of_images(tmp_path / "out") == results_of_images(undisturbed, "tags")


@pytest.mark.soak
def test_runs_of_other_configurations_never_meet(nursery, options, tmp_path, request):
    other = Nursery(tmp_path)
    request.addfinalizer(other.close)
    stages = "stage=[tags,cams,masks]"
    together = [
        one.start(*options, stages, f"tags.votes={votes}", f"output_dir={tmp_path / 'both'}")
        for one, votes in ((nursery, 2), (other, 3))
    ]
    assert [run.wait() for run in together] == [0, 0]
    expected = {}
    for votes in (2, 3):
        alone = tmp_path / f"alone-{votes}"
        nursery.run(*options, stages, f"tags.votes={votes}", f"output_dir={alone}")
        expected |= {
            name: data for name, data in results_of_images(alone).items() if "/latest/" not in name
        }
    found = {n: d for n, d in results_of_images(tmp_path / "both").items() if "/latest/" not in n}
    assert found == expected


def test_a_store_of_another_version_is_answered_in_a_sentence(run_stage, arguments, tmp_path):
    assert run_stage(*arguments, "stage=tags").code == 0
    marker = tmp_path / "out" / "store.json"
    for found, age in ((0, "an older"), (99, "a newer")):
        marker.write_text(json.dumps({"format": found}))
        for stage in ("status", "tags"):
            finished = run_stage(*arguments, f"stage={stage}")
            assert finished.code == 2 and finished.errors.count("\n") == 1, finished
            wanted = f"was written by {age} version of this program (format {found}"
            assert wanted in finished.errors
    marker.unlink()  # as before there was one
    finished = run_stage(*arguments, "stage=tags")
    assert "5 images, 0 computed now" in finished.output
