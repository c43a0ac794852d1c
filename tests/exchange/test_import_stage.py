"""cams=file on the command line: needs neither tags nor CLIP; a changed file changes one image."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from pipeline.engine.sample import Sample
from pipeline.errors import ImageError
from pipeline.tags.scores import read_tags
from tests.results import open_writer
from tests.small_runs import folder_options, replaced

IDS = ["a", "b", "c", "d", "holiday 2026/e f"]


@pytest.fixture
def maps(photographs, tmp_path):
    """Files of CAMs of the photographs."""
    folder = tmp_path / "maps of others"
    for index, image_id in enumerate(IDS):
        write(folder / f"{image_id}.npz", index, (64, 96) if index % 2 else (90, 70))
    return folder


def write(path, seed, size, **changes):
    path.parent.mkdir(parents=True, exist_ok=True)
    left = np.zeros(size, np.float16)
    left[:, : size[1] // 2] = 0.9
    content = {"keys": np.array([3, seed % 3]), "cams": np.stack([left, 0.8 - left / 2])}
    np.savez(path, **content | changes)


@pytest.fixture
def arguments(photographs, maps, tmp_path):
    own = "tags=tagclip", "cams=file", f"cams.path={maps}", f"output_dir={tmp_path / 'out'}"
    return folder_options(photographs, "/no/such/weights.pt", *own)


def test_the_note_on_the_demo_clip_is_for_runs_that_use_clip(run_stage, arguments):
    without = [a for a in arguments if not a.startswith("clip")]
    assert "demo CLIP" not in run_stage(*without, "stage=[cams,masks]").errors
    assert "demo CLIP" in run_stage(*without, "stage=tags").errors


def test_masks_are_made_from_imported_cams(run_stage, arguments, maps, tmp_path):
    stages = "stage=[cams,masks]"
    assert run_stage(*arguments, stages).computed == {"cams": 5, "masks": 5}
    out = tmp_path / "out" / "all"
    with np.load(out / "cams/latest/holiday 2026/e f.npz", allow_pickle=False) as arrays:
        assert arrays["keys"].tolist() == [3, 1] and arrays["size"].tolist() == [90, 70]
        assert arrays["cams"].shape == (2, 23, 18) and arrays["cams"].dtype == np.float16
    with Image.open(out / "masks/latest/a.png") as mask:
        labels = np.asarray(mask)
    assert (labels[:, :30] == 4).mean() > 0.9 and (labels[:, 40:] == 1).mean() > 0.9
    assert (
        json.loads((out / "cams/latest/manifest.json").read_text())["configuration"]["path"]
        == f"{tmp_path.name}/maps of others"
    )

    again = run_stage(*arguments, "stage=[cams,masks,report]", "tags=ground_truth")
    assert again.computed == {"cams": 0, "masks": 0}
    assert (tmp_path / "out/report.html").is_file()
    write(maps / "b.npz", 0, (64, 96))
    assert run_stage(*arguments, stages).computed == {"cams": 1, "masks": 1}
    moved = maps.rename(maps.parent / "elsewhere").rename(maps)
    assert run_stage(*arguments, f"cams.path={moved}", stages).computed["cams"] == 0
    assert run_stage(*arguments, "cams.cell_size=16", stages).computed["cams"] == 5


def test_what_cannot_be_used_is_left_out_and_named(run_stage, arguments, maps, tmp_path):
    (maps / "a.npz").unlink()
    write(maps / "b.npz", 1, (64, 90))
    write(maps / "c.npz", 2, (90, 70), keys=np.array([3, 4]))
    (maps / "d.npz").write_bytes(b"noise")
    assert run_stage(*arguments, "stage=[cams,masks]").computed == {"cams": 1, "masks": 1}
    lines = (tmp_path / "out/all/cams/latest/failures.jsonl").read_text().splitlines()
    reasons = {line["id"]: line["reason"] for line in map(json.loads, lines)}
    assert "a.npz is missing" in reasons["a"]
    assert "90×64 for an image of 96×64 pixels" in reasons["b"]
    assert "class 4: the classes are 0 to 3" in reasons["c"]
    assert "damaged" in reasons["d"] and len(reasons) == 4
    write(maps / "a.npz", 0, (90, 70))
    assert run_stage(*arguments, "stage=[cams,masks]").computed == {"cams": 1, "masks": 1}


def test_a_pickle_is_refused_with_the_program_that_converts_it(run_stage, arguments, maps):
    np.save(maps / "a.npy", {"keys": [0], "cam": np.ones((1, 90, 70))})
    assert run_stage(*arguments, "stage=cams").computed == {"cams": 5}, "a.npz is beside it"
    (maps / "a.npz").unlink()
    for more in ("stage=cams", "stage=[cams,masks]", "stage=cams dry_run=true"):
        finished = run_stage(*arguments, *more.split())
        assert finished.code == 2, finished.output
        (line,) = [line for line in finished.errors.splitlines() if "a.npy" in line]
        assert line.endswith("examples/convert_cams.py") and "is a pickle" in line


def test_the_path_has_to_be_given(run_stage, arguments):
    finished = run_stage(*replaced(arguments, "cams=file"), "stage=cams")
    assert finished.code == 2 and "cams.path is missing: give it" in finished.errors


def test_a_later_round_that_keeps_tags_says_that_there_are_none(tmp_path):
    folder = open_writer(tmp_path, "val", "tags", {})
    with pytest.raises(ImageError, match="has no tags: run stage=tags first"):
        read_tags(folder.results, Sample("a", tmp_path / "a.png"))
