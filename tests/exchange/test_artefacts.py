"""What folders of stages say of themselves."""

import json
from pathlib import Path

import numpy as np
import pytest

from pipeline.engine.records import MANIFEST
from pipeline.engine.store import Store
from pipeline.errors import UserError
from pipeline.exchange.artefacts import Artefact
from tests.report.small_run import fill
from tests.results import open_writer, write

NAMES = [["grass", "sky"], ["cat", "kitten"], ["dog"]]


@pytest.mark.parametrize("names", [NAMES, NAMES[1:]])
def test_classes_of_masks_straight_from_images_are_the_first_names_of_their_lines(names, tmp_path):
    """With a line for the background, and without one."""
    configuration = {"method": "dense", "names": names, "num_classes": 2}
    folder = fill(open_writer(tmp_path, "val", "masks", configuration), [], {})
    assert Artefact(folder.path).names == ("background", "cat", "dog")


def test_a_folder_without_names_is_refused(tmp_path):
    folder = fill(open_writer(tmp_path, "val", "masks", {"method": "crf"}), [], {})
    with pytest.raises(UserError, match="names no classes: run stage=masks"):
        Artefact(folder.path)


def test_a_folder_may_be_named_from_the_one_that_holds_it(tmp_path, monkeypatch):
    configuration = {"classes": ["cat"]}
    folder = fill(open_writer(tmp_path, "val", "masks", configuration), [], {})
    monkeypatch.chdir(folder.path.parent)
    assert Artefact(Path("latest")).classes == ("cat",)


@pytest.mark.parametrize(("split", "expected"), [("val", ["dog"]), ("train", ["cat"])])
def test_tags_are_those_of_the_same_images(split, expected, tmp_path):
    """A network may have been trained on another split, or masks say nothing of their tags."""
    store, configuration = Store(tmp_path), {"classes": ["cat", "dog"]}
    tags = open_writer(store, split, "tags", configuration)
    with tags:
        write(tags, "a", {"photograph": "input"}, {}, tags=[1])
        tags.finish(["a"])
    masks = fill(open_writer(store, "val", "masks", configuration), [], {})
    manifest = json.loads((masks.path / MANIFEST).read_text())
    made_from = {"tags": [split, "tags", tags.path.name]}
    (masks.path / MANIFEST).write_text(json.dumps({**manifest, "made_from": made_from}))
    labels = np.uint8([[0, 1, 255]])
    assert Artefact(masks.path).tags("a", labels) == expected
    assert Artefact(tags.path).tags("a") == ["dog"]
