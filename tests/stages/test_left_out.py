"""An image that a stage leaves out: it loses its results there and in later stages, alone."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.engine.cleaning import find_orphans
from pipeline.engine.folder import StageFolder
from pipeline.engine.run import Outcome
from pipeline.errors import UserError
from pipeline.stages.config import compose, read_config
from pipeline.stages.pipeline import Pipeline
from tests.small_runs import draw_photograph, folder_options, latest

IDS = {"a", "b", "sub/c"}


@pytest.fixture
def root(tmp_path) -> Path:
    """Three photographs with ground truth and regions."""
    for index, image_id in enumerate(sorted(IDS)):
        labels = np.full((40, 48), index % 2, np.uint8)
        pictures = {
            "photographs": draw_photograph(index, 40, 48),
            "truth": labels,
            "regions": labels + 1,
        }
        for folder, picture in pictures.items():
            path = tmp_path / folder / f"{image_id}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(picture).save(path)
    return tmp_path


@pytest.fixture
def run(root, tiny_checkpoint) -> Callable[..., list[Outcome]]:
    """Runs stages, and returns what each did: run("tags cams", "KEY=VALUE", …)."""

    def run(stages: str, *more: str) -> list[Outcome]:
        given = [
            *folder_options(root / "photographs", tiny_checkpoint),
            f"output_dir={root / 'out'}",
        ]
        given += [f"dataset.masks={root / 'truth'}", "masks=argmax", *more]
        return list(Pipeline.open(read_config(compose(given))).run(stages.split()))

    return run


def damage(root: Path, image_id: str = "b") -> None:
    (root / "photographs" / f"{image_id}.png").write_bytes(b"nothing")


def results(root: Path, stage: str) -> set[str]:
    """Returns the ids of the files of a stage's latest folder, which its journal has as well."""
    folder, suffix = latest(root / "out", stage), {"cams": ".npz", "masks": ".png"}[stage]
    files = {p.relative_to(folder).with_suffix("").as_posix() for p in folder.rglob(f"*{suffix}")}
    lines = (folder / "entries.jsonl").read_text().splitlines()
    assert files == {json.loads(line)["id"] for line in lines}
    return files


def measured(root: Path) -> dict[str, int]:
    metrics = json.loads((root / "out" / "metrics.json").read_text())["latest"]
    return {stage: entry["all"]["images"] for stage, entry in metrics.items()}


def test_an_image_that_cannot_be_read_any_more_loses_its_results(root, run):
    run("tags cams masks evaluate")
    assert results(root, "cams") == results(root, "masks") == IDS
    foreign = latest(root / "out", "cams") / "b.txt"
    foreign.write_text("of the user")
    damage(root)
    damage(root, "sub/c")
    tags, *_ = run("tags cams masks evaluate")
    assert set(tags.left_out) == {"b", "sub/c"}
    assert results(root, "cams") == results(root, "masks") == {"a"}
    assert foreign.read_text() == "of the user" and not foreign.with_name("sub").exists()
    assert measured(root) == {"tags": 1, "cams": 1, "masks": 1}
    Image.fromarray(draw_photograph(1, 40, 48)).save(root / "photographs" / "b.png")
    assert [o.computed for o in run("tags cams masks")] == [1, 1, 1]
    assert results(root, "masks") == {"a", "b"}


def test_earlier_results_of_later_stages_are_ignored_until_these_run(root, run, run_tool):
    run("tags cams masks")
    damage(root)
    run("tags")
    assert results(root, "masks") == IDS
    run("evaluate")
    assert measured(root) == {"tags": 2, "cams": 2, "masks": 2}
    for stage in ("cams", "masks"):
        assert find_orphans(latest(root / "out", stage).resolve()).keys() == {"b"}
    exported = run_tool(
        "export.py",
        latest(root / "out", "masks"),
        "--format",
        "coco",
        "--images",
        root / "photographs",
        "--output",
        root / "coco.json",
    )
    assert exported.code == 0, exported.errors
    images = json.loads((root / "coco.json").read_text())["images"]
    assert {Path(each["file_name"]).stem for each in images} == {"a", "c"}
    # A run of the masks alone removes those of the masks.
    run("masks")
    assert results(root, "cams") == IDS and results(root, "masks") == IDS - {"b"}
    cleaned = run_tool("clean.py", root / "out", "--yes")
    assert cleaned.output.endswith("results of removed images: 1\n")
    assert results(root, "cams") == IDS - {"b"}


def test_a_kill_between_files_and_entry_leaves_nothing(root, run, monkeypatch):
    run("tags cams masks")
    damage(root)
    with monkeypatch.context() as patched:
        patched.setattr(StageFolder, "finish", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            run("tags cams masks")
    for _ in range(2):
        with monkeypatch.context() as patched:

            def finish(self, *arguments, stop=StageFolder.finish, **more):
                if self.stage == "cams":
                    raise KeyboardInterrupt
                stop(self, *arguments, **more)

            patched.setattr(StageFolder, "finish", finish)
            with pytest.raises(KeyboardInterrupt):
                run("tags cams masks")
    run("cams masks")
    assert results(root, "cams") == results(root, "masks") == IDS - {"b"}


def test_images_outside_the_selection_keep_their_results(root, run):
    run("tags cams masks")
    damage(root)
    run("tags cams masks", "dataset.limit=1")
    assert results(root, "cams") == results(root, "masks") == IDS


def test_an_image_whose_regions_are_gone_loses_its_mask(root, run):
    regions = [f"masks.regions={root / 'regions'}", "masks=regions"]
    run("tags cams masks", *regions)
    (root / "regions" / "b.png").unlink()
    *_, masks = run("tags cams masks", *regions)
    assert set(masks.left_out) == {"b"} and results(root, "masks") == IDS - {"b"}
    assert results(root, "cams") == IDS


def test_a_changed_photograph_is_still_not_passed_over(root, run):
    run("tags cams masks")
    Image.fromarray(draw_photograph(9, 40, 48)).save(root / "photographs" / "b.png")
    run("tags")
    with pytest.raises(UserError, match="1 of the cams .* run stage=cams again"):
        run("evaluate")


def test_an_evaluation_names_stages_that_were_asked_for_and_have_no_results(root, run):
    run("tags")
    assert all(not outcome.note for outcome in run("evaluate"))
    regions = [f"masks.regions={root / 'regions'}", "masks=regions", "runtime.max_failures=9"]
    for image_id in IDS:
        (root / "regions" / f"{image_id}.png").unlink()
    outcomes = run("cams masks evaluate", *regions)
    notes = [outcome.note for outcome in outcomes if outcome.note]
    assert notes == ["not measured, since there are no results: masks of split all"]
