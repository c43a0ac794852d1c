"""Image ids and file names that lead elsewhere: nothing is written outside output_dir."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from pipeline.errors import UserError
from tests.datasets.miniature_coco import build_coco
from tests.datasets.miniatures import build_voc2012, load, write_list
from tests.results import open_writer, write
from tests.small_runs import draw_photograph

ELSEWHERE = [
    "../elsewhere",
    "../../elsewhere",
    "a/../../../elsewhere",
    "/ABSOLUTE/elsewhere",
    "..",
    ".",
    "a\0b",
    "%2e%2e%2felsewhere",
    "..\\elsewhere",
]


def everything(folder: Path, but: Path) -> dict[str, float]:
    """Returns all files below a folder, but those in one of its folders, and when they changed."""
    return {
        str(p): p.lstat().st_mtime_ns
        for p in folder.rglob("*")
        if p != but and not p.is_relative_to(but)
    }


def names(tmp_path: Path) -> list[str]:
    return [name.replace("/ABSOLUTE", str(tmp_path)) for name in ELSEWHERE]


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    """An image beside the data set and the output folder."""
    path = tmp_path / "elsewhere.jpg"
    Image.fromarray(draw_photograph(1, 64, 64)).save(path)
    return path


@pytest.fixture
def refused(tmp_path, run_stage):
    """Tags a data set, which must be refused and must change nothing; returns what was said."""

    def run(*arguments: str) -> str:
        before = everything(tmp_path, tmp_path / "out")
        finished = run_stage(*arguments, f"output_dir={tmp_path / 'out'}", "stage=tags")
        assert finished.code == 2 and "Traceback" not in finished.errors, finished.errors
        assert everything(tmp_path, tmp_path / "out") == before
        return finished.errors

    return run


@pytest.mark.parametrize("index", range(len(ELSEWHERE)))
def test_a_list_of_images(index, tmp_path, photographs, elsewhere, refused):
    (tmp_path / "list.txt").write_text(f"{names(tmp_path)[index]}\n", encoding="utf-8")
    folder = ["dataset=folder", f"dataset.root={photographs}", "dataset.classes=[cat,dog]"]
    said = refused(*folder, f"dataset.image_list={tmp_path / 'list.txt'}", "dataset.split=all")
    has_nul = "\0" in names(tmp_path)[index]
    assert ("holds NUL bytes" if has_nul else "which split all does not have") in said


@pytest.mark.parametrize("index", range(len(ELSEWHERE)))
def test_a_list_of_voc(index, tmp_path, elsewhere, refused):
    root = build_voc2012(tmp_path / "data")
    name = names(tmp_path)[index]
    write_list(root / "ImageSets" / "Segmentation" / "val.txt", [name])
    # The ids of VOC have no folders, so that what is read lies in JPEGImages or does not exist.
    if "\0" not in name:
        sample = load("voc2012", root).splits["val"][0]
        assert sample.image.parent == root / "JPEGImages" and "/" not in sample.id
    voc = ["dataset=voc2012", f"dataset.root={root}", "dataset.split=val", "tags=ground_truth"]
    refused(*voc, "runtime.max_failures=0")


@pytest.mark.parametrize("index", range(7))
def test_a_file_name_of_coco(index, tmp_path, elsewhere, refused):
    root = build_coco(tmp_path / "data")
    path = root / "annotations" / "instances_val2017.json"
    content = json.loads(path.read_text())
    name = names(tmp_path)[index]
    content["images"][0]["file_name"] = name if index > 3 else f"{name}.jpg"
    path.write_text(json.dumps(content))
    coco = ["dataset=coco2017", f"dataset.root={root}", "dataset.split=val", "tags=ground_truth"]
    assert "is not an annotation file of COCO" in refused(*coco)


def test_a_stage_writes_in_its_folder_alone(tmp_path):
    out = tmp_path / "out"
    tried = ["../a.png", "../../../a.png", f"{tmp_path}/a.png", "x/../../a.png"]
    with open_writer(out, "all", "masks", {}) as folder:
        for name in tried:
            before = everything(tmp_path, out)
            with pytest.raises(UserError, match="output folder: rename the image"):
                write(folder, "id", {"photograph": "key"}, {name: b"x"})
            assert everything(tmp_path, out) == before
        (folder.path / "link").symlink_to(tmp_path)
        with pytest.raises(UserError, match="leaves the output folder"):
            write(folder, "id", {"photograph": "key"}, {"link/a.png": b"x"})
    assert not (tmp_path / "a.png").exists()


def test_results_of_predict_stay_in_their_folder(two_steps, tmp_path, run_tool):
    photographs, outside = tmp_path / "photographs", tmp_path / "outside"
    for path in (photographs / "a" / "..b.jpg", photographs / "...jpg", outside / "c.jpg"):
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draw_photograph(1, 40, 48)).save(path, "JPEG")
    (photographs / "link").symlink_to(outside)
    (photographs / "climbing.jpg").symlink_to(outside / "c.jpg")
    before = everything(tmp_path, tmp_path / "seen")
    finished = run_tool(
        "predict.py",
        "--checkpoint",
        two_steps,
        photographs,
        photographs / "a" / ".." / "a" / "..b.jpg",
        "--output",
        tmp_path / "seen",
    )
    assert finished.code == 0, finished.errors
    assert everything(tmp_path, tmp_path / "seen") == before
    assert {p.name for p in (tmp_path / "seen").rglob("*.png")} == {"..b.png", "climbing.png"}


def test_lists_of_classes_name_no_file(tmp_path, photographs, elsewhere, run_stage):
    lines = [f"{name} 0" for name in names(tmp_path) if "\0" not in name]
    images = ["a", "b", "c", "d", "holiday%202026/e%20f"]
    listed = tmp_path / "list.txt"
    listed.write_text("\n".join([*lines, *(f"{image} 1" for image in images)]))
    before = everything(tmp_path, tmp_path / "out")
    for how in (
        [f"dataset.labels={listed}", "tags=ground_truth"],
        ["tags=file", f"tags.path={listed}"],
    ):
        finished = run_stage(
            "dataset=folder",
            f"dataset.root={photographs}",
            "dataset.classes=[cat,dog]",
            f"output_dir={tmp_path / 'out'}",
            *how,
            "stage=tags",
        )
        assert finished.code == 0, finished.errors
        assert everything(tmp_path, tmp_path / "out") == before
        written = tmp_path / "out" / "all" / "tags" / "latest" / "tags.txt"
        assert "elsewhere" not in written.read_text()
