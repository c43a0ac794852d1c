"""Tasks for Label Studio: a decoder of its run lengths gives the masks back."""

from __future__ import annotations

import json
from urllib.parse import parse_qs, urlsplit
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from pipeline.datasets.instances import label_studio_image
from pipeline.datasets.vocabulary import voc_palette
from pipeline.exchange.formats.label_studio import encode_brush
from pipeline.files.images import encode_png
from pipeline.files.label_images import IGNORE
from tests.exchange.conftest import CLASSES, SIZES
from tests.exchange.formats.conftest import without_ignored
from tests.extras import library
from tests.report.two_runs import change_entries


def decode_brush(runs):
    """Returns the values of Label Studio's run lengths, read bit by bit as its documents say."""
    bits = iter("".join(f"{byte:08b}" for byte in runs))

    def read(count):
        return int("".join(next(bits) for _ in range(count)), 2)

    total, width = read(32), read(5) + 1
    widths = [read(4) + 1 for _ in range(4)]
    values = []
    while len(values) < total:
        is_run, count = read(1), read(widths[read(2)]) + 1
        if is_run:
            values += [read(width)] * count
        else:
            values += [read(width) for _ in range(count)]
    return np.array(values, np.uint8)


def rebuild(task, shape, decode=decode_brush):
    """Returns the labels of a task's prediction, H×W uint8."""
    labels = np.zeros(shape, np.uint8)
    (prediction,) = task["predictions"]
    for region in prediction["result"]:
        if region["type"] == "brushlabels":
            assert (region["original_height"], region["original_width"]) == shape
            pixels = decode(region["value"]["rle"]).reshape(*shape, 4)
            assert (pixels == pixels[..., :1]).all() and {*np.unique(pixels)} <= {0, 255}
            (name,) = region["value"]["brushlabels"]
            assert not labels[pixels[..., 3] > 0].any(), "regions do not overlap"
            labels[pixels[..., 3] > 0] = CLASSES.index(name) + 1
    return labels


def choices(task):
    results = task["predictions"][0]["result"]
    return [r["value"]["choices"] for r in results if r["type"] == "choices"]


@pytest.mark.parametrize("seed", range(8))
def test_run_lengths_of_every_width(seed):
    rng = np.random.default_rng(seed)
    lengths = rng.choice([1, 2, 3, 4, 5, 64, 65, 16384, 16385, 32768, 40000], 9)
    values = np.arange(len(lengths)) + seed & 1
    inside = np.repeat(values, lengths).astype(bool)[None]
    expected = np.repeat(inside.ravel() * np.uint8(255), 4)
    runs = encode_brush(inside)
    assert runs.dtype == np.uint8 and np.array_equal(decode_brush(runs), expected)
    assert len(runs) < 5 * len(lengths) + 40


def test_tasks_hold_the_masks(export, noisy, tmp_path):
    folder, images, labels = noisy
    target = tmp_path / "tasks.json"
    finished = export("label_studio", folder, target, images, "--prefix", "my photos/")
    assert finished.code == 0 and f"5 masks written to {target}" in finished.output
    ignored = sum(int((mask == IGNORE).sum()) for mask in labels.values())
    assert f"note: {ignored} pixels of label 255 have no region" in finished.errors
    tasks = {task["data"]["id"]: task for task in json.loads(target.read_text())}
    assert set(tasks) == set(labels)
    for image_id, mask in labels.items():
        assert np.array_equal(rebuild(tasks[image_id], mask.shape), without_ignored(mask))
        address = urlsplit(tasks[image_id]["data"]["image"])
        assert address.path == "/data/local-files/"
        assert parse_qs(address.query)["d"] == [f"my photos/{image_id}.png"]
        names = [CLASSES[k - 1] for k in np.unique(mask) if k not in (0, IGNORE)]
        assert choices(tasks[image_id]) == [names] * bool(names)
    assert tasks["e"]["predictions"][0]["result"] == []
    assert tasks["a"]["predictions"][0]["model_version"] == f"masks {folder.name}"


