"""Validation, batches in parts, several processes, mixed precision."""

from contextlib import suppress
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from pipeline.clip import device
from pipeline.engine.sample import ImageReader
from pipeline.errors import UserError
from pipeline.evaluation.metrics import Confusion
from pipeline.segmenter.checkpoints import best_checkpoint, last_checkpoint
from pipeline.segmenter.predict import Segmenter
from tests import REPOSITORY
from tests.processes import TORCHRUN, run_python
from tests.segmenter.test_frozen_tower import SETTINGS, load_tower
from tests.segmenter.test_train import assert_same_weights, weights
from tests.segmenter.tiny_training import (
    figures_of,
    frozen_norms,
    tiny_settings,
    train_tiny,
    write_labelled,
)

DISTRIBUTED_RUN = """
import atexit
import sys
from pathlib import Path

def print_threads():
    print("threads at the end:", *(t.read_text() for t in Path("/proc/self/task").glob("*/comm")))

atexit.register(print_threads)  # the first that is registered runs last
sys.path.insert(0, sys.argv[1])
from tests.segmenter.test_training_features import of_kind
from tests.segmenter.tiny_training import train_tiny, write_labelled, write_pairs

pairs = write_pairs(Path(sys.argv[2]))
labelled = write_labelled(Path(sys.argv[2]) / "val")
given = of_kind(sys.argv[4], validation_interval=2)
train_tiny(pairs, Path(sys.argv[3]), validation=labelled, **given)
"""


def of_kind(kind: str, **changes) -> dict:
    """Returns what trains a network without batch norm's statistics of a batch."""
    if kind == "frozen tower":
        return {"settings": tiny_settings(**SETTINGS, **changes), "tower": load_tower}
    return {"settings": frozen_norms(**changes)}


def validated(pairs, work_dir, labelled, **changes):
    settings = tiny_settings(validation_interval=2, **changes)
    return train_tiny(pairs, work_dir, settings, validation=labelled)


def test_validation_changes_no_weight_and_keeps_the_best(trained, pairs, tmp_path):
    labelled = write_labelled(tmp_path / "val")
    work_dir = tmp_path / "run"
    validated(pairs, work_dir, labelled)
    assert_same_weights(weights(trained), weights(work_dir))

    figures = figures_of(work_dir)
    assert list(figures) == [2, 4, 5]  # at the interval, and at the end
    best = max(figures, key=figures.get)
    assert best_checkpoint(work_dir).name == f"best_mIoU_iter_{best}.pth"
    segmenter = Segmenter.from_run(best_checkpoint(work_dir))
    confusion, read = Confusion(3), ImageReader()
    for sample in labelled:
        confusion.add(sample.mask.read(), segmenter(read(sample)[0]))
    # mmsegmentation rounds percents to two digits.
    assert 100 * confusion.miou_union() == pytest.approx(figures[best], abs=0.006)
    assert figures_of(work_dir, "miou_union") == figures
    of_truth = figures_of(work_dir, "miou")
    assert 100 * confusion.miou() == pytest.approx(of_truth[best], abs=0.006)


def test_validation_reports_both_means_where_they_differ(pairs, tmp_path):
    labelled = write_labelled(tmp_path / "val")[:1]
    only = np.where(labelled[0].mask.read() == 1, 1, 255).astype(np.uint8)  # one class is there
    Image.fromarray(only).save(labelled[0].mask.path)
    validated(pairs, tmp_path / "run", labelled, iterations=2)
    (union,) = figures_of(tmp_path / "run", "miou_union").values()
    (miou,) = figures_of(tmp_path / "run", "miou").values()
    segmenter, confusion = Segmenter.from_run(tmp_path / "run"), Confusion(3)
    confusion.add(only, segmenter(ImageReader()(labelled[0])[0]))
    assert 100 * confusion.miou() == pytest.approx(miou, abs=0.006)
    assert 100 * confusion.miou_union() == pytest.approx(union, abs=0.006)
    assert union < miou, "a class is predicted that is not there"


@pytest.mark.parametrize("measured", [pytest.param([2], marks=pytest.mark.large), [2, 4]])
def test_resumed_validation_is_not_lost(pairs, tmp_path, capfd, measured):
    """A kill after the checkpoint and before its measurement costs neither figure nor best one."""
    labelled = write_labelled(tmp_path / "val")
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    changes = {"iterations": 6, "checkpoint_interval": 2, "learning_rate": 0.1}
    validated(pairs, whole, labelled, **changes)
    mask = Breaking(labelled[0].mask, len(measured))
    breaking = [replace(labelled[0], mask=mask), *labelled[1:]]
    with pytest.raises(RuntimeError, match="power cut"):
        validated(pairs, cut, breaking, **changes)
    assert last_checkpoint(cut).name == f"iter_{measured[-1] + 2}.pth"
    assert list(figures_of(cut)) == measured
    capfd.readouterr()
    validated(pairs, cut, labelled, **changes)
    assert capfd.readouterr() == ("", "")
    assert figures_of(cut) == figures_of(whole)
    assert list(figures_of(cut)) == [2, 4, 6]
    assert best_checkpoint(cut).name == best_checkpoint(whole).name
    assert_same_weights(weights(whole), weights(cut))


class Breaking:
    """A mask that can be read a few times."""

    def __init__(self, mask, reads):
        self.mask = mask
        self.reads = reads

    def read(self):
        self.reads -= 1
        if self.reads < 0:
            raise RuntimeError("power cut")
        return self.mask.read()


