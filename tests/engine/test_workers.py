"""What a worker does with its shards, in this process."""

from __future__ import annotations

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf
from pipeline.project import Project
from pipeline.shards import Workforce, do_shard

from pipeline import method as method_module
from pipeline import shards, stages
from pipeline.files.journal import Journal
from tests.conftest import REPOSITORY


@pytest.fixture
def project(photographs: Path, tiny_checkpoint: Path, tmp_path: Path) -> Project:
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(REPOSITORY / "configs"), version_base="1.3"):
        config = compose(
            "config",
            [
                "dataset=folder",
                f"dataset.root={photographs}",
                "dataset.classes=[cat,person,rocket,cup]",
                "clip=file",
                f"clip.checkpoint={tiny_checkpoint}",
                "tags.templates=photo",
                "tags.votes=2",
                "tags.min_score=0",
                "executor=processes",
                "executor.workers=2",
                "executor.shard_size=2",
                f"output_dir={tmp_path / 'out'}",
            ],
        )
    return Project(OmegaConf.to_container(config, resolve=True))


@pytest.fixture(autouse=True)
def fresh_worker(monkeypatch):
    monkeypatch.setattr(shards, "_bench", None)
    monkeypatch.setattr(shards, "_method", None)


class HerePool:
    """Does in this process what workers would."""

    size, deaths = 2, ()

    def __init__(self):
        self.given = []

    def submit(self, work, *arguments):
        from concurrent.futures import Future

        self.given.append(arguments)
        future = Future()
        future.set_result(work(*arguments))
        return future

    def close(self, at_once=False):
        pass


def test_a_worker_loads_its_model_once_for_all_shards_and_stages(project, monkeypatch):
    loaded = []
    load_clip = method_module.load_clip
    monkeypatch.setattr(
        method_module, "load_clip", lambda *given: loaded.append(given) or load_clip(*given)
    )
    pool = HerePool()
    project.workforce.__dict__["_pool"] = pool
    outcomes = list(stages.run(project, ["tags"]))
    outcomes += stages.run(project, ["cams"])
    assert [(o.stage, o.images, o.computed) for o in outcomes] == [("tags", 5, 5), ("cams", 5, 5)]
    assert len(pool.given) >= 3, "five images are three shards"
    assert len(loaded) == 1


def test_what_workers_wrote_is_taken_over_after_a_kill(project):
    samples = project.samples("all")
    folder = project.tags_folder("all")
    folder.path.mkdir(parents=True)
    do = project.workforce.doing(project.method, project.store, "tagging", [folder])
    order = do.args[0]
    todo = [Todo(s, "key", None).for_worker() for s in samples[:2]]
    done = do_shard(order, todo)
    assert [line["id"] for line in done.lines[0]] == ["a", "b"] and not done.failures
    assert list(Journal(folder.path / "entries.jsonl").entries) == ["a", "b"]
    with folder:
        assert list(folder.entries) == ["a", "b"]
        assert not list(folder.path.glob(".entries-*"))


def test_an_image_that_cannot_be_read_is_the_shards_failure(project, photographs):
    (photographs / "a.jpg").write_bytes(b"nothing")
    project.workforce.__dict__["_pool"] = HerePool()
    [outcome] = stages.run(project, ["tags"])
    assert (outcome.images, outcome.computed, outcome.left_out) == (5, 4, 1)
    assert "cannot be decoded" in project.tags_folder("all").failures["a"]


@pytest.mark.parametrize("key", ["workers", "threads", "shard_size"])
def test_numbers_are_checked(key):
    from pipeline.errors import UserError

    for value in (0, -1, 1.5, "two"):
        with pytest.raises(UserError, match=f"executor.{key}={value} is no number"):
            Workforce({"name": "processes", key: value}, 2)
