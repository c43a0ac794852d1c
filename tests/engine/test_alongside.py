"""Masks that processes make while the model looks at the next images."""

from __future__ import annotations

from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool

import pytest

from pipeline.engine import sample, workers
from pipeline.engine.executors import WorkerSettings
from pipeline.engine.pool import ProcessPool
from pipeline.errors import ImageError, UserError
from pipeline.masks.refiner import Refiner
from pipeline.stages.config import compose, read_config
from pipeline.stages.pipeline import Pipeline
from pipeline.tags.stage import ScoredTags
from tests.small_runs import artefacts, folder_options, wait_for_entries

STAGES = ["tags", "cams", "masks"]


class Processes:
    """Does in this process what others would; a process dies on the images in ``deadly``."""

    size, deaths = 2, (BrokenProcessPool,)

    def __init__(self, deadly: set[str] = frozenset()):
        self.deadly, self.given, self.handed_on, self.noted = deadly, [], [], []

    def submit(self, work, items):
        self.given.append([item.sample.id for item in items])
        future = Future()
        if self.deadly & {item.sample.id for item in items}:
            future.set_exception(BrokenProcessPool())
        else:
            done, notes = work(items)
            future.set_result((done, [*notes, *self.noted]))
        return future

    def close(self, at_once=False):
        pass


@pytest.fixture
def processes(monkeypatch) -> Processes:
    pool, hand_on = Processes(), workers.Alongside.hand_on

    def note_and_hand_on(alongside: workers.Alongside, sample: sample.Sample) -> None:
        pool.handed_on.append(sample.id)
        hand_on(alongside, sample)

    monkeypatch.setattr(workers, "ProcessPool", lambda size: pool)
    monkeypatch.setattr(workers.Alongside, "hand_on", note_and_hand_on)
    return pool


@pytest.fixture
def opened(photographs, tiny_checkpoint, tmp_path):
    """Opens a run; stages with masks share a pass over the images unless told otherwise."""

    def opened(out: str = "out", *options: str) -> Pipeline:
        own = "runtime.workers=2", f"output_dir={tmp_path / out}", "runtime.one_pass=true", *options
        given = folder_options(photographs, tiny_checkpoint, *own)
        return Pipeline.open(read_config(compose(given)))

    return opened


@pytest.fixture
def alone(finish, tmp_path) -> dict[str, bytes]:
    """The results of masks that are made in their own turn."""
    return artefacts(finish("stage=[tags,cams,masks]").rename(tmp_path / "alone"))


def computed(outcomes) -> dict[str, int]:
    return {outcome.stage: outcome.computed for outcome in outcomes}


def test_masks_are_those_of_one_stage_after_the_other(opened, processes, tmp_path):
    alone = computed(opened("alone", "runtime.one_pass=false").run(STAGES))
    assert processes.handed_on == []
    processes.given.clear()
    assert computed(opened().run(STAGES)) == alone == {"tags": 5, "cams": 5, "masks": 5}
    assert len(processes.given) == len(processes.handed_on) == 5
    assert artefacts(tmp_path / "out") == artefacts(tmp_path / "alone")
    builder = opened().builder
    found = [stage.results(builder.store).manifest for stage in builder.stages[:3]]
    assert all(manifest["complete"] for manifest in found)


def test_what_processes_note_is_printed_once(opened, processes, capsys):
    processes.noted.append("there is no kernel over there")
    list(opened().run(STAGES))
    assert capsys.readouterr().err.count("note: there is no kernel over there\n") == 1


def test_masks_follow_cams_that_have_a_pass_of_their_own(opened, alone, processes, tmp_path):
    list(opened().run(["tags"]))
    processes.given.clear()
    assert computed(opened().run(["cams", "masks"])) == {"cams": 5, "masks": 5}
    assert len(processes.given) == len(processes.handed_on) == 5
    assert artefacts(tmp_path / "out") == alone


def test_masks_follow_tags_that_are_known_after_all_images(opened, processes, tmp_path):
    standardised = "tags.standardise=[class]"
    list(opened("alone", "runtime.one_pass=false", standardised).run(STAGES))
    processes.given.clear()
    list(opened("out", standardised).run(STAGES))
    assert len(processes.given) == len(processes.handed_on) == 5
    assert artefacts(tmp_path / "out") == artefacts(tmp_path / "alone")