def test_the_configuration_names_classes_and_colours(export, masks, images, tmp_path):
    finished = export("label_studio", masks, tmp_path / "tasks.json", images)
    assert f"note: paste {tmp_path / 'tasks.xml'} into" in finished.errors
    view = ElementTree.parse(tmp_path / "tasks.xml").getroot()
    assert view.find("Image").attrib == {"name": "image", "value": "$image"}
    brushes = [label.attrib for label in view.find("BrushLabels")]
    assert [label["value"] for label in brushes] == CLASSES
    assert brushes[0]["background"] == "#{:02x}{:02x}{:02x}".format(*voc_palette(2)[1])
    assert [choice.attrib["value"] for choice in view.find("Choices")] == CLASSES
    tasks = json.loads((tmp_path / "tasks.json").read_text())
    named = {element.attrib["name"] for element in view if "toName" in element.attrib}
    assert {r["from_name"] for t in tasks for r in t["predictions"][0]["result"]} == named


def test_tags_are_choices(run_tool, stage_folder, tmp_path):
    folder = stage_folder("tags", dict.fromkeys(SIZES, b""), ".txt")
    change_entries(folder, lambda entry: {"tags": {"a": [2, 0]}.get(entry["id"], [])})
    target = tmp_path / "tasks.json"
    finished = run_tool("export.py", folder, "--format", "label_studio", "--output", target)
    assert finished.code == 0 and "note: file names end in .jpg" in finished.errors
    first, *others = json.loads(target.read_text())
    assert choices(first) == [[CLASSES[2], CLASSES[0]]]
    assert not any(map(choices, others))
    assert ElementTree.parse(tmp_path / "tasks.xml").getroot().find("BrushLabels") is None


@pytest.mark.parametrize("applied", [True, False])
def test_a_mask_that_label_studio_would_not_turn_is_left_out(
    applied, export, stage_folder, labels, images, tmp_path
):
    with Image.open(images / "a.jpg") as image:
        exif = image.getexif()
        exif[0x0112] = 6
        image.save(images / "a.jpg", exif=exif)
    mask = encode_png(labels["a"].T.copy() if applied else labels["a"], voc_palette(4))
    folder = stage_folder("masks", {"a": mask}, ".png", exif=not applied)
    finished = export("label_studio", folder, tmp_path / "tasks.json", images)
    assert finished.code == (0 if applied else 2)
    assert ("left out: a: Label Studio turns it by its EXIF" in finished.errors) is not applied


def test_an_image_that_browsers_do_not_show_is_a_jpeg_beside_the_tasks(export, noisy, tmp_path):
    folder, images, labels = noisy
    Image.open(path := images / "b" / "c d.png").save(path.with_suffix(".tif"))
    path.unlink()
    finished = export("label_studio", folder, tmp_path / "tasks.json", images)
    said = f"1 images are JPEGs in {tmp_path / 'tasks_jpeg'}, since browsers show no HEIC and TIFF"
    assert finished.code == 0 and said in finished.errors
    tasks = {task["data"]["id"]: task for task in json.loads((tmp_path / "tasks.json").read_text())}
    [path] = parse_qs(urlsplit(tasks["b/c d"]["data"]["image"]).query)["d"]
    with Image.open(tmp_path / path) as image:
        assert image.format == "JPEG" and image.size[::-1] == labels["b/c d"].shape
        assert np.abs(np.asarray(image).astype(int) - 50).max() <= 1
    assert [*map(label_studio_image, tasks.values())] == [*tasks]


@pytest.mark.extras
def test_label_studios_own_library_reads_it(export, noisy, tmp_path):
    brush = library("label_studio_sdk.converter.brush")
    interface = library("label_studio_sdk.label_interface")
    folder, images, labels = noisy
    target = tmp_path / "tasks.json"
    assert export("label_studio", folder, target, images).code == 0
    tasks = {task["data"]["id"]: task for task in json.loads(target.read_text())}
    view = interface.LabelInterface((tmp_path / "tasks.xml").read_text())
    view.validate()
    for image_id, mask in labels.items():
        decoded = rebuild(tasks[image_id], mask.shape, brush.decode_rle)
        assert np.array_equal(decoded, without_ignored(mask))
        (prediction,) = tasks[image_id]["predictions"]
        assert view.validate_prediction(prediction, return_errors=True) == []
        for k in set(np.unique(without_ignored(mask)).tolist()) - {0}:
            ours, theirs = encode_brush(mask == k), brush.mask2rle(np.uint8(mask == k) * 255)
            assert theirs in ([*ours], [*ours, 0])  # it fills up full bytes as well
