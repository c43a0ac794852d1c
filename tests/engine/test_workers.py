"""What a worker does with its shards, in this process."""

from __future__ import annotations

import os
import pickle
import re
import shutil
import threading
import warnings
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image
from rich.progress import Progress
from safetensors.torch import load_file, save_file

from pipeline.clip import frozen
from pipeline.clip.weights import checkpoint
from pipeline.engine import workers
from pipeline.engine.executors import ExecutorSettings, WorkerSettings
from pipeline.engine.run import Run
from pipeline.engine.sample import Sample
from pipeline.engine.stage import Item, Output
from pipeline.engine.workers import Executor, compute_here, compute_shard
from pipeline.errors import UserError
from pipeline.files.fingerprints import fingerprint_file
from pipeline.files.journal import Journal
from pipeline.stages import pipeline as stages
from pipeline.stages.config import compose, read_config
from pipeline.stages.pipeline import Pipeline
from tests.small_runs import folder_options


@pytest.fixture
def opened(photographs: Path, tmp_path: Path) -> Callable[[Path, str], Pipeline]:
    """Returns a run with the weights of a file that writes to a folder."""

    def opened(checkpoint: Path, out: str) -> Pipeline:
        own = "runtime.workers=null", f"output_dir={tmp_path / out}"
        given = folder_options(photographs, checkpoint, *own)
        return Pipeline.open(read_config(compose(given)))

    return opened


@pytest.fixture
def pipeline(opened, tiny_checkpoint) -> Pipeline:
    return opened(tiny_checkpoint, "out")


@pytest.fixture(autouse=True)
def fresh_caches_before():
    fresh_caches()


def fresh_caches():
    for cache in (workers._resident, frozen._model, frozen._encoder):
        cache.cache_clear()


def test_a_process_per_core_that_this_one_may_use(photographs, tiny_checkpoint, monkeypatch):
    """As in a job of three cores on a large machine."""
    for elsewhere in (
        "os.cpu_count",
        "multiprocessing.cpu_count",
        "torch.multiprocessing.cpu_count",
    ):
        monkeypatch.setattr(elsewhere, lambda: 64)
    monkeypatch.setattr("joblib.cpu_count", lambda: 3)
    given = []
    load_dataset = stages.load_dataset
    monkeypatch.setattr(stages, "load_dataset", lambda *a: given.append(a[1]) or load_dataset(*a))
    options = folder_options(photographs, tiny_checkpoint)
    opened = Pipeline.open(read_config(compose([*options, "runtime.workers=null"])))
    assert given == [3] and opened.builder.workers == opened.builder.reader.threads == 3
    assert [WorkerSettings().threads_of(size) for size in (1, 2, 3, 6)] == [3, 1, 1, 1]
    given = Pipeline.open(read_config(compose([*options, "runtime.workers=5"])))
    assert given.builder.workers == 5


def test_a_run_and_its_workers_keep_freed_memory(pipeline, monkeypatch):
    """A program that imports the package does not, see tests/host.py."""
    called = []
    monkeypatch.setattr(stages, "keep_freed_memory", lambda: called.append("run"))
    monkeypatch.setattr(frozen, "keep_freed_memory", lambda: called.append("load"))
    list(pipeline.plan(["tags"]))
    assert not called
    list(pipeline.run(["tags"]))
    assert called == ["run", "load"]


class HerePool(WorkerSettings):
    """Does in this process what workers would."""

    size, deaths = 2, ()

    def __init__(self):
        super().__init__()
        self.given = []

    def threads_of(self, size):
        return None

    def start(self, size):
        return self

    def submit(self, work, *arguments):
        self.given.append(arguments)
        future = Future()
        future.set_result(work(*arguments))
        return future

    def close(self, at_once=False):
        pass


def run(pipeline, commands, pool):
    builder = pipeline.builder
    with Run(builder.images, builder.store, Executor(pool, 2)) as run:
        return [*run.compute(pipeline.stages(commands))]


def test_a_worker_loads_its_model_once_for_all_shards_and_stages(pipeline, monkeypatch):
    loaded = []
    load_clip = checkpoint.load_clip
    monkeypatch.setattr(
        checkpoint,
        "load_clip",
        lambda *given, **device: loaded.append(device) or load_clip(*given, **device),
    )
    pool = HerePool()
    outcomes = run(pipeline, ["tags"], pool) + run(pipeline, ["cams"], pool)
    assert [(o.stage, o.images, o.computed) for o in outcomes] == [("tags", 5, 5), ("cams", 5, 5)]
    assert len(pool.given) == 4, "five images are two shards"
    assert loaded.count({}) == 1, "shapes alone are read for each pipeline"


def test_each_result_is_reported_while_the_next_one_is_computed():
    """It need not be stored yet; that of the image before it is."""
    ids = [f"{k}" for k in range(8)]
    stored, reported, before = {i: threading.Event() for i in ids}, [], []

    class Slow(SimpleNamespace):
        def compute(self, images, model):
            for k, (item, _) in enumerate(images):
                assert all(stored[i].wait(60) for i in ids[:k])
                before.append(len(reported))
                yield item, {"slow": Output()}

    def adopt(name, entry):
        stored[entry["id"]].set()

    items = [Item(Sample(i, Path(i)), {}) for i in ids]
    stage = Slow(reads_images=False, chosen="stage=slow", machine=())
    for sample, reason in compute_here(stage, None, {"slow": (Path(), "")}, adopt, items):
        assert reason is None
        reported.append(sample.id)
    assert reported == ids
    assert all(number >= k - 2 for k, number in enumerate(before))


