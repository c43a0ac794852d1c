"""Masks of other programs: labels of every kind of PNG are imported, or the file is named."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from pipeline.datasets.ground_truth import MaskFile
from pipeline.datasets.mask_images import read_colours
from pipeline.datasets.vocabulary import voc_palette
from pipeline.errors import UserError
from pipeline.files.images import encode_png
from pipeline.files.label_images import IGNORE
from pipeline.segmenter.data import TrainingPair, check_pairs
from tests.exchange.conftest import draw_labels
from tests.hostile.files import grey_png
from tests.small_runs import draw_photograph

CLASSES = ["cat", "dog", "traffic light"]
KNOWN = {name: label for label, name in enumerate(CLASSES, 1)}
LABELS = draw_labels(7, 40, 56)
COLOURS = {0: (0, 0, 0), 1: (10, 20, 30), 2: (0, 0, 1), 3: (255, 0, 255), IGNORE: (1, 1, 1)}


def paint(palette: dict[int, tuple] | None = None) -> np.ndarray:
    table = np.array(voc_palette(256), np.uint8)
    for label, colour in (palette or {}).items():
        table[label] = colour
    return table[LABELS]


def indexed(palette: list[int]) -> Image.Image:
    image = Image.fromarray(LABELS, "P")
    image.putpalette(palette)
    return image


def run(run_tool, folder, tmp_path, *arguments, classes="cat,dog,traffic light"):
    chosen = ["--classes", classes, "--output", tmp_path / "imported"]
    return run_tool("import_masks.py", folder, *chosen, *arguments)


@pytest.mark.parametrize("more", [[], ["--values", "255=1"]])
def test_parts_of_masks_are_not_taken_for_masks(run_tool, folder, tmp_path, more):
    for name in ("cat-0", "cat-1", "dog-0"):
        part = Image.fromarray(np.uint8(LABELS == 1) * 255)
        part.save(folder / f"task-7-annotation-12-by-me@x.org-label-{name}.png")
    finished = run(run_tool, folder, tmp_path, *more)
    assert finished.code == 2 and not (tmp_path / "imported").exists()
    assert "holds Label Studio's PNGs" in finished.errors and "255" not in finished.errors


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "theirs"
    path.mkdir()
    return path


def imported(path) -> np.ndarray:
    with Image.open(path) as image:
        assert image.mode == "P" and image.format == "PNG"
        assert image.getpalette()[: 4 * 3] == [c for colour in voc_palette(4) for c in colour]
        return np.asarray(image)


def test_every_form_arrives_as_the_same_labels(run_tool, folder, tmp_path):
    sixteen = Image.fromarray(LABELS.astype(np.uint16))
    forms = {
        "our own palette": indexed([c for colour in voc_palette(256) for c in colour]),
        "any palette": indexed(list(np.random.default_rng(0).integers(0, 256, 768))),
        "grey": Image.fromarray(LABELS),
        "sixteen": sixteen,
        "colours": Image.fromarray(paint()),
        "opaque": Image.fromarray(np.dstack([paint(), np.full(LABELS.shape, 255, np.uint8)])),
        "grey and opaque": Image.merge(
            "LA", [Image.fromarray(LABELS), Image.new("L", (56, 40), 255)]
        ),
        "in a/folder": Image.fromarray(LABELS),
    }
    for name, image in forms.items():
        (folder / name).parent.mkdir(exist_ok=True)
        image.save(folder / f"{name}.png")
    Image.fromarray(LABELS).save(folder / "upper.PNG")
    finished = run(run_tool, folder, tmp_path)
    assert finished.code == 0, finished.errors
    assert finished.output == f"9 masks written to {tmp_path / 'imported'}\n"
    for name in [*forms, "upper"]:
        assert np.array_equal(imported(tmp_path / "imported" / f"{name}.png"), LABELS), name


@pytest.mark.parametrize("depth", [1, 2, 4])
def test_few_bits_a_pixel_are_labels_not_shades(depth, run_tool, folder, tmp_path):
    values = np.random.default_rng(depth).integers(0, min(4, 2**depth), (13, 11)).astype(np.uint8)
    (folder / "grey.png").write_bytes(grey_png(values, depth))
    palette = Image.fromarray(values, "P")
    palette.putpalette([5] * 3 * 2**depth)
    palette.save(folder / "palette.png", bits=depth)
    assert run(run_tool, folder, tmp_path).code == 0
    for name in ("grey", "palette"):
        assert np.array_equal(imported(tmp_path / "imported" / f"{name}.png"), values)


TABLES = {
    "CamVid's text": "0 0 0\tbackground\n10 20 30\tcat\n0 0 1 dog\n"
    "255 0 255   Traffic Light\n1 1 1 void",
    "CamVid's table": "name,r,g,b\ncat,10,20,30\ndog,0,0,1\n"
    "traffic light,255,0,255\nignore,1,1,1\n",
    "CVAT's": "# label:color_rgb:parts:actions\nbackground:0,0,0::\ncat:10,20,30::\ndog:0,0,1::\n"
    "traffic light:255,0,255::\nvoid:1,1,1::\n",
}


@pytest.mark.parametrize("name", TABLES)
def test_tables_of_colours(name, run_tool, folder, tmp_path):
    table = tmp_path / "colours.txt"
    table.write_text(TABLES[name])
    Image.fromarray(paint(COLOURS)).save(folder / "colours.png")
    flat = [0] * 768
    for label, colour in COLOURS.items():
        flat[3 * label : 3 * label + 3] = colour
    shuffled = np.random.default_rng(0).permutation(256).astype(np.uint8)
    image = Image.fromarray(shuffled[LABELS], "P")
    moved = np.zeros((256, 3), np.uint8)
    moved[shuffled] = np.array(flat, np.uint8).reshape(256, 3)
    image.putpalette(moved.ravel().tolist())
    image.save(folder / "palette.png")
    finished = run(run_tool, folder, tmp_path, "--colours", table, "--palette", "colour")
    assert finished.code == 0, finished.errors
    for name in ("colours", "palette"):
        assert np.array_equal(imported(tmp_path / "imported" / f"{name}.png"), LABELS)


def test_what_cannot_be_imported_is_named_and_nothing_is_written(run_tool, folder, tmp_path):
    Image.fromarray(LABELS).save(folder / "good.png")
    foreign = paint()
    foreign[3:5, 7:10] = (12, 34, 56)
    foreign[39, 55] = (7, 7, 7)
    Image.fromarray(foreign).save(folder / "colour.png")
    high = LABELS.copy()
    high[2, 5:9] = 4
    Image.fromarray(high).save(folder / "label.png")
    alpha = np.full(LABELS.shape, 255, np.uint8)
    alpha[1, 2] = 0
    Image.fromarray(np.dstack([paint(), alpha])).save(folder / "clear.png")
    Image.fromarray(paint()).save(folder / "lossy.jpg")
    (folder / "damaged.png").write_bytes((folder / "good.png").read_bytes()[:90])
    (folder / "gone.png").symlink_to("nothing")
    Image.fromarray(LABELS).save(folder / "good.PNG")
    finished = run(run_tool, folder, tmp_path)
    assert finished.code == 2 and finished.output == ""
    *lines, last = finished.errors.splitlines()
    said = dict(line.split(": ", 1) for line in lines)
    assert said["colour.png"] == (
        "holds colour 12 34 56 (6 pixels, the first at x=7, y=3), colour 7 7 7 (1 pixels, the first"
        " at x=55, y=39): no class has it"
    )
    assert said["label.png"] == (
        "holds label 4 (4 pixels, the first at x=5, y=2), where labels are 0 to 3 and 255"
    )
    assert said["clear.png"] == "has transparent pixels (1 pixels, the first at x=2, y=1)"
    assert said["lossy.jpg"] == "cannot be decoded (it is not a PNG file): replace it"
    assert said["damaged.png"].startswith("cannot be decoded (image file is truncated")
    assert said["good.png"] == "has the same name as good.PNG: keep one of them"
    assert said["gone.png"] == "is missing"
    assert len(said) == 7
    assert last.startswith("error: 7 of 8 masks cannot be imported, and nothing was written")
    assert not (tmp_path / "imported").exists()


def test_what_was_imported_is_what_the_pipeline_takes(run_tool, folder, tmp_path):
    Image.fromarray(paint()).save(folder / "a.png")
    names = tmp_path / "names.txt"
    names.write_text("\n".join(CLASSES))
    assert run(run_tool, folder, tmp_path, classes=names).code == 0
    Image.fromarray(draw_photograph(0, *LABELS.shape)).save(tmp_path / "a.jpg")
    mask = tmp_path / "imported/a.png"
    assert check_pairs([TrainingPair("a", tmp_path / "a.jpg", mask)], len(CLASSES)) == {}
    assert np.array_equal(MaskFile(mask, len(CLASSES)).read(), LABELS)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "names no colour"),
        ("10 20 cat", "line 1: 10 20 cat is not a colour and a name"),
        ("10 20 300 cat", "not a colour: give three numbers from 0 to 255"),
        ("1 2 3 cat\n1 2 3 dog", "line 2: .* has another name above"),
        ("background:::\ncat:1,2,3::", "line 1: background::: is not a colour and a name"),
        ("cat:::\ndog:::", "has no colours, and its first name is not background"),
        ("background:::\nbird:::", "line 2: bird is not a class"),
        ("1 2 3 bird", "bird is not a class: add it to the classes, or call it ignore"),
    ],
)
def test_tables_that_cannot_be_used(text, message, tmp_path):
    path = tmp_path / "colours.txt"
    path.write_text(text)
    with pytest.raises(UserError, match=message):
        read_colours(path, KNOWN, "--colours")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"classes": "cat,cat"}, "names cat twice"),
        ({"classes": "/no/names.txt"}, "is not a file"),
        ({"output": "theirs/inside"}, "is in the folder of the masks"),
        ({"folder": "nowhere"}, "is not a folder: give the one that holds the masks"),
        ({"folder": "empty"}, "holds no PNG"),
    ],
)
def test_wrong_use_is_answered_with_one_sentence(change, message, run_tool, folder, tmp_path):
    Image.fromarray(LABELS).save(folder / "a.png")
    (tmp_path / "empty").mkdir()
    finished = run_tool(
        "import_masks.py",
        tmp_path / change.get("folder", "theirs"),
        *("--classes", change.get("classes", "cat,dog,cup")),
        *("--output", tmp_path / change.get("output", "imported")),
    )
    assert finished.code == 2 and message in finished.errors
    assert len(finished.errors.splitlines()) == 1


def test_masks_of_a_brush_are_refused_unless_it_is_said_what_255_is(run_tool, folder, tmp_path):
    brush = np.where(LABELS == 2, np.uint8(255), np.uint8(0))
    Image.fromarray(brush).save(folder / "a.png")
    Image.fromarray(np.zeros_like(brush)).save(folder / "b.png")
    finished = run(run_tool, folder, tmp_path)
    assert finished.code == 2 and not (tmp_path / "imported").exists()
    assert "only 0 and 255: is 255 the object? if so, give --values 255=1" in finished.errors
    assert run(run_tool, folder, tmp_path, "--values", "255=2").code == 0
    assert np.array_equal(imported(tmp_path / "imported/a.png"), np.where(brush, 2, 0))
    assert run(run_tool, folder, tmp_path, "--values", "1=1").code == 0
    assert np.array_equal(imported(tmp_path / "imported/a.png"), brush)


def test_values_stand_for_labels(run_tool, folder, tmp_path):
    shades = np.array([0, 90, 5, 250], np.uint8)[np.where(LABELS == IGNORE, 0, LABELS)]
    Image.fromarray(shades).save(folder / "a.png")
    assert run(run_tool, folder, tmp_path, "--values", "90=1, 5=2,250=3").code == 0
    expected = np.where(LABELS == IGNORE, 0, LABELS)
    assert np.array_equal(imported(tmp_path / "imported/a.png"), expected)
    finished = run(run_tool, folder, tmp_path, "--values", "90=1,5=2")
    assert finished.code == 2 and "which the given values do not name" in finished.errors
    for wrong in ("90", "90=4", "x=1", "", "-1=1", "90=1;5=2"):
        finished = run(run_tool, folder, tmp_path, f"--values={wrong}")
        assert finished.code == 2 and "write it like 255=1" in finished.errors, wrong


def test_our_own_masks_read_by_their_colours_are_the_same_labels(run_tool, folder, tmp_path):
    """A tool that reads colours would take black pixels of 255 as background."""
    (folder / "a.png").write_bytes(encode_png(LABELS, voc_palette(4)))
    with Image.open(folder / "a.png") as image:
        image.convert("RGB").save(folder / "b.png")
    assert run(run_tool, folder, tmp_path, "--palette", "colour").code == 0
    for name in "ab":
        assert np.array_equal(imported(tmp_path / "imported" / f"{name}.png"), LABELS)


def test_a_labelmap_without_colours_has_those_of_voc_in_its_order(tmp_path):
    path = tmp_path / "labelmap.txt"
    path.write_text("# label:color_rgb:parts:actions\nbackground:::\ndog:::\ncat::body,head:run\n")
    black, red, green = voc_palette(3)
    assert read_colours(path, KNOWN, "--colours") == {black: 0, red: 2, green: 1}
