"""Full disks, read-only ones, killed processes, Ctrl-C: one sentence, and nothing is lost."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipeline.engine.folder import StageFolder
from pipeline.engine.store import Store
from pipeline.errors import UserError
from pipeline.segmenter import checkpoints
from pipeline.segmenter.checkpoints import best_checkpoints, complete_checkpoints
from tests import REPOSITORY
from tests.segmenter.loaded_run import ITERATIONS
from tests.segmenter.test_train import assert_same_weights, run, weights
from tests.segmenter.tiny_training import tiny_settings, write_labelled
from tests.segmenter.training_process import Training, environment

HERE = Path(__file__).parent
NO_SPACE = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
LINUX = pytest.mark.skipif(sys.platform != "linux", reason="it reads /proc and mounts")


@pytest.fixture(scope="module")
def small_disk(tmp_path_factory, request):
    """What happened on a small file system: a line for every try."""
    tries = "30" if request.config.getoption("--soak") else "6"
    kind = ["unshare", "-m"] if os.geteuid() == 0 else ["unshare", "-rm"]
    small, data = tmp_path_factory.mktemp("small"), tmp_path_factory.mktemp("data")
    if not shutil.which("unshare"):
        pytest.skip("there is no unshare to mount a small file system in")
    probe = subprocess.run(
        [*kind, "mount", "-t", "tmpfs", "tmpfs", small], capture_output=True, text=True, check=False
    )
    if probe.returncode:
        pytest.skip(f"no small file system can be mounted here ({probe.stderr.strip()})")
    done = subprocess.run(
        [*kind, sys.executable, HERE / "full_disk.py", data, small, tries],
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


@pytest.mark.large
@LINUX
def test_a_full_disk_is_one_sentence_and_costs_nothing(small_disk, trial):
    tries = [line for line in small_disk if "share" in line]
    full = [line for line in tries if line["code"]]
    # From the first byte on, at the first checkpoint, at the best, at those after; and enough.
    assert len(tries) >= 6 and len(full) >= 4 and tries[-1]["code"] == 0
    assert len({line["errors"].split(":")[1].split("/")[-1] for line in full}) >= 3
    for line in full:
        assert line["code"] == 2, line
        assert line["errors"].count("\n") == 1 and line["errors"].startswith("error: cannot write")
        assert "No space left on device" in line["errors"], line
        assert "run the same command again" in line["errors"]
    for line in tries:
        assert line["torn"] == [] and line["partial"] == 0, line
        assert line["resumed"] == {"code": 0, "errors": ""}, line
        assert line["same"], "the weights differ from those of an undisturbed training"
    assert any(line["kept"] for line in full), "some checkpoint is whole before the disk is full"
    trial(
        "training",
        "the disk full at the log, the first, a later and the best checkpoint",
        "exit 2, one sentence; every checkpoint whole; resumes to equal weights",
        len(full),
    )


@pytest.mark.large
@LINUX
def test_a_folder_that_can_only_be_read_is_one_sentence(small_disk, trial):
    tries = [line for line in small_disk if "read_only" in line]
    assert [line["read_only"] for line in tries] == ["begun", "new"]
    for line in tries:
        assert line["code"] == 2 and line["errors"].count("\n") == 1, line
        assert "Read-only file system" in line["errors"]
    trial("training", "the work directory read-only", "exit 2, one sentence", len(tries))


def failing(*args, **kwargs):
    raise NO_SPACE


SHORT = {"iterations": 3, "checkpoint_interval": 1}


@pytest.fixture(scope="module")
def short(pairs, tmp_path_factory):
    """The weights of a short training that nothing disturbs."""
    run(pairs, work_dir := tmp_path_factory.mktemp("short"), tiny_settings(**SHORT))
    return weights(work_dir)


@pytest.mark.parametrize(
    "place",
    [
        "logging.StreamHandler.flush",
        pytest.param("mmengine.visualization.LocalVisBackend._dump", marks=pytest.mark.large),
        pytest.param(
            "tensorboard.summary.writer.record_writer.RecordWriter.write", marks=pytest.mark.large
        ),
    ],
)
def test_logs_and_curves_that_cannot_be_written(
    pairs, short, tmp_path, monkeypatch, capfd, place, trial
):
    monkeypatch.setattr("pipeline.segmenter.train.LOG_INTERVAL", 1)
    settings = tiny_settings(**SHORT)
    with monkeypatch.context() as patched:
        patched.setattr(place, failing)
        with pytest.raises(UserError, match="cannot write .*: No space left on device; ") as caught:
            run(pairs, tmp_path / "run", settings)
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")
    run(pairs, tmp_path / "run", settings)
    assert_same_weights(short, weights(tmp_path / "run"))
    trial("training", f"no space for {place.split('.')[-2]}", "one sentence; resumes")


def test_other_errors_of_a_training_stay_faults_of_ours(pairs, tmp_path, monkeypatch):
    def broken(*args, **kwargs):
        raise OSError(errno.EBADF, "Bad file descriptor")

    monkeypatch.setattr("mmengine.visualization.LocalVisBackend._dump", broken)
    with pytest.raises(OSError, match="Bad file descriptor"):
        run(pairs, tmp_path, tiny_settings(iterations=1))


def test_the_best_checkpoint_goes_when_a_better_one_is_there(pairs, tmp_path, monkeypatch, trial):
    labelled, figures = write_labelled(tmp_path / "val"), iter([10.0, 20.0, 20.0, 5.0])
    monkeypatch.setattr(
        "mmseg.evaluation.IoUMetric.compute_metrics", lambda *_: {"mIoU": next(figures)}
    )
    write, work_dir = checkpoints.write_atomically, tmp_path / "run"
    settings = tiny_settings(validation_interval=2, iterations=6)

    def full(path, data):
        if path.name == "best_mIoU_iter_4.pth":
            raise UserError("no space")
        write(path, data)

    monkeypatch.setattr(checkpoints, "write_atomically", full)
    with pytest.raises(UserError, match="no space"):
        run(pairs, work_dir, settings, validation=labelled)
    assert [p.name for p in best_checkpoints(work_dir)] == ["best_mIoU_iter_2.pth"]
    monkeypatch.setattr(checkpoints, "write_atomically", write)
    run(pairs, work_dir, settings, validation=labelled)
    assert [p.name for p in best_checkpoints(work_dir)] == ["best_mIoU_iter_4.pth"]
    trial("training", "no space for a better checkpoint", "the best one so far stays")


def test_no_moment_without_a_whole_checkpoint(pairs, tmp_path, monkeypatch, trial):
    """Whatever is written or removed, one whole checkpoint is there once there was one."""
    written, moments = checkpoints.write_atomically, []

    def watch(path, data):
        moments.append(len(complete_checkpoints(tmp_path)))
        written(path, data)
        moments.append(len(complete_checkpoints(tmp_path)))

    monkeypatch.setattr(checkpoints, "write_atomically", watch)
    run(pairs, tmp_path, tiny_settings(iterations=5, checkpoint_interval=1))
    assert moments[0] == 0 and min(moments[1:]) >= 1 and max(moments) == 2
    trial(
        "training",
        "read before and after every file is written",
        "an intact checkpoint",
        len(moments),
    )


# Processes that are killed

KILLED_WHILE_WRITING = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from tests.segmenter.tiny_training import CLASS_NAMES, PALETTE, tiny_settings, write_pairs
from pipeline.segmenter.train import train

written = []
def kill(descriptor):
    # The configuration, a checkpoint, and then the second checkpoint.
    written.append(descriptor)
    if len(written) == 3:
        os.ftruncate(descriptor, 1000)
        os.kill(os.getpid(), signal.SIGKILL)

os.fsync = kill
train(tiny_settings(), write_pairs(Path(sys.argv[2])), CLASS_NAMES, PALETTE, Path(sys.argv[3]), 3)
"""


