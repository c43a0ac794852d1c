"""Results of other settings are linked, not computed again, and neither folder harms the other."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from pipeline.clip.encoder import ClipEncoder
from pipeline.engine.cleaning import find_removable, remove
from pipeline.engine.executors import ExecutorSettings
from pipeline.engine.records import LATEST
from pipeline.engine.run import Run
from pipeline.engine.sample import Dataset, ImageReader, Images, Sample
from pipeline.engine.stage import Output, PerImage
from pipeline.engine.store import Store
from pipeline.engine.workers import Executor
from tests.small_runs import folder_options

IDS = ("a", "b c", "d/e")


@dataclass(frozen=True, kw_only=True, eq=False)
class Copies(PerImage):
    """Copies images; ``level`` is applied to what was computed, ``times`` is not."""

    name = command = "copies"
    reads_images = False
    thresholds = ("level",)
    level: int = 0
    times: int = 1
    variants: tuple[str, ...] = ()

    def own_settings(self) -> dict:
        return {"level": self.level, "times": self.times}

    def adapt(self, entry) -> dict | None:
        is_covered = {*self.variants} <= entry["scores"].keys()
        return {**entry, "level": self.level} if is_covered else None

    def compute(self, images, model):
        for item, _ in images:
            copy = item.sample.image.read_bytes() * self.times
            facts = {"level": self.level, "scores": dict.fromkeys(self.variants, "")}
            yield item, {"copies": Output({f"{item.sample.id}.bin": copy}, facts)}


@pytest.fixture
def samples(tmp_path: Path) -> list[Sample]:
    found = []
    for image_id in IDS:
        path = tmp_path / "images" / f"{image_id}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(image_id.encode() * 10)
        found.append(Sample(image_id, path))
    return found


@pytest.fixture
def run(samples, tmp_path):
    def run(**settings):
        store = Store(tmp_path / "out")  # it says when a run began
        stage = Copies(split="all", reader=ImageReader(), **settings)
        images = Images(Dataset(None, {"all": samples}, "all"))
        with Run(images, store, Executor(ExecutorSettings(), 1)) as run:
            (outcome,) = run.compute([stage])
        return outcome

    run.store = Store(tmp_path / "out")
    return run


def counts(outcome) -> tuple[int, int, int]:
    cached = outcome.images - len(outcome.left_out) - outcome.computed - outcome.reused
    return outcome.computed, outcome.reused, cached


def entries(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "entries.jsonl").read_text().splitlines()]


def test_what_another_folder_holds_is_linked(run, samples):
    first = run()
    before = {p: p.stat().st_mtime_ns for p in first.path.iterdir()}
    second = run(level=1)
    assert counts(first) == (3, 0, 0) and counts(second) == (0, 3, 0)
    assert second.path != first.path
    for image_id in IDS:
        one, other = (o.path / f"{image_id}.bin" for o in (first, second))
        assert one.samefile(other)
    # The new folder has lines of its own; of the other nothing was touched.
    assert [entry["level"] for entry in entries(second.path)] == [1, 1, 1]
    assert [entry["level"] for entry in entries(first.path)] == [0, 0, 0]
    assert {p: p.stat().st_mtime_ns for p in first.path.iterdir()} == before
    assert (second.path.parent / LATEST).resolve() == second.path
    manifest = json.loads((second.path / "manifest.json").read_text())
    assert manifest["last"].items() >= {"images": 3, "computed": 0, "reused": 3}.items()
    assert counts(run(level=1)) == (0, 0, 3)
    # What decides the result is another own key.
    assert counts(run(times=2)) == (3, 0, 0)
    # A changed image was never computed.
    samples[0].image.write_bytes(b"another image")
    os.utime(samples[0].image, (0, 0))
    assert counts(run(level=1)) == (1, 0, 2)
    assert counts(run(level=2)) == (0, 3, 0)


def test_what_lacks_a_variant_that_is_asked_for_is_not_taken_over(run):
    run()
    assert counts(run(level=1, variants=("coarse",))) == (3, 0, 0)
    assert counts(run(level=3)) == (0, 3, 0)


def test_what_another_user_keeps_private_is_computed(run, monkeypatch):
    journal, is_allowed = run().path / "entries.jsonl", os.access
    monkeypatch.setattr(os, "access", lambda path, mode: path != journal and is_allowed(path, mode))
    outcome = run(level=1)
    assert counts(outcome) == (3, 0, 0) and not outcome.left_out
    monkeypatch.undo()
    assert counts(run(level=2)) == (0, 3, 0)


def test_where_there_are_no_links_files_are_copied(run, monkeypatch):
    first = run()

    def refuse(*arguments, **options):
        raise OSError("no links")

    monkeypatch.setattr(os, "link", refuse)
    second = run(level=1)
    assert counts(second) == (0, 3, 0)
    one, other = first.path / "a.bin", second.path / "a.bin"
    assert not one.samefile(other) and one.read_bytes() == other.read_bytes()
    assert not list(second.path.rglob(".partial-*"))


def test_a_damaged_result_is_not_taken_over(run):
    first = run()
    (first.path / "a.bin").write_bytes(b"damaged")
    (first.path / "b c.bin").unlink()
    assert counts(run(level=1)) == (2, 1, 0)


def test_cleaning_one_folder_leaves_the_other_whole(run):
    first, second = run(), run(level=1)
    ((old, manifest),) = find_removable(run.store)
    assert old == first.path
    remove(run.store, old, manifest)
    assert counts(run(level=1)) == (0, 0, 3)
    third = run(level=2)
    assert counts(third) == (0, 3, 0)
    remove(run.store, second.path, dict(find_removable(run.store))[second.path])
    assert counts(run(level=2)) == (0, 0, 3)
    assert (third.path / "a.bin").read_bytes() == b"a" * 10


def test_writing_a_result_again_leaves_its_twin_alone(run, samples):
    first, second = run(), run(level=1)
    content = (first.path / "a.bin").read_bytes()
    (second.path / "a.bin").unlink()
    (second.path / "a.bin").write_bytes(b"damaged")
    assert counts(run(level=1)) == (0, 1, 2)
    assert (first.path / "a.bin").read_bytes() == (second.path / "a.bin").read_bytes() == content


@pytest.fixture
def passes(monkeypatch) -> list[int]:
    """The number of images in every pass of CLIP's backbone."""
    seen = []
    backbone = ClipEncoder.backbone

    def counted(self, pixels, *hooks):
        seen.append(len(pixels))
        return backbone(self, pixels, *hooks)

    monkeypatch.setattr(ClipEncoder, "backbone", counted)
    return seen


