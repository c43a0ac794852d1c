"""Full disks, read-only ones, killed processes, Ctrl-C: one sentence, and nothing is lost."""

import errno
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.engine.writer import Writer
from pipeline.errors import UserError
from pipeline.segmenter import checkpoints
from pipeline.segmenter.checkpoints import best_checkpoints, complete_checkpoints
from tests.processes import Forks, wait_until
from tests.results import open_writer
from tests.segmenter import disturbed_trainings
from tests.segmenter.disturbed_trainings import (
    SLOW,
    checkpoints_of,
    contents,
    die_while_writing,
    train_measured,
    train_slowly,
)
from tests.segmenter.test_train import assert_same_weights, weights
from tests.segmenter.tiny_training import FIGURES, tiny_settings, train_tiny, write_labelled

NO_SPACE = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
LINUX = pytest.mark.skipif(sys.platform != "linux", reason="it reads /proc and mounts")


PRELOADED = ("tests.segmenter.disturbed_trainings", "tests.segmenter.tiny_training:shorten_logs")
PRELOADED += ("pipeline.segmenter.mmseg:import_mmseg", "torch.utils.tensorboard", "torch._dynamo")
PRELOADED += ("matplotlib.pyplot", "tests.faults.kill_points")


@pytest.fixture(scope="module")
def forks(tmp_path_factory):
    """Starts trainings."""
    forks = Forks(*PRELOADED, folder=tmp_path_factory.mktemp("forks"))
    yield forks
    forks.close()


def start(forks, function, *given):
    """Starts a training of disturbed_trainings.py."""
    return forks.call([f"{disturbed_trainings.__name__}:{function.__name__}", *given])


@pytest.fixture
def small_disk(tmp_path):
    """What starts trainings where a small file system is, the folder that they see, and we do."""
    kind = ["unshare", "-m"] if os.geteuid() == 0 else ["unshare", "-rm"]
    if not shutil.which("unshare"):
        pytest.skip("there is no unshare to mount a small file system in")
    (small := tmp_path / "small").mkdir()
    mount = ["mount", "-t", "tmpfs", "tmpfs", small]
    probe = subprocess.run([*kind, *mount], capture_output=True, text=True)
    if probe.returncode:
        pytest.skip(f"no small file system can be mounted here ({probe.stderr.strip()})")
    forks = Forks(*PRELOADED, folder=tmp_path, launcher=kind)
    assert forks.call(["subprocess:check_call", mount]).wait() == 0
    yield forks, small, Path(f"/proc/{forks.server.pid}/root{small}")
    forks.close()


def remount(forks, small, setting):
    command = ["mount", "-o", f"remount,{setting}", small]
    assert forks.call(["subprocess:check_call", command]).wait() == 0


@pytest.mark.large
@LINUX
def test_a_full_disk_is_one_sentence_and_costs_nothing(small_disk, tmp_path, request):
    forks, small, seen = small_disk
    assert start(forks, train_measured, tmp_path, tmp_path / "undisturbed").wait() == 0
    wanted = checkpoints_of(tmp_path / "undisturbed")
    size = (tmp_path / "undisturbed" / "iter_5.pth").stat().st_size
    remount(forks, small, f"size={12 * size}")
    tries, full = 30 if request.config.getoption("--soak") else 6, []
    for number in range(tries):
        state, filler = os.statvfs(seen), seen / "filler"
        left = round(4.2 * number / (tries - 1) * size)  # a share of the last checkpoint
        filler.write_bytes(bytes(max(0, state.f_bavail * state.f_frsize - left)))
        training = start(forks, train_measured, tmp_path, small / str(number))
        if code := training.wait():
            assert code == 2 and training.output.count("\n") == 1, training.output
            assert training.output.startswith("error: cannot write")
            assert "No space left on device" in training.output
            assert "run the same command again" in training.output
            full.append((training.output, complete_checkpoints(seen / str(number))))
        checkpoints_of(seen / str(number))  # none is torn
        assert not [*(seen / str(number)).rglob(".partial-*")]
        filler.unlink()
        resumed = start(forks, train_measured, tmp_path, small / str(number))
        assert (resumed.wait(), resumed.output) == (0, "")
        assert checkpoints_of(seen / str(number)) == wanted, "as of an undisturbed training"
        shutil.rmtree(seen / str(number))
    # From the first byte on, at the first checkpoint, at the best, at those after; and enough.
    assert len(full) >= 4 and code == 0
    assert len({errors.split(":")[1].split("/")[-1] for errors, _ in full}) >= 3
    assert any(kept for _, kept in full), "some checkpoint is whole before the disk is full"


@pytest.mark.large
@LINUX
def test_a_folder_that_can_only_be_read_is_one_sentence(small_disk, tmp_path):
    forks, small, _ = small_disk
    assert start(forks, train_measured, tmp_path, small / "begun", 3).wait() == 0
    remount(forks, small, "ro")
    for name in ("begun", "new"):
        training = start(forks, train_measured, tmp_path, small / name)
        assert training.wait() == 2 and training.output.count("\n") == 1, training.output
        assert "Read-only file system" in training.output


def failing(*args, **kwargs):
    raise NO_SPACE


SHORT = {"iterations": 3, "checkpoint_interval": 1}


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
    pairs, undisturbed_training, tmp_path, monkeypatch, capfd, place
):
    monkeypatch.setattr("pipeline.segmenter.train.LOG_INTERVAL", 1)
    settings = tiny_settings(**SHORT)
    with monkeypatch.context() as patched:
        patched.setattr(place, failing)
        with pytest.raises(UserError, match="No space left on device; ") as caught:
            train_tiny(pairs, tmp_path / "run", settings)
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")
    train_tiny(pairs, tmp_path / "run", settings)
    assert_same_weights(weights(undisturbed_training(**SHORT)[0]), weights(tmp_path / "run"))