def test_curves_for_tensorboard(pairs, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train_tiny(pairs, tmp_path, tiny_settings(iterations=1))
    (file,) = tmp_path.glob("**/events.out.tfevents.*")
    events = EventAccumulator(str(file))
    events.Reload()
    assert "loss" in events.Tags()["scalars"]


def test_a_batch_in_parts_makes_the_same_steps(pairs, tmp_path):
    """An iteration stays a step of the optimiser; the parts' gradients add up to the batch's."""
    whole, parts = [], []
    train_tiny(pairs, tmp_path / "1", frozen_norms(), on_iteration=lambda *r: whole.append(r))
    train_tiny(
        pairs, tmp_path / "2", frozen_norms(accumulate=2), on_iteration=lambda *r: parts.append(r)
    )
    assert [r[0] for r in whole] == [r[0] for r in parts] == [1, 2, 3, 4, 5]
    train_tiny(pairs, tmp_path / "first", frozen_norms(iterations=1))
    assert_same_changes(*(weights(tmp_path / n) for n in ("first", "1", "2")))
    # Parts are means over their own labelled pixels, whose numbers differ a little.
    assert np.allclose([r[2] for r in whole], [r[2] for r in parts], rtol=0.02)
    one, other = (
        torch.load(last_checkpoint(tmp_path / n), weights_only=True)["param_schedulers"]
        for n in "12"
    )
    assert [s["last_step"] for s in one] == [s["last_step"] for s in other]


def assert_same_changes(before, one, other):
    changed = sum((one[n] - before[n]).float().square().sum() for n in one).sqrt()
    apart = sum((one[n] - other[n]).float().square().sum() for n in one).sqrt()
    assert 0 < apart < 0.03 * changed


def test_resuming_a_batch_in_parts(pairs, tmp_path):
    settings = frozen_norms(accumulate=4)  # of one image each: frozen norms do not mind
    train_tiny(pairs, tmp_path / "whole", settings)
    train_tiny(pairs, tmp_path / "cut", replace(settings, iterations=5))
    (tmp_path / "cut" / "iter_5.pth").unlink()
    assert last_checkpoint(tmp_path / "cut").name == "iter_4.pth"
    train_tiny(pairs, tmp_path / "cut", settings)
    assert_same_weights(weights(tmp_path / "whole"), weights(tmp_path / "cut"))


@pytest.mark.large
@pytest.mark.parametrize("kind", ["convolutions", "frozen tower"])
def test_two_processes_train_as_one(pairs, tmp_path, kind):
    """torchrun with two processes on the CPU (gloo) ends where one process in two parts does."""
    folder = pairs[0].image.parent
    labelled = write_labelled(folder / "val")  # before two processes look for them
    together, alone = tmp_path / "together", tmp_path / "alone"
    script = tmp_path / "distributed_run.py"
    script.write_text(DISTRIBUTED_RUN)
    arguments = script, REPOSITORY, folder, together, kind
    done = run_python(*TORCHRUN, *arguments, PYTHONPATH=str(REPOSITORY))
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("threads at the end") == 2 and "gloo" not in done.stdout
    given = of_kind(kind, validation_interval=2, accumulate=2)
    train_tiny(pairs, alone, validation=labelled, **given)
    for name, values in weights(together).items():
        assert torch.allclose(values.float(), weights(alone)[name].float(), atol=1e-5), name
    assert figures_of(together) == pytest.approx(figures_of(alone), abs=0.5)
    assert len(list(together.glob("*/*.log"))) == 1  # the first process alone writes
    assert not (REPOSITORY / ".dist_test").exists()


def test_mixed_precision_on_a_cpu(reports, pairs, tmp_path):
    losses = []
    settings = tiny_settings(precision="bf16")
    train_tiny(pairs, tmp_path, settings, on_iteration=lambda *r: losses.append(r[2]))
    exact = [report[2] for report in reports]
    assert losses != exact and np.allclose(losses, exact, rtol=0.05)
    assert all(v.dtype != torch.bfloat16 for v in weights(tmp_path).values())
    with pytest.raises(UserError, match="fp16 is for GPUs"):
        train_tiny(pairs, tmp_path / "fp16", tiny_settings(precision="fp16"))


def test_a_training_keeps_the_precision_that_auto_was_when_it_began(
    reports, pairs, tmp_path, monkeypatch
):
    def losses(work_dir, flags, precision="auto", stop=None):
        found = []

        def report(iteration, _, loss):
            found.append(loss)
            if iteration == stop:
                raise KeyboardInterrupt

        monkeypatch.setattr(device, "cpu_flags", lambda: frozenset(flags))
        with suppress(KeyboardInterrupt):
            train_tiny(
                pairs, tmp_path / work_dir, tiny_settings(precision=precision), on_iteration=report
            )
        return found

    plain = [report[2] for report in reports]
    rough = losses("bf16", (), "bf16")
    # Until the third iteration, of which the checkpoint of the second is kept.
    assert losses("begun in bf16", {"avx512_bf16"}, stop=3) == rough[:3]
    assert losses("begun in bf16", ()) == rough[2:]
    assert_same_weights(weights(tmp_path / "bf16"), weights(tmp_path / "begun in bf16"))
    assert losses("begun in fp32", (), stop=3) == plain[:3] != rough[:3]
    assert losses("begun in fp32", {"avx512_bf16"}) == plain[2:]


@pytest.mark.parametrize("precision", [None, "int4", ["fp32"]])
def test_a_checkpoint_of_no_known_precision_is_resumed_as_this_machine_can(
    pairs, tmp_path, precision
):
    settings = tiny_settings(precision="auto", iterations=2)
    path = train_tiny(pairs, tmp_path, settings)
    checkpoint = torch.load(path, weights_only=True)
    checkpoint["meta"]["segmenter"]["precision"] = precision
    torch.save(checkpoint, path)
    assert train_tiny(pairs, tmp_path, replace(settings, iterations=3)).name == "iter_3.pth"
