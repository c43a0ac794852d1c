"""``tools/overlay.py``: artefacts over photographs."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from pipeline.files.images import encode_png
from pipeline.files.journal import encode_line
from tests.report.small_run import PALETTE, build_run

IDS = ["0", "1", "2", "3"]
CLASSES = ["cat", "$\\frac{dog", "cup"]


@pytest.fixture
def material(tmp_path):
    return build_run(tmp_path / "run", IDS, CLASSES)


@pytest.fixture
def draw(run_tool, material, tmp_path):
    photographs = material.root.parent / "photographs"

    def run(*arguments):
        return run_tool(
            "overlay.py", *arguments, "--images", photographs, "--output", tmp_path / "o"
        )

    return run


def pixels(path):
    with Image.open(path) as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("RGB")).astype(int)


def test_every_kind_of_artefact_is_drawn(draw, material, tmp_path):
    folders = [*material.results.values()]
    finished = draw(*(folder.path for folder in folders))
    assert finished.code == 0, finished.errors
    assert finished.output == f"16 overlays in {tmp_path / 'o'}\n"
    for folder in folders:
        for image_id in IDS:
            picture = pixels(tmp_path / "o" / folder.name / f"{image_id}.png")
            assert min(picture.shape[:2]) > 200 and np.ptp(picture) > 200


def test_masks_are_tinted_and_named(draw, material, tmp_path):
    draw(material.results["masks"].path, "--ids", "0", "--opacity", "1")
    picture = pixels(tmp_path / "o" / "masks" / "0.png")
    height = 48 * 8  # 48 pixels of the photograph, enlarged
    region = (picture[:height] == PALETTE[1]).all(-1)
    assert region.mean() == pytest.approx(0.25, abs=0.02)
    assert picture.shape[0] > height and (picture[height:] < 100).any(), "a legend"
    assert not (tmp_path / "o" / "masks" / "1.png").exists()


def test_every_tag_has_its_class_activation_map(draw, material, tmp_path):
    draw(material.results["cams"].path)
    side = 240 + 8  # of a tile, with the gap
    pictures = [pixels(tmp_path / "o" / "cams" / f"{i}.png") for i in "013"]
    sizes = [picture.shape[1] for picture in pictures]
    assert sizes == [8 + side * tiles for tiles in (2, 3, 2)], "without tags, a tile says so"
    heat = pictures[0][44:224, 8 + side : 8 + side + 240]
    assert heat[80, 60].sum() > heat[80, 230].sum(), "the CAM is hot where the object is"


def test_what_cannot_be_drawn_is_named_and_the_others_are_done(draw, material, tmp_path):
    (material.results["masks"].path / "0.png").unlink()
    (material.results["masks"].path / "1.png").write_bytes(
        encode_png(np.full((48, 64), 77, np.uint8))
    )
    (material.root.parent / "photographs" / "2.png").unlink()
    finished = draw(material.results["masks"].path)
    assert finished.code == 2
    for image_id in "01":
        assert f"left out: {image_id}: masks for split val are not as they were" in finished.errors
    assert "left out: 2: no image " in finished.errors
    assert "error: 3 of 4 images could not be drawn" in finished.errors
    assert finished.output.startswith("1 overlay in")
    assert pixels(tmp_path / "o" / "masks" / "3.png").size


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--ids", "nine"], "holds no image nine"),
        (["--limit", "0"], "--limit 0 is out of range: give 1 or more"),
        (["--opacity", "2"], "--opacity: 2 is not a number from 0 to 1"),
        (["--opacity", "nan"], "--opacity: nan is not a number from 0 to 1"),
        (["--opacity", "half"], "--opacity: half is not a number from 0 to 1"),
    ],
)
def test_mistakes_are_answered_in_one_sentence(draw, material, arguments, message):
    finished = draw(material.results["masks"].path, *arguments)
    assert finished.code == 2 and message in finished.errors
    assert finished.errors.startswith("error: ") and finished.errors.count("\n") == 1


def test_a_folder_that_is_no_stage_is_named(draw, run_tool, material, tmp_path):
    finished = draw(tmp_path)
    assert finished.code == 2 and f"{tmp_path} is not a finished folder of tags" in finished.errors
    (tmp_path / "manifest.json").write_text("[]")
    finished = draw(tmp_path)
    assert finished.code == 2 and f"{tmp_path} is not a finished folder of tags" in finished.errors
    finished = run_tool(
        "overlay.py", material.results["masks"].path, "--images", tmp_path / "nowhere"
    )
    assert finished.code == 2 and "is not a folder: give the one that holds them" in finished.errors


def test_an_id_cannot_leave_the_output_folder(draw, material, tmp_path):
    (material.results["masks"].path / "entries.jsonl").write_bytes(
        encode_line({"id": "../x", "inputs": {}})
    )
    photographs, masks = material.root.parent / "photographs", material.results["masks"].path
    (photographs.parent / "x.png").write_bytes((photographs / "0.png").read_bytes())
    (masks.parent / "x.png").write_bytes((masks / "0.png").read_bytes())
    finished = draw(masks)
    assert finished.code == 2
    assert "left out: ../x: its id leaves the output folder: rename the image" in finished.errors
    assert not (tmp_path / "o" / "x.png").exists()


def test_a_grey_label_has_the_colour_of_its_regions_in_every_legend(run_tool, tmp_path):
    ids, classes = [str(k) for k in range(8)], list("abcdefg")
    material = build_run(tmp_path / "run", ids, classes)
    given = ["--images", material.root.parent / "photographs", "--ids", "6"]
    for folder in (material.results["tags"], material.results["masks"]):
        target = tmp_path / folder.name
        assert run_tool("overlay.py", folder.path, *given, "--output", target).code == 0
        (path,) = target.rglob("*.png")
        assert (pixels(path) == (255, 128, 255)).all(-1).sum() > 20
