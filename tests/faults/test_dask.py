"""Images spread over dask's workers: one of this machine, one that runs already, SLURM's."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests import REPOSITORY
from tests.faults.runs import Nursery, results_of_images, unfinished_files
from tests.processes import Run, wait_until
from tests.slurm import write_slurm

pytest.importorskip("distributed", reason="executor=dask needs dask.distributed")

STAGES = "stage=[tags,cams,masks]"


def workers_of(process: int) -> list[psutil.Process]:
    children = psutil.Process(process).children(recursive=True)
    return [child for child in children if "spawn_main" in " ".join(child.cmdline())]


@pytest.mark.large
def test_one_of_two_local_workers_is_killed_in_the_middle(nursery, options, undisturbed, tmp_path):
    out = tmp_path / "out"
    run = nursery.start(
        *options, STAGES, "executor=dask", "executor.workers=2", f"output_dir={out}"
    )
    wait_until(lambda: any(out.glob("all/tags/*/.entries-*.jsonl")))
    wait_until(lambda: len(workers_of(run.process)) == 2)  # the second may begin later
    workers_of(run.process)[0].kill()
    assert run.wait() == 0, run.output
    assert re.search(r"masks +all +24 images, 24 computed now", run.output)
    assert "Traceback" not in run.output
    assert results_of_images(out) == results_of_images(undisturbed, "tags", "cams", "masks")
    assert not unfinished_files(out)


@pytest.fixture
def started(nursery, options, tmp_path) -> Iterator[tuple[Path, list[subprocess.Popen], list, Run]]:
    """A run in the middle of its tags, and the scheduler and two workers that it was given."""
    file = tmp_path / "scheduler.json"
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": REPOSITORY}
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    dask = [sys.executable, "-m", "dask"]
    scheduler = [*dask, "scheduler", "--port", "0", "--no-dashboard", "--scheduler-file", str(file)]
    worker = [*dask, "worker", "--nthreads", "1", "--no-nanny", "--no-dashboard"]
    worker += ["--scheduler-file", str(file), "--local-directory", str(tmp_path)]
    processes = [subprocess.Popen(scheduler, env=environment, **quiet)]
    wait_until(file.exists)
    processes += [subprocess.Popen(worker, env=environment, **quiet) for _ in range(2)]
    more = ["executor=dask", f"executor.address={file}", "executor.threads=1"]
    run = nursery.start(*options, STAGES, *more, f"output_dir={tmp_path / 'out'}")
    wait_until(lambda: any(tmp_path.glob("out/all/tags/*/.entries-*.jsonl")))
    yield tmp_path / "out", processes, more, run
    for process in reversed(processes):
        process.kill()
        process.wait()


@pytest.mark.soak
def test_a_cluster_that_runs_already_loses_a_worker(
    started, nursery, options, undisturbed, tmp_path
):
    out, (_, first, _), more, run = started
    first.kill()
    assert run.wait() == 0, run.output
    assert results_of_images(out) == results_of_images(undisturbed, "tags", "cams", "masks")
    # The same workers do another run, and an interrupted one leaves them at work.
    nursery.run(*options, STAGES, *more, f"output_dir={tmp_path / 'again'}")
    assert results_of_images(tmp_path / "again") == results_of_images(out)


@pytest.mark.soak
def test_the_scheduler_is_killed_in_the_middle(started, nursery, options, undisturbed, tmp_path):
    out, (scheduler, *_), _, run = started
    scheduler.kill()
    assert run.wait() == 2 and "Traceback" not in run.output, run.output
    assert "error: the scheduler of the workers has ended" in run.output
    nursery.run(*options, STAGES, f"output_dir={out}")
    stages = ("tags", "cams", "masks")
    assert results_of_images(out, *stages) == results_of_images(undisturbed, *stages)


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        (
            ["executor.address=tcp://127.0.0.1:1"],
            "no dask worker became available at tcp://127.0.0.1:1",
        ),
        pytest.param(
            ["executor.address=nonsense://x"],
            "no dask worker became available at nonsense://x",
            marks=pytest.mark.large,
        ),
        (["executor=slurm", "executor.cluster.class=Cloud"], "is none of dask_jobqueue"),
        (["executor=slurm", "+executor.cluster.colour=red"], "does not suit SLURMCluster"),
    ],
)
def test_wrong_use_is_answered_with_one_sentence(wrong, sentence, run_stage, options, tmp_path):
    more = ["stage=tags", "executor=dask", "executor.timeout=2", *wrong, f"output_dir={tmp_path}"]
    finished = run_stage(*options, *more)
    assert finished.code == 2, finished
    errors = [line for line in finished.errors.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and sentence in errors[0]
    assert "Traceback" not in finished.errors


@pytest.mark.soak
def test_every_worker_is_a_job_of_slurm(
    nursery, options, undisturbed, tmp_path, monkeypatch, request
):
    """Through dask-jobqueue and the script that it writes, with a stand-in for ``sbatch``."""
    pytest.importorskip("dask_jobqueue")
    programs = tmp_path / "bin"
    write_slurm(programs, tmp_path / "job.log")
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    nursery = Nursery(tmp_path)
    request.addfinalizer(nursery.close)
    more = ["executor=slurm", "executor.workers=1", "executor.threads=1", "executor.timeout=60"]
    more += ["executor.cluster.queue=gpu", f"output_dir={tmp_path / 'out'}"]
    run = nursery.start(*options, STAGES, *more)
    code = run.wait()
    assert code == 0, run.output + (tmp_path / "job.log").read_text()
    assert results_of_images(tmp_path / "out") == results_of_images(
        undisturbed, "tags", "cams", "masks"
    )
    assert "Start worker at" in (tmp_path / "job.log").read_text()
