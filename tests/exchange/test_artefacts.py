"""What folders of stages say of themselves."""

from pathlib import Path

import pytest

from pipeline.engine.store import Store
from pipeline.errors import UserError
from pipeline.exchange.artefacts import Artefact
from tests.report.small_run import fill

NAMES = [["grass", "sky"], ["cat", "kitten"], ["dog"]]


@pytest.mark.parametrize("names", [NAMES, NAMES[1:]])
def test_classes_of_masks_straight_from_images_are_the_first_names_of_their_lines(names, tmp_path):
    """With a line for the background, and without one."""
    configuration = {"method": "dense", "names": names, "num_classes": 2}
    folder = fill(Store(tmp_path).folder("val", "masks", configuration), [], {})
    assert Artefact(folder.path).names == ("background", "cat", "dog")


def test_a_folder_without_names_is_refused(tmp_path):
    folder = fill(Store(tmp_path).folder("val", "masks", {"method": "crf"}), [], {})
    with pytest.raises(UserError, match="manifest.json names no classes: run stage=masks again"):
        Artefact(folder.path)


def test_a_folder_may_be_named_from_the_one_that_holds_it(tmp_path, monkeypatch):
    configuration = {"classes": ["cat"]}
    folder = fill(Store(tmp_path).folder("val", "masks", configuration), [], {})
    monkeypatch.chdir(folder.path.parent)
    assert Artefact(Path("latest")).classes == ("cat",)
