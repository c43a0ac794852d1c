"""What a worker does with its shards, in this process."""

from __future__ import annotations

import pickle
from concurrent.futures import Future
from pathlib import Path

import pytest

from pipeline.clip import frozen
from pipeline.engine import workers
from pipeline.engine.run import Run
from pipeline.engine.scan import open_folder
from pipeline.engine.workers import Executor, WorkerSettings, compute_shard
from pipeline.errors import UserError
from pipeline.files.journal import Journal
from pipeline.stages.config import compose, read_config
from pipeline.stages.pipeline import Pipeline


@pytest.fixture
def pipeline(photographs: Path, tiny_checkpoint: Path, tmp_path: Path) -> Pipeline:
    return Pipeline.open(
        read_config(
            compose(
                [
                    "dataset=folder",
                    f"dataset.root={photographs}",
                    "dataset.classes=[cat,person,rocket,cup]",
                    "clip=file",
                    f"clip.checkpoint={tiny_checkpoint}",
                    "tags.templates=photo",
                    "tags.votes=2",
                    "tags.min_score=0",
                    f"output_dir={tmp_path / 'out'}",
                ]
            )
        )
    )


@pytest.fixture(autouse=True)
def fresh_worker():
    for cache in (workers._resident, frozen._clip, frozen._encoder):
        cache.cache_clear()


class HerePool(WorkerSettings):
    """Does in this process what workers would, two images a shard."""

    size, deaths = 2, ()

    def __init__(self):
        super().__init__(shard_size=2)
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
    steps = pipeline.steps(commands)
    return list(Run(steps, builder.images, builder.store, Executor(pool, 2))())


def test_a_worker_loads_its_model_once_for_all_shards_and_stages(pipeline, monkeypatch):
    loaded = []
    load_clip = frozen.load_clip
    monkeypatch.setattr(
        frozen, "load_clip", lambda *given: loaded.append(given) or load_clip(*given)
    )
    pool = HerePool()
    outcomes = run(pipeline, ["tags"], pool) + run(pipeline, ["cams"], pool)
    assert [(o.stage, o.images, o.computed) for o in outcomes] == [("tags", 5, 5), ("cams", 5, 5)]
    assert len(pool.given) >= 6, "five images are three shards"
    assert len(loaded) == 1


def test_what_workers_wrote_is_taken_over_after_a_kill(pipeline):
    (stage,) = pipeline.steps(["tags"])
    builder = pipeline.builder
    folder = open_folder(stage, builder.store)
    folder.path.mkdir(parents=True)
    items = [stage.item(sample, {}) for sample in builder.images.of("all")[:2]]
    place = (folder.path, folder.recipe)
    entries, failures = compute_shard(pickle.dumps((stage, {}, stage.recipe)), [place], None, items)
    assert [line["id"] for line in entries[0]] == ["a", "b"] and not failures
    assert list(Journal(folder.path / "entries.jsonl").entries) == ["a", "b"]
    with folder:
        assert list(folder.entries) == ["a", "b"]
        assert all(folder.is_done(item.sample.id, item.input) for item in items)
        assert not list(folder.path.glob(".entries-*"))


def test_an_image_that_cannot_be_read_is_the_shards_failure(pipeline, photographs):
    (photographs / "a.jpg").write_bytes(b"nothing")
    [outcome] = run(pipeline, ["tags"], HerePool())
    assert (outcome.images, outcome.computed, outcome.left_out) == (5, 4, 1)
    (stage,) = pipeline.steps(["tags"])
    assert "cannot be decoded" in open_folder(stage, pipeline.builder.store).failures["a"]


def test_other_weights_in_the_same_file_are_loaded_anew(pipeline, monkeypatch, tmp_path):
    """A worker of a cluster outlives a run, and a file may hold other weights in the next."""
    (stage,) = pipeline.steps(["tags"])
    loaded, load = [], type(stage).load
    monkeypatch.setattr(
        type(stage), "load", lambda self, inputs: loaded.append(1) or load(self, inputs)
    )
    items = [stage.item(sample, {}) for sample in pipeline.builder.images.of("all")]
    place = (tmp_path, stage.recipe)
    for recipe, times in (("another recipe", 1), ("another recipe", 1), (stage.recipe, 2)):
        compute_shard(pickle.dumps((stage, {}, recipe)), [place], None, items[:1])
        assert len(loaded) == times


@pytest.mark.parametrize("key", ["workers", "threads", "shard_size"])
@pytest.mark.parametrize("value", ["0", "-1", "1.5", "two"])
def test_numbers_are_checked(key, value):
    given = ["dataset=demo", "executor=processes", f"executor.{key}={value}"]
    with pytest.raises(UserError, match=rf"executor\.{key}={value} is "):
        read_config(compose(given))