def test_other_errors_of_a_training_stay_faults_of_ours(pairs, tmp_path, monkeypatch):
    def broken(*args, **kwargs):
        raise OSError(errno.EBADF, "Bad file descriptor")

    monkeypatch.setattr("mmengine.visualization.LocalVisBackend._dump", broken)
    with pytest.raises(OSError, match="Bad file descriptor"):
        train_tiny(pairs, tmp_path, tiny_settings(iterations=1))


def test_the_best_checkpoint_goes_when_a_better_one_is_there(pairs, tmp_path, monkeypatch):
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
        train_tiny(pairs, work_dir, settings, validation=labelled)
    assert [p.name for p in best_checkpoints(work_dir)] == ["best_mIoU_iter_2.pth"]
    monkeypatch.setattr(checkpoints, "write_atomically", write)
    train_tiny(pairs, work_dir, settings, validation=labelled)
    assert [p.name for p in best_checkpoints(work_dir)] == ["best_mIoU_iter_4.pth"]


def test_no_moment_without_a_whole_checkpoint(pairs, tmp_path, monkeypatch):
    """Whatever is written or removed, one whole checkpoint is there once there was one."""
    written, moments = checkpoints.write_atomically, []

    def watch(path, data):
        moments.append(len(complete_checkpoints(tmp_path)))
        written(path, data)
        moments.append(len(complete_checkpoints(tmp_path)))

    monkeypatch.setattr(checkpoints, "write_atomically", watch)
    train_tiny(pairs, tmp_path, tiny_settings(iterations=5, checkpoint_interval=1))
    assert moments[0] == 0 and min(moments[1:]) >= 1 and max(moments) == 2


# Processes that are killed


@pytest.mark.large
def test_a_kill_in_the_midst_of_a_file_leaves_no_half_of_it(trained, pairs, forks, tmp_path):
    killed = start(forks, die_while_writing, pairs[0].image.parent, tmp_path)
    assert killed.wait() == -signal.SIGKILL
    assert [path.name for path in tmp_path.glob("*.pth")] == ["iter_2.pth"]
    assert len(list(tmp_path.glob(".partial-*"))) == 1
    train_tiny(pairs, tmp_path)
    assert_same_weights(weights(trained), weights(tmp_path))


@pytest.mark.large
@LINUX
@pytest.mark.parametrize("step", [9, pytest.param(1, marks=pytest.mark.soak)])
def test_a_kill_at_any_point_changes_neither_weights_nor_the_best(forks, tmp_path, step):
    """All points are taken, or with a step some of those after the last iteration."""

    def train(root, kill_at=None):
        trace = root.with_suffix(".points")
        watch = ["tests.faults.kill_points:watch", root, trace, kill_at]
        stage = [f"{disturbed_trainings.__name__}:run_measured_stage", tmp_path / "data", root]
        killed = forks.call(watch, stage)
        assert killed.wait() == (0 if kill_at is None else -signal.SIGKILL), killed.output
        return trace.read_text().splitlines()

    points = train(tmp_path / "whole")
    wanted = contents(tmp_path / "whole")
    last = next(n for n, p in enumerate(points) if p.endswith(f"iter_{max(FIGURES)}.pth"))
    tried = range(last if step > 1 else 0, len(points), step)
    assert len(points) > 60 and len(tried) >= 3
    for number in tried:
        root = tmp_path / str(number)
        train(root, number)
        train(root)
        assert contents(root) == wanted, points[number]
        shutil.rmtree(root)


@pytest.fixture
def disturbed(pairs, forks, undisturbed_training, tmp_path):
    """A training with a process that loads images, at its fifth iteration.

    In the end nobody is left, and it goes on to the weights of an undisturbed training.
    """
    training = start(forks, train_slowly, pairs[0].image.parent, tmp_path)
    wait_until(lambda: "5" in training.output.split() or "error" in training.output)
    assert len(training.members()) >= 2, training.output
    yield training
    wait_until(lambda: not training.members(), 60)
    work_dir = open_writer(tmp_path, "", "segmenter", {}).path
    assert complete_checkpoints(work_dir)
    train_tiny(pairs, work_dir, tiny_settings(**SLOW))
    assert_same_weights(weights(undisturbed_training(**SLOW)[0]), weights(work_dir))


def said(training):
    """Returns what a training said, without the numbers of its iterations."""
    return [line for line in training.output.splitlines() if not line.isdigit()]


@pytest.mark.large
@LINUX
def test_a_killed_loader_is_one_sentence(disturbed):
    os.kill(disturbed.members()[1], signal.SIGKILL)
    assert disturbed.wait() == 2
    [sentence] = said(disturbed)
    assert "a process that loads images was killed" in sentence and "segmenter.workers" in sentence
    assert disturbed.members() == []


@pytest.mark.large
@LINUX
@pytest.mark.parametrize(("what", "exit_code"), [("Ctrl-C", 130), ("SIGTERM", 143)])
def test_an_interruption_leaves_nobody(what, exit_code, disturbed):
    if what == "Ctrl-C":
        disturbed.send(signal.SIGINT)
    else:
        disturbed.kill(signal.SIGTERM)
    assert disturbed.wait() == exit_code
    assert said(disturbed) == ["interrupted: run the same command again to go on"]
    assert disturbed.members() == []


@pytest.mark.large
@LINUX
def test_a_killed_training_leaves_nobody_and_no_lock(disturbed, tmp_path):
    disturbed.kill()
    assert disturbed.wait() == -signal.SIGKILL
    wait_until(lambda: not disturbed.members(), 60)
    with open_writer(tmp_path, "", "segmenter", {}) as folder:
        assert isinstance(folder, Writer)
