"""``masks=regions`` as a stage: a changed file costs one image; a missing one leaves it out."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from pipeline.datasets.regions import SlicOptions
from pipeline.engine.executors import ExecutorSettings
from pipeline.engine.run import Run
from pipeline.engine.sample import Dataset, Images
from pipeline.engine.store import Store
from pipeline.engine.workers import Executor
from pipeline.errors import UserError
from pipeline.files.label_images import read_labels
from pipeline.masks.regions import RegionMasks, RegionVote
from pipeline.masks.settings import RegionOptions
from tests.masks.test_stage import maps, masks_stage  # noqa: F401  a fixture
from tests.small_runs import draw_photograph

IDS = ["a", "b c/d", "without tags"]


@pytest.fixture
def folder(tmp_path):
    """The regions of three images: a left and a right half."""
    halves = np.ones((40, 60), np.uint8)
    halves[:, 30:] = 2
    folder = tmp_path / "regions of SAM"
    for image_id in IDS:
        path = folder / f"{image_id}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(halves).save(path)
    return folder


def stage_of(**options) -> RegionMasks:
    chosen, (plain, _) = RegionOptions(**options), masks_stage()
    return RegionMasks(
        split="all",
        options=chosen,
        resources=plain.resources,
        reader=plain.reader,
        before=plain.before,
        cams=plain.cams,
    )


@pytest.fixture
def run(maps, tmp_path):  # noqa: F811
    def run(workers=1, **options):
        stage = stage_of(**options)
        images = Images(Dataset(stage.vocabulary, {"all": maps[0]}, "all"))
        executor = Executor(ExecutorSettings(), workers)
        with Run(images, Store(tmp_path / "out"), executor, max_failures=9) as run:
            (outcome,) = run.compute([stage])
        return outcome

    return run


def test_masks_are_those_of_the_files_and_a_changed_file_costs_its_image(run, folder, maps):  # noqa: F811
    outcome = run(regions=str(folder))
    assert outcome.computed == 3
    for index, image_id in enumerate(IDS[:2]):
        labels = read_labels(outcome.path / f"{image_id}.png")
        assert len(np.unique(labels[:, :30])) == len(np.unique(labels[:, 30:])) == 1
        halves = np.repeat([[1, 2]], 30, 1).repeat(40, 0)
        regions = [np.flatnonzero(halves == k) for k in (1, 2)]
        image = draw_photograph(index, 40, 60)
        expected, _ = RegionVote(RegionOptions())(image, maps[2][image_id], regions)
        np.testing.assert_array_equal(labels, expected)
    assert not read_labels(outcome.path / "without tags.png").any()

    before = (outcome.path / "a.png").read_bytes()
    assert run(regions=str(folder)).computed == 0
    Image.fromarray(np.zeros((40, 60), np.uint8)).save(folder / "a.png")
    assert run(regions=str(folder)).computed == 1
    assert (outcome.path / "a.png").read_bytes() != before
    (folder / "a.png").unlink()
    (folder / "a.json").write_text("[]")  # the same regions, none, in another file
    assert run(regions=str(folder)).computed == 1


def test_images_without_a_file_that_can_be_used_are_left_out_by_name(run, folder):
    (folder / "a.png").write_bytes(b"noise")
    (folder / "b c" / "d.png").unlink()
    (folder / "without tags.json").write_text("[]")
    outcome = run(regions=str(folder))
    assert outcome.computed == 0
    lines = (outcome.path / "failures.jsonl").read_text().splitlines()
    reasons = {line["id"]: line["reason"] for line in map(json.loads, lines)}
    assert "a.png cannot be decoded" in reasons["a"]
    assert f"has no regions: {folder / 'b c' / 'd.png'} is missing" in reasons["b c/d"]
    assert "has two files of regions" in reasons["without tags"]
    Image.fromarray(np.ones((40, 60), np.uint8)).save(folder / "b c" / "d.png")
    assert run(regions=str(folder)).computed == 1


def test_a_folder_that_does_not_exist_is_one_sentence(folder):
    stage_of(regions=str(folder)).check()
    with pytest.raises(UserError, match="give one that holds <id>.png or"):
        stage_of(regions=str(folder / "elsewhere")).check()


def test_the_key_has_the_name_of_the_folder_or_slics_constants(folder):
    slic, other = stage_of(), stage_of(slic=SlicOptions(segments=7))
    assert slic.key != other.key and slic.region_folder is None
    of_folder = stage_of(regions=str(folder))
    assert of_folder.key not in (slic.key, stage_of(regions="slic2").key)
    assert of_folder.key == stage_of(regions=str(folder), slic=SlicOptions(segments=7)).key
    moved = stage_of(regions=f"/elsewhere/{folder.parent.name}/{folder.name}")
    assert of_folder.key != stage_of(regions=f"/elsewhere/{folder.name}").key
    assert of_folder.key == moved.key and of_folder.region_folder == folder
    assert replace(of_folder, options=RegionOptions(beta=2, regions=str(folder))).key != moved.key
