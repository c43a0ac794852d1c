"""What leaves by an export comes back by the reader of masks; an edit corrects its image alone."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from pipeline.datasets.annotations import open_annotations
from pipeline.datasets.corrected import corrected_masks
from pipeline.datasets.mask_images import Reading
from pipeline.datasets.settings import AnnotationSettings
from pipeline.datasets.vocabulary import voc_palette
from pipeline.engine.sample import Dataset, Images, Sample
from pipeline.files.images import encode_png
from tests.exchange.conftest import CLASSES
from tests.exchange.formats.conftest import without_ignored
from tests.report.two_runs import change_entries

BY_COLOUR = {"colours": "labelmap.txt", "palette": "colour"}
FORMATS = {  # → output, masks.path, how it is read, whether label 255 comes back
    "coco": ("masks.json", "masks.json", {}, False),
    "label_studio": ("tasks.json", "tasks.json", {}, False),
    "labelme": ("set", "set/val", {}, False),
    "voc": ("set", "set/SegmentationClass", BY_COLOUR, True),
    "hugging_face": ("set", "set/val/masks", {}, True),
    "mmsegmentation": ("set", "set/ann_dir/val", {}, True),
}


def submit(path):
    """Does what a person does in Label Studio, who submits each prediction as it is."""
    tasks = json.loads(path.read_text())
    for task in tasks:
        task["annotations"] = task.pop("predictions")
    path.write_text(json.dumps(tasks))


@pytest.mark.parametrize("name", FORMATS)
def test_what_leaves_comes_back_and_an_edit_changes_its_image_alone(
    name, export, noisy, stage_folder, tmp_path
):
    output, given, settings, keeps_ignored = FORMATS[name]
    folder, images, labels = noisy
    # A list of VOC's cannot begin a line with #, and the file has another name.
    ids = [i for i in labels if not (name == "voc" and i.startswith("#"))]

    def opened(place):
        chosen = settings | {k: str(place / output / v) for k, v in settings.items() if "." in v}
        reading = Reading.of(AnnotationSettings(**chosen), "masks", CLASSES)
        return open_annotations(str(place / given), "masks.path", reading)

    def corrected(place):
        found = opened(place)
        split = [Sample(image_id, Path(image_id)) for image_id in found.entries]
        return {*corrected_masks(found, Images(Dataset(None, {"val": split}, "val")), "val").masks}

    def contents(place):
        place.mkdir()
        assert export(name, folder, place / output, images).code == 0
        if name == "label_studio":
            submit(place / output)
        annotations = opened(place)
        found = {image_id: annotations.find(image_id) for image_id in ids}
        for image_id, each in found.items():
            mask = labels[image_id]
            expected = mask if keeps_ignored else without_ignored(mask)
            np.testing.assert_array_equal(each.labels(mask.shape), expected, image_id)
        return {image_id: each.content for image_id, each in found.items()}

    before = contents(tmp_path / "before")
    assert not corrected(tmp_path / "before")
    labels["a"][:9, :9] = 1
    labels["a"][5:9, 5:9] = 3
    stage_folder("masks", {"a": encode_png(labels["a"], voc_palette(len(CLASSES) + 1))}, ".png")
    by_hand = {"e": {"correction": "x"}}
    change_entries(folder, lambda entry: {"inputs": by_hand.get(entry["id"])})
    after = contents(tmp_path / "after")
    assert [image_id for image_id in ids if before[image_id] != after[image_id]] == ["a"]
    # What is a correction stays one, though nobody changed it since.
    assert corrected(tmp_path / "after") == {"e"}
    edited, newer = (opened(tmp_path / place).find("a").path for place in ("before", "after"))
    if name in ("coco", "label_studio"):
        content = json.loads(edited.read_text())
        (content["annotations"] if name == "coco" else content[1]["annotations"][0]["result"]).pop()
        edited.write_text(json.dumps(content))
    else:
        shutil.copy(newer, edited)
    assert len(corrected(tmp_path / "before")) == 1