@pytest.mark.parametrize(
    ("spread", "first"), [(False, "loading the model"), (True, "waiting for workers")]
)
def test_the_bar_says_what_happens_before_the_first_image(
    pipeline, monkeypatch, capsys, spread, first
):
    monkeypatch.setattr("rich.console.Console.is_terminal", True)
    monkeypatch.setenv("COLUMNS", "140")
    update = Progress.update
    monkeypatch.setattr(
        Progress, "update", lambda bar, *a, **given: (update(bar, *a, **given), bar.refresh())
    )
    run(pipeline, ["tags"], HerePool() if spread else ExecutorSettings())
    bars = [line for line in re.split("[\r\n]", capsys.readouterr().err) if "tags all" in line]
    notes = [first, "loading CLIP", "first batch"]
    shown = [next(k for k, bar in enumerate(bars) if note in bar) for note in notes]
    assert shown == sorted(shown)
    counts = [int(re.search(r"(\d)/5", bar)[1]) for bar in bars]
    assert counts[shown[-1]] == 0 and not any(note in bars[-1] for note in notes)
    assert [*dict.fromkeys(counts)] == [0, 1, 2, 3, 4, 5]


def test_what_workers_wrote_is_taken_over_after_a_kill(pipeline):
    (stage,) = pipeline.stages(["tags"])
    builder = pipeline.builder
    folder = stage.writer(builder.store)
    folder.path.mkdir(parents=True)
    items = [stage.item(sample, {}) for sample in builder.images.of("all")[:2]]
    places = {"tags": (folder.path, folder.results.own_key)}
    entries, failures = compute_shard(
        pickle.dumps(([], pickle.dumps((stage, {}, {}, {})))), places, None, items
    )
    assert [line["id"] for line in entries["tags"]] == ["a", "b"] and not failures
    assert list(Journal(folder.path / "entries.jsonl").entries) == ["a", "b"]
    with folder:
        assert list(folder.results.entries) == ["a", "b"]
        assert all(any(folder.results.candidates(item.sample.id, item.inputs)) for item in items)
        assert not list(folder.path.glob(".entries-*"))


def test_an_image_that_cannot_be_read_is_the_shards_failure(pipeline, photographs):
    (photographs / "a.jpg").write_bytes(b"nothing")
    [outcome] = run(pipeline, ["tags"], HerePool())
    assert (outcome.images, outcome.computed, len(outcome.left_out)) == (5, 4, 1)
    (stage,) = pipeline.stages(["tags"])
    assert "cannot be decoded" in stage.results(pipeline.builder.store).failures["a"]


def test_a_worker_is_silent_about_odd_files(pipeline, photographs):
    """As a command line is; Pillow would print a warning for each of them."""
    exif = b"Exif\0\0MM\0*\0\0\0\x08\0\x03\x01\x12\0\x03\0\0\0\x09cut off"
    with Image.open(photographs / "a.jpg") as picture:
        picture.save(photographs / "a.jpg", exif=exif)
    with warnings.catch_warnings(record=True) as given:
        warnings.simplefilter("always")
        with Image.open(photographs / "a.jpg") as picture:
            picture.getexif().get(1)
        assert [str(each.message) for each in given] == ["Truncated File Read"]
        run(pipeline, ["tags"], HerePool())
    assert len([each for each in given if "PIL" in each.filename]) == 1


def test_other_weights_in_the_same_file_are_loaded_anew(pipeline, monkeypatch, tmp_path):
    """A worker of a cluster outlives a run, and a file may hold other weights in the next."""
    (stage,) = pipeline.stages(["tags"])
    loaded, load = [], type(stage).load
    monkeypatch.setattr(
        type(stage), "load", lambda self, inputs: loaded.append(1) or load(self, inputs)
    )
    items = [stage.item(sample, {}) for sample in pipeline.builder.images.of("all")]
    places = {"tags": (tmp_path, stage.own_key)}
    for content, times in (("before", 1), ("before", 1), ("after", 2)):
        (path := tmp_path / "weights").write_text(content)
        learned = {"network": fingerprint_file(path)}
        pickled = pickle.dumps(([], pickle.dumps((stage, {}, {"network": path}, learned))))
        compute_shard(pickled, places, None, items[:1])
        assert len(loaded) == times


@pytest.fixture
def weights(tiny_checkpoint, tmp_path) -> tuple[Path, Callable[[], None]]:
    """A file of weights, and what puts others into it that have its size and time."""
    path = tmp_path / "weights.safetensors"
    shutil.copy(tiny_checkpoint, path)

    def exchange() -> None:
        status, tensors = path.stat(), load_file(path)
        save_file({k: v.flip(0).contiguous() for k, v in tensors.items()}, path)
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
        assert path.stat().st_size == status.st_size

    return path, exchange


def test_a_worker_that_outlives_a_run_takes_the_weights_of_the_next(weights, opened):
    path, exchange = weights

    def scores(out: str) -> bytes:
        (outcome,) = run(opened(path, out), ["tags"], HerePool())
        return (outcome.path / "scores.npz").read_bytes()

    first = scores("first")
    exchange()
    second = scores("second")
    fresh_caches()
    assert scores("alone") == second != first


def test_weights_that_change_during_a_run_are_refused(weights, opened):
    path, exchange = weights
    pipeline = opened(path, "out")
    assert all(stage.key for stage in pipeline.stages(["tags"]))
    exchange()
    with pytest.raises(UserError, match="not hold the weights .*began with"):
        run(pipeline, ["tags"], HerePool())
