"""What is learned from all images: once, from exactly these, and again only on demand."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

import pytest

from pipeline.engine.cleaning import find_removable
from pipeline.engine.executors import ExecutorSettings, WorkerSettings
from pipeline.engine.learned import Learned
from pipeline.engine.lineage import RunResults
from pipeline.engine.plan import plan
from pipeline.engine.run import Run
from pipeline.engine.sample import Dataset, ImageReader, Images, Sample
from pipeline.engine.stage import Output, PerImage, Stage
from pipeline.engine.store import Store
from pipeline.engine.workers import Executor
from pipeline.errors import ImageError, UserError
from pipeline.stages.pipeline import with_needs


@dataclass(frozen=True, kw_only=True, eq=False)
class Sizes(PerImage):
    """The size of each image, which is learned from; other stages of the command want its mean."""

    name = "sizes"
    command = "relative"
    reads_images = False

    def own_settings(self) -> dict:
        return {"split": self.split}

    def compute(self, images, model):
        for item, _ in images:
            data = item.sample.image.read_bytes()
            output = {"sizes": Output(values={"size": len(data)})}
            yield item, output if data else ImageError("is empty")


@dataclass(frozen=True, kw_only=True, eq=False)
class Mean(Learned):
    """The mean size."""

    name = "mean"
    command = "relative"
    file = "mean.json"

    def own_settings(self) -> dict:
        return {}

    def learn(self, ids, results, file) -> None:
        sizes = [results.entries[image_id]["size"] for image_id in ids]
        file.write(json.dumps([sum(sizes) / len(sizes), *ids]).encode())


@dataclass(frozen=True, kw_only=True, eq=False)
class Relative(PerImage):
    """The size of each image, divided by the mean."""

    name = command = "relative"
    reads_images = False

    def own_settings(self) -> dict:
        return {}

    def load(self, folders):
        return json.loads((folders["mean"] / Mean.file).read_bytes())[0]

    def compute(self, images, model):
        for item, _ in images:
            share = len(item.sample.image.read_bytes()) / model()
            yield item, {"relative": Output(values={"share": share})}


class Kept:
    """Splits of images with a run of the three stages on them."""

    def __init__(self, root: Path):
        self.root, self.store, self.splits = root, Store(root / "out"), {"fit": [], "val": []}

    def add(self, split: str, name: str, size: int) -> None:
        path = self.root / name
        path.write_bytes(b"x" * size)
        os.utime(path, (1, size))
        self.splits[split].append(Sample(name, path))

    def replace(self, *given: tuple[str, int]) -> None:
        """Makes these images, names and sizes, the split that is learned from."""
        self.splits["fit"] = []
        for name, size in given:
            self.add("fit", name, size)

    def notes(self) -> tuple[str, str]:
        """Returns what a dry run and then a run say of the mean."""
        self.planned()
        (planned,) = (row.note for row in self.rows if row.stage == "mean")
        self()
        (ran,) = (o.note for o in self.outcomes if o.stage == "mean")
        return planned, ran

    def steps(self, refit: bool = False, splits=("val",), limit=None) -> list[Stage]:
        images, steps = Images(Dataset(None, self.splits, "fit"), limit), []
        for split in splits:
            sizes = Sizes(split="fit", reader=ImageReader())
            learned = {"images": images, "store": self.store, "refit": refit}
            mean = Mean(split="fit", before={"sizes": sizes}, **learned)
            steps.append(Relative(split=split, reader=ImageReader(), uses={"mean": mean}))
        return with_needs(steps)

    def __call__(self, limit=None, **asked) -> dict[str, tuple[int, int]]:
        """Returns the name of each step → the images that were computed, and all."""
        asked["limit"] = limit
        images = Images(Dataset(None, self.splits, "fit"), limit)
        with Run(images, self.store, Executor(ExecutorSettings(), 1)) as run:
            self.outcomes = list(run.compute(self.steps(**asked)))
        return {f"{o.stage} {o.split}": (o.computed, o.images) for o in self.outcomes}

    def planned(self, **asked) -> dict[str, tuple[int, str]]:
        images = Images(Dataset(None, self.splits, "fit"))
        self.rows = rows = list(plan(self.steps(**asked), images, self.store, {}))
        return {f"{row.stage} {row.split}": (row.to_compute, row.after) for row in rows}

    def latest(self, split: str, stage: str) -> Path:
        return self.store.root / split / stage / "latest"

    @property
    def mean(self) -> list:
        return json.loads((self.latest("fit", "mean") / "mean.json").read_bytes())

    @property
    def shares(self) -> list[float]:
        lines = (self.latest("val", "relative") / "entries.jsonl").read_text().splitlines()
        return [json.loads(line)["share"] for line in lines]


@pytest.fixture
def kept(tmp_path) -> Kept:
    kept = Kept(tmp_path)
    kept.add("fit", "b", 30)
    kept.add("fit", "a", 10)
    kept.add("val", "c", 40)
    return kept


def test_it_is_learned_once_and_serves_every_image(kept):
    assert kept.planned() == {
        "sizes fit": (2, ""),
        "mean fit": (2, "sizes"),
        "relative val": (1, "sizes"),
    }
    assert kept() == {"sizes fit": (2, 2), "mean fit": (2, 2), "relative val": (1, 1)}
    assert kept.mean == [20, "a", "b"], "of the sorted ids, whatever the order of the list"
    assert kept.shares == [2]
    manifest = json.loads((kept.latest("fit", "mean") / "manifest.json").read_text())
    assert manifest["complete"] and (manifest["images"], manifest["left_out"]) == (2, 0)
    assert kept.outcomes[1].note == "mean learned from 2 images of split fit, without labels"
    assert kept.planned() == {"mean fit": (0, ""), "relative val": (0, "")}
    assert kept() == {"mean fit": (0, 2), "relative val": (0, 1)}
    assert not find_removable(kept.store)
    # Several splits share what is learned.
    assert kept(splits=("fit", "val")) == {
        "mean fit": (0, 2),
        "relative fit": (2, 2),
        "relative val": (0, 1),
    }


def test_new_images_change_it_only_if_that_is_asked_for(kept):
    kept()
    kept.add("fit", "d", 80)
    kept.add("val", "e", 10)
    assert kept.planned() == {"mean fit": (0, ""), "relative val": (1, "")}
    assert kept() == {"mean fit": (0, 2), "relative val": (1, 2)}, "the new one is not learned"
    assert kept.outcomes[0].note == f"mean learned from 2 of 3 images of split fit{REFIT}"
    assert kept.shares == [2, 0.5]
    asked = {"sizes fit": (1, ""), "mean fit": (3, "sizes"), "relative val": (2, "sizes")}
    assert kept.planned(refit=True) == asked
    assert kept(refit=True) == {"sizes fit": (1, 3), "mean fit": (3, 3), "relative val": (2, 2)}
    assert kept.shares == [1, 0.25], "nothing stale is left"
    # It may stay switched on.
    done = {"sizes fit": (0, 3), "mean fit": (0, 3), "relative val": (0, 2)}
    assert kept(refit=True) == done
    assert set(kept.planned(refit=True).values()) == {(0, "")}
    assert kept() == {k: v for k, v in done.items() if not k.startswith("sizes")}


REFIT = ": relative.refit=true learns anew"
FIVE = [(name, 10 * size) for size, name in enumerate("fghij", 1)]


@pytest.fixture
def five(kept) -> Kept:
    """Five images, of sizes 10 to 50, that the mean, 30, was learned from."""
    kept.replace(*FIVE)
    kept()
    return kept


@pytest.mark.parametrize("new", [1, 6])
def test_new_images_are_counted_and_change_nothing(five, new):
    five.replace(*FIVE, *((f"new{n}", 99 + n) for n in range(new)))
    for _ in range(2):
        note = f"mean learned from 5 of {5 + new} images of split fit{REFIT}"
        assert five.notes() == (note, note) and five.mean[0] == 30


def test_edited_and_removed_images_are_counted(five):
    five.replace(*FIVE[:3], ("i", 41), ("new", 99))
    note = "mean learned from split fit, which has changed (added: 1, changed: 1, removed: 1)"
    for _ in range(2):
        assert five.notes() == (note + REFIT, note + REFIT)
        assert five.mean[0] == 30 and five.shares == [40 / 30]
    five(refit=True)
    assert five.notes() == ("", "") and five.mean == [40, "f", "g", "h", "i", "new"]


@pytest.mark.parametrize(
    ("names", "sizes", "known"),
    [
        ("fghij", (10, 20, 31, 41, 51), 2),  # edited in place
        ("fgxyz", (10, 20, 31, 41, 51), 2),  # removed, and others added
        ("vwxyz", (12, 22, 31, 41, 51), 0),  # another folder
        ("f", (11,), 0),
    ],
)
def test_of_a_split_that_was_replaced_it_is_learned_anew(five, names, sizes, known):
    five.replace(*zip(names, sizes))
    count, mean = len(names), sum(sizes) / len(names)
    planned, ran = five.notes()
    found = f"mean learned from {known} of {count} images of split fit"
    assert planned == f"{found}, and from others: learning starts anew"
    found = f"mean learned from {count} images of split fit, without labels"
    assert ran == f"{found}, anew, since most of these are new"
    assert five.mean == [mean, *names] and five.shares == [40 / mean]
    assert five.notes() == ("", "")
    assert five() == {"mean fit": (0, count), "relative val": (0, 1)}


def test_images_are_compared_by_content(five):
    five.replace(*zip("vwxyz", (10, 20, 30, 40, 50)))  # renamed
    assert five.notes() == ("", "") and five.mean[1:] == ["f", "g", "h", "i", "j"]


def test_images_outside_a_selection_are_not_gone(five):
    assert five(limit=1) == {"mean fit": (0, 1), "relative val": (0, 1)}
    assert not five.outcomes[0].note


def test_a_file_that_cannot_be_opened_is_one_that_changed(five):
    (five.root / "f").unlink()
    planned, _ = five.notes()
    assert "(added: 0, changed: 1, removed: 0)" in planned


@pytest.mark.parametrize(
    "executor",
    [ExecutorSettings(), pytest.param(WorkerSettings(workers=1), marks=pytest.mark.large)],
)
def test_what_another_run_learns_meanwhile_is_not_mixed_in(kept, monkeypatch, executor):
    """The run ends with a sentence; the next one computes with what was learned last."""
    kept()
    kept.add("val", "e", 10)
    compute = Executor.compute

    def refit_first(self, stage, *rest):
        monkeypatch.setattr(Executor, "compute", compute)
        if stage.name == "relative":
            kept.add("fit", "d", 80)
            kept(refit=True, splits=("fit",))
        return compute(self, stage, *rest)

    monkeypatch.setattr(Executor, "compute", refit_first)
    images = Images(Dataset(None, kept.splits, "fit"))
    replaced = pytest.raises(UserError, match="another run .*stage=relative")
    with replaced, Run(images, kept.store, Executor(executor, 1)) as run:
        list(run.compute(kept.steps()))
    assert kept()["relative val"] == (2, 2) and kept.shares == [1, 0.25]


def test_a_result_of_other_settings_or_of_what_was_learned_before_has_changed(kept):
    kept()
    images = Images(Dataset(None, kept.splits, "fit"))
    result = RunResults(kept.steps()[-1], kept.store, images)
    entry = result.entries["c"]
    assert result.changed(entry) == []
    assert result.changed({**entry, "own_key": "other"}) == ["settings"]
    learned = {**entry["inputs"], "mean": "other"}
    assert result.changed({**entry, "inputs": learned}) == ["mean"]


def test_a_kill_while_it_is_learned_loses_nothing_else(kept, monkeypatch):
    def die(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Mean, "learn", die)
        with pytest.raises(KeyboardInterrupt):
            kept()
    assert kept() == {"sizes fit": (0, 2), "mean fit": (2, 2), "relative val": (1, 1)}
    assert kept.shares == [2]


@pytest.mark.parametrize("failure", [KeyboardInterrupt, UserError("fewer than two are left")])
def test_what_was_learned_stays_until_it_is_learned_anew(kept, monkeypatch, failure):
    def fail(*_):
        raise failure

    kept()
    kept.add("fit", "d", 80)
    with monkeypatch.context() as patched:
        patched.setattr(Mean, "learn", fail)
        with pytest.raises((KeyboardInterrupt, UserError)):
            kept(refit=True)
    assert kept() == {"mean fit": (0, 2), "relative val": (0, 1)}
    assert kept.mean == [20, "a", "b"] and kept.shares == [2]
    assert kept(refit=True)["mean fit"] == (3, 3)


@pytest.mark.parametrize("damage", [lambda p: p.write_bytes(b"[7]"), Path.unlink])
def test_damage_is_repaired_from_what_it_was_learned_from(kept, damage):
    kept()
    damage(kept.latest("fit", "mean") / "mean.json")
    assert kept() == {"sizes fit": (0, 2), "mean fit": (2, 2), "relative val": (0, 1)}
    assert kept.shares == [2]


def test_images_that_cannot_be_learned_from_are_left_out(kept):
    kept.add("fit", "empty", 0)
    kept()
    assert kept.mean == [20, "a", "b"]
    assert kept() == {"mean fit": (0, 3), "relative val": (0, 1)}
    assert not kept.outcomes[0].note, "the image is one of those that were seen"


def test_without_an_image_or_a_result_there_is_one_sentence(kept):
    relative = kept.steps()[-1]
    images = Images(Dataset(None, kept.splits, "fit"))
    alone = Run(images, kept.store, Executor(ExecutorSettings(), 1))
    with pytest.raises(UserError, match="no mean .*: run stage=relative"):
        list(alone.compute([relative]))
    kept.splits["fit"] = []
    with pytest.raises(UserError, match="split fit has no image .*mean"):
        kept()