def test_what_exists_is_not_computed_again(opened, processes, tmp_path):
    list(opened().run(STAGES))
    (changed, *_) = sorted((tmp_path / "out" / "all" / "cams" / "latest").glob("*.npz"))
    changed.unlink()
    processes.given.clear()
    assert computed(opened().run(STAGES)) == {"tags": 0, "cams": 1, "masks": 0}
    assert processes.given == [], "its mask was made from equal CAMs"
    (tmp_path / "out" / "all" / "masks" / "latest" / f"{changed.stem}.png").unlink()
    changed.unlink()
    assert computed(opened().run(STAGES)) == {"tags": 0, "cams": 1, "masks": 1}
    assert processes.given == [[changed.stem]]


@pytest.mark.parametrize(
    ("options", "stages"),
    [
        (("executor=processes",), STAGES),
        (("cams=maskclip", "masks=dense", "masks.short_side=64"), ["masks"]),
    ],
)
def test_other_stages_wait_for_their_turn(opened, processes, monkeypatch, options, stages):
    monkeypatch.setattr(WorkerSettings, "start", lambda self, size: processes)
    assert computed(opened("out", *options).run(stages))["masks"] == 5
    assert processes.handed_on == []


def test_what_fails_alongside_is_named_in_its_own_turn(opened, processes, monkeypatch, tmp_path):
    stream, tried = Refiner.stream, []

    def fail(refine, images):
        for item, labelled in stream(refine, images):
            if item.sample.id == "a":
                tried.append("a")
                labelled = ImageError("no edge in sight")
            yield item, labelled

    monkeypatch.setattr(Refiner, "stream", fail)
    *_, masks = opened().run(STAGES)
    assert masks.left_out == {"a": "no edge in sight"} and masks.computed == 4
    assert tried == ["a", "a"] and len(processes.given) == 5


def test_a_process_that_dies_leaves_the_rest_to_the_own_turn(opened, alone, processes, tmp_path):
    processes.given.clear()
    processes.deadly = {"b"}
    *_, masks = opened().run(STAGES)
    assert list(masks.left_out) == ["b"] and "killed" in masks.left_out["b"]
    assert masks.computed == 4
    processes.deadly = set()
    assert computed(opened().run(STAGES)) == {"tags": 0, "cams": 0, "masks": 1}
    assert artefacts(tmp_path / "out") == alone


def test_an_interrupted_pass_keeps_its_masks(opened, alone, processes, monkeypatch, tmp_path):
    compute = ScoredTags.compute

    def interrupted(stage, images, model):
        for number, result in enumerate(compute(stage, images, model)):
            wait_for_entries(tmp_path / "out" / "all" / "tags", number)
            if number == 3:
                raise KeyboardInterrupt
            yield result

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(ScoredTags, "compute", interrupted)
        list(opened().run(STAGES))
    kept = list((tmp_path / "out" / "all" / "masks").rglob("*.png"))
    assert kept
    done = computed(opened().run(STAGES))
    assert done["tags"] < 5 and done["masks"] == 5 - len(kept)
    assert artefacts(tmp_path / "out") == alone


def test_too_many_failures_end_the_pass_and_keep_the_masks(
    opened, processes, photographs, tmp_path
):
    (photographs / "damaged.png").write_bytes(b"no image")
    pipeline = opened("out", "runtime.max_failures=0")
    with pytest.raises(UserError, match="1 of 6 images .*left out of tags"):
        list(pipeline.run(STAGES))
    assert len(list((tmp_path / "out" / "all" / "masks").rglob("*.png"))) == 5
    finished = opened("out", "runtime.max_failures=1")
    assert computed(finished.run(STAGES)) == {"tags": 0, "cams": 0, "masks": 0}


@pytest.mark.large
def test_real_processes_make_the_same_masks(opened, alone, tmp_path):
    list(opened().run(STAGES))
    assert artefacts(tmp_path / "out") == alone
    ProcessPool(2).close(at_once=True)


def test_masks_follow_on_a_gpu_unless_told_otherwise(opened, monkeypatch):
    given = []

    def executor(*_: object, one_pass: bool) -> None:
        given.append(one_pass)
        raise KeyboardInterrupt

    monkeypatch.setattr("pipeline.stages.pipeline.Executor", executor)
    for wanted, on_cpu, on_gpu in (("null", False, True), ("true", True, True)):
        for device, expected in (("cpu", on_cpu), ("cuda", on_gpu)):
            pipeline = opened("out", f"runtime.one_pass={wanted}")
            pipeline.builder.__dict__["device"] = device
            with pytest.raises(KeyboardInterrupt):
                list(pipeline.run(STAGES))
            assert given.pop() is expected
