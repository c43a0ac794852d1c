"""An image that a stage leaves out: it loses its results there and in later stages, alone.

Images without an entry in a file are left out as well, and are no failures.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.engine.cleaning import find_orphans
from pipeline.engine.run import Outcome
from pipeline.engine.writer import Writer
from pipeline.errors import UserError
from pipeline.stages.config import compose, read_config
from pipeline.stages.pipeline import Pipeline
from tests.small_runs import draw_photograph, folder_options, latest, replaced

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
def opened(root, tiny_checkpoint) -> Callable[..., Pipeline]:
    """Returns the pipeline of a configuration: opened("KEY=VALUE", …)."""

    def opened(*more: str) -> Pipeline:
        given = f"output_dir={root / 'out'}", f"dataset.masks={root / 'truth'}", "masks=argmax"
        given = folder_options(root / "photographs", tiny_checkpoint, *given)
        return Pipeline.open(read_config(compose(replaced(given, *more))))

    return opened


@pytest.fixture
def run(opened) -> Callable[..., list[Outcome]]:
    """Runs stages, and returns what each did: run("tags cams", "KEY=VALUE", …)."""
    return lambda stages, *more: list(opened(*more).run(stages.split()))


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
    places = ["--images", root / "photographs", "--output", root / "coco.json"]
    exported = run_tool("export.py", latest(root / "out", "masks"), "--format", "coco", *places)
    assert exported.code == 0, exported.errors
    images = json.loads((root / "coco.json").read_text())["images"]
    assert {Path(each["file_name"]).stem for each in images} == {"a", "c"}
    # A run of the masks alone removes those of the masks.
    run("masks")
    assert results(root, "cams") == IDS and results(root, "masks") == IDS - {"b"}
    cleaned = run_tool("clean.py", root / "out", "--yes")
    assert cleaned.output.endswith("results of removed images: 1\n")
    assert results(root, "cams") == IDS - {"b"}


@pytest.mark.parametrize("again", ["tags cams masks", "tags"])
def test_tools_take_no_results_of_photographs_that_were_removed(again, root, run, run_tool):
    run("tags cams masks")
    (root / "photographs" / "b.png").unlink()
    run(again)
    folder = latest(root / "out", "masks")
    assert (folder / "b.png").is_file(), "which is a matter of clean.py"
    (folder / "of the user.png").write_bytes((folder / "a.png").read_bytes())
    images = ("--images", root / "photographs")
    tools = {
        "overlays": ("overlay.py", folder, *images),
        "coco.json": ("export.py", folder, *images, "--format", "coco"),
    }
    done = {name: run_tool(*given, "--output", root / name) for name, given in tools.items()}
    assert {each.code for each in done.values()} == {0}, done
    written = root / "overlays" / "masks"
    names = {p.relative_to(written).as_posix() for p in written.rglob("*.png")}
    assert names == {"a.png", "sub/c.png"}
    exported = json.loads((root / "coco.json").read_text())["images"]
    assert {image["file_name"] for image in exported} == {"a.png", "sub/c.png"}


def test_a_kill_between_files_and_entry_leaves_nothing(root, run, monkeypatch):
    run("tags cams masks")
    damage(root)
    with monkeypatch.context() as patched:
        patched.setattr(Writer, "finish", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            run("tags cams masks")
    for _ in range(2):
        with monkeypatch.context() as patched:

            def finish(self, *arguments, stop=Writer.finish, **more):
                if self.results.name == "cams":
                    raise KeyboardInterrupt
                stop(self, *arguments, **more)

            patched.setattr(Writer, "finish", finish)
            with pytest.raises(KeyboardInterrupt):
                run("tags cams masks")
    run("cams masks")
    assert results(root, "cams") == results(root, "masks") == IDS - {"b"}


def test_images_outside_the_selection_keep_their_results(root, run):
    run("tags cams masks")
    damage(root)
    run("tags cams masks", "dataset.limit=1")
    assert results(root, "cams") == results(root, "masks") == IDS
    (root / "few.txt").write_text("sub/c\n")
    run("tags cams masks", f"dataset.image_list={root / 'few.txt'}")
    assert find_orphans(latest(root / "out", "masks").resolve()).keys() <= {"b"}


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
    with pytest.raises(
        UserError,
        match=r"photograph and its tags changed\)",
    ):
        run("evaluate")


def test_an_evaluation_names_stages_that_were_asked_for_and_have_no_results(root, run):
    run("tags")
    assert all(not outcome.note for outcome in run("evaluate"))
    regions = [f"masks.regions={root / 'regions'}", "masks=regions", "runtime.max_failures=9"]
    for image_id in IDS:
        (root / "regions" / f"{image_id}.png").write_bytes(b"noise")
    outcomes = run("cams masks evaluate", *regions)
    notes = [outcome.note for outcome in outcomes if outcome.note]
    assert notes == ["not measured, since there are no results: masks of split all"]


@pytest.fixture
def files(root) -> dict[str, list[str]]:
    """Tags, CAMs and regions of three photographs in files, with the settings that read them."""
    (root / "tags.txt").write_text("a 0\nb 1\nsub/c 2\n")
    for image_id in IDS:
        path = root / "cams" / f"{image_id}.npz"
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez(path, keys=np.array([0]), cams=np.ones((1, 40, 48), np.float16))
    return {
        "tags": ["tags=file", f"tags.path={root / 'tags.txt'}"],
        "cams": ["cams=file", f"cams.path={root / 'cams'}"],
        "masks": ["masks=regions", f"masks.regions={root / 'regions'}"],
    }


def take_away(root: Path, stage: str, image_id: str, instead: str = "") -> None:
    """Removes the entry of an image, or gives it to another id."""
    if stage == "tags":
        path = root / "tags.txt"
        lines = dict(line.split() for line in path.read_text().splitlines())
        tag = lines.pop(image_id)
        lines |= {instead: tag} if instead else {}
        path.write_text("".join(f"{name} {k}\n" for name, k in lines.items()))
        return
    folder, suffix = {"cams": ("cams", ".npz"), "masks": ("regions", ".png")}[stage]
    path = root / folder / f"{image_id}{suffix}"
    path.rename(root / folder / f"{instead}{suffix}") if instead else path.unlink()


@pytest.mark.parametrize("stage", ["tags", "cams", "masks"])
def test_an_image_without_an_entry_is_no_failure(root, run, files, stage):
    stages, given = "tags cams masks", [*files[stage], "runtime.max_failures=0"]
    take_away(root, stage, "b")
    outcomes = {outcome.stage: outcome for outcome in run(stages, *given)}
    assert set(outcomes[stage].left_out) == {"b"} and outcomes[stage].absent == {"b"}
    assert results(root, "masks") == IDS - {"b"}
    damage(root, "a")  # which is a failure
    with pytest.raises(UserError, match="1 of [23] .*(tags|cams), more"):
        run(stages, *given)


def test_an_image_without_ground_truth_has_no_entry_of_tags(root, run):
    (root / "truth" / "b.png").unlink()
    (tags,) = run("tags", "tags=ground_truth", "runtime.max_failures=0")
    assert tags.computed == 2 and tags.absent == {"b"}
    (root / "truth" / "a.png").unlink()
    with pytest.raises(UserError, match="1 of 3 .*image a has no ground truth"):
        run("tags", "tags=ground_truth")


@pytest.mark.parametrize("stage", ["tags", "cams", "masks"])
def test_files_of_other_images_are_refused_with_an_id_of_each_side(root, run, opened, files, stage):
    run("tags cams masks", *files[stage])
    take_away(root, stage, "a")
    take_away(root, stage, "b", instead="sub/other")
    with pytest.raises(UserError, match="1 of 3 .*image a .*sub/other:"):
        run("tags cams masks", *files[stage])
    assert results(root, "masks") == IDS, "the files may be the wrong ones"
    with pytest.raises(UserError, match="sub/other"):
        list(opened(*files[stage]).plan(["tags", "cams", "masks"]))