@pytest.mark.large
def test_a_kill_in_the_midst_of_a_file_leaves_no_half_of_it(trained, pairs, tmp_path, trial):
    work_dir, folder = tmp_path / "run", pairs[0].image.parent
    done = subprocess.run(
        [sys.executable, "-c", KILLED_WHILE_WRITING, REPOSITORY, folder, work_dir],
        env=environment(),
        check=False,
    )
    assert done.returncode == -signal.SIGKILL
    assert [path.name for path in work_dir.glob("*.pth")] == ["iter_2.pth"]
    assert len(list(work_dir.glob(".partial-*"))) == 1
    run(pairs, work_dir)
    assert_same_weights(weights(trained), weights(work_dir))
    trial("training", "killed in the midst of writing a checkpoint", "no torn file; resumes")


def killed_at_every_point(tmp_path, step):
    """Returns the points at which a training with validation was killed, and what differed then."""
    for name in ("data", "runs"):
        (tmp_path / name).mkdir()
    done = subprocess.run(
        [sys.executable, HERE / "killed_trainings.py", tmp_path / "data", tmp_path / "runs", step],
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    whole, *tried = [json.loads(line) for line in done.stdout.splitlines()]
    assert whole["points"] > 60 and len(tried) >= 3
    return tried


@pytest.mark.large
@LINUX
@pytest.mark.parametrize("step", ["9", pytest.param("1", marks=pytest.mark.soak)])
def test_a_kill_at_any_point_changes_neither_weights_nor_the_best(tmp_path, step, trial):
    tried = killed_at_every_point(tmp_path, step)
    assert not [line for line in tried if line["differs"]]
    trial(
        "training",
        "killed before any open-for-write, fsync, rename, link, mkdir or remove"
        + (", after the last iteration" if step != "1" else ""),
        "equal weights, best checkpoint and figures after the same command; nothing left behind",
        len(tried),
    )


@pytest.fixture(scope="module")
def undisturbed(pairs, tmp_path_factory):
    work_dir = tmp_path_factory.mktemp("runs") / "whole"
    settings = tiny_settings(iterations=ITERATIONS, checkpoint_interval=3)
    run(pairs, work_dir, settings)
    return weights(work_dir)


def go_on(pairs, root, undisturbed):
    """Trains to the end from what is there, and compares with an undisturbed training."""
    work_dir = Store(root).folder("", "segmenter", {}).path
    assert complete_checkpoints(work_dir)
    settings = tiny_settings(iterations=ITERATIONS, checkpoint_interval=3)
    run(pairs, work_dir, settings)
    assert_same_weights(undisturbed, weights(work_dir))


@pytest.mark.large
@LINUX
def test_a_killed_loader_is_one_sentence(pairs, tmp_path, undisturbed, trial):
    training = Training(pairs, tmp_path)
    training.wait_for(5)
    _, *loaders = training.members()
    assert loaders
    os.kill(loaders[0], signal.SIGKILL)
    code, errors = training.end()
    assert code == 2 and errors.count("\n") == 1, errors
    assert "a process that loads images was killed" in errors and "segmenter.workers" in errors
    assert training.members() == []
    go_on(pairs, tmp_path, undisturbed)
    trial(
        "training",
        "a process that loads images killed",
        "exit 2, one sentence; resumes to equal weights",
    )


@pytest.mark.large
@LINUX
@pytest.mark.parametrize(("what", "exit_code"), [("Ctrl-C", 130), ("SIGTERM", 143)])
def test_an_interruption_leaves_nobody(what, exit_code, pairs, tmp_path, undisturbed, trial):
    training = Training(pairs, tmp_path)
    training.wait_for(5)
    assert len(training.members()) >= 2
    if what == "Ctrl-C":
        os.killpg(training.process.pid, signal.SIGINT)  # as a terminal does
    else:
        training.process.terminate()
    code, errors = training.end()
    assert code == exit_code
    assert errors == "interrupted: run the same command again to go on\n"
    assert training.members() == []
    go_on(pairs, tmp_path, undisturbed)
    outcome = f"exit {exit_code}, no process left; resumes to equal weights"
    trial("training", what, outcome)


@pytest.mark.large
@LINUX
def test_a_killed_training_leaves_nobody_and_no_lock(pairs, tmp_path, undisturbed, trial):
    training = Training(pairs, tmp_path)
    training.wait_for(5)
    assert len(training.members()) >= 2
    training.process.send_signal(signal.SIGKILL)
    assert training.process.wait() == -signal.SIGKILL
    ends = time.monotonic() + 60
    while training.members() and time.monotonic() < ends:
        time.sleep(0.01)
    assert training.members() == []
    with Store(tmp_path).folder("", "segmenter", {}) as folder:
        assert isinstance(folder, StageFolder)
    go_on(pairs, tmp_path, undisturbed)
    trial(
        "training",
        "the training killed, with a process that loads images",
        "no process left, the lock free; resumes to equal weights",
    )