def read_tags(folder: Path) -> dict[str, set[int]]:
    lines = [line.split() for line in (folder / "tags.txt").read_text().splitlines()]
    return {image_id: {*map(int, tags)} for image_id, *tags in lines}


def test_thresholds_cost_no_pass_of_clip(run_stage, photographs, tiny_checkpoint, tmp_path, passes):
    given = [*folder_options(photographs, tiny_checkpoint), f"output_dir={tmp_path / 'out'}"]
    given = [argument for argument in given if not argument.startswith("tags.min_score")]
    stages = "stage=[tags,cams,masks]"
    assert run_stage(*given, stages).code == 0
    computed = len(passes)
    assert computed == 5
    before = read_tags(tmp_path / "out" / "all" / "tags" / "latest")
    scores = np.load(tmp_path / "out" / "all" / "tags" / "latest" / "scores.npz")["scores"]
    highest = float(np.median(scores.max(1)))
    finished = run_stage(*given, stages, f"tags.min_score={highest}")
    assert finished.code == 0, finished.errors
    assert "tags      all              5 images, 0 computed now" in finished.output
    assert "5 reused from other settings" in finished.output
    tags = read_tags(tmp_path / "out" / "all" / "tags" / "latest")
    for row, (image_id, chosen) in zip(scores, tags.items(), strict=True):
        assert chosen <= {*np.flatnonzero(row > highest)}, image_id
    assert any(not chosen for chosen in tags.values()) and any(tags.values())
    # CAMs are computed of images whose tags changed, each in a pass of its own.
    changed = sum(tags[image_id] != chosen for image_id, chosen in before.items())
    assert 0 < changed < 5 and len(passes) - computed == changed
    # CWR takes its θ from α; without it α is a threshold, too.
    assert run_stage(*given, "stage=tags", "tags.reidentify=false").code == 0
    computed = len(passes)
    assert run_stage(*given, "stage=tags", "tags.reidentify=false", "tags.alpha=0.7").code == 0
    assert len(passes) == computed
    assert run_stage(*given, "stage=tags", "tags.alpha=0.7").code == 0
    assert len(passes) == computed + 5
