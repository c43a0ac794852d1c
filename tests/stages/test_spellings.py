"""Names of images that files spell in another Unicode normalisation, as those of a Mac do."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.cams.cams import Cams, encode_cams
from pipeline.files.label_images import read_labels
from tests.small_runs import Finished, draw_photograph, folder_options, latest

NFC, NFD = "caf\u00e9", "cafe\u0301"
SIZE = (40, 48)


def save(path: Path, content: np.ndarray | bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        Image.fromarray(content).save(path)


@pytest.fixture(params=[(NFC, NFD), (NFD, NFC)], ids=["nfc", "nfd"])
def spelt(request, tmp_path) -> tuple[str, str]:
    """The names of photographs without their numbers: as they are, and as files have them."""
    own, theirs = request.param
    for index in range(3):
        photograph = tmp_path / "photographs" / own / f"{own}{index}.jpg"
        save(photograph, draw_photograph(index, *SIZE))
    return f"{own}/{own}", f"{theirs}/{theirs}"


@pytest.fixture
def run(run_stage, tiny_checkpoint, tmp_path) -> Callable[..., Finished]:
    def run(stages: str, *more: str) -> Finished:
        usual = f"output_dir={tmp_path / 'out'}", "dataset.split=all"
        given = (each.replace("=/", f"={tmp_path}/") for each in more)
        options = folder_options(tmp_path / "photographs", tiny_checkpoint, *usual, *given)
        return run_stage(*options, f"stage=[{stages}]")

    return run


def masks(root: Path) -> dict[str, int]:
    """Returns id → the highest label of its mask, which has no other."""
    folder = latest(root / "out", "masks").resolve()
    files = {path.relative_to(folder).with_suffix(""): path for path in folder.rglob("*.png")}
    return {name.as_posix(): int(read_labels(path).max()) for name, path in files.items()}


def test_lists_and_folders_name_images_in_any_normalisation(spelt, run, tmp_path):
    own, theirs = spelt
    lists = {
        "images.txt": "{0}0.jpg\n{0}1\n",
        "tags.txt": "{0}0 0\n{0}1 0\n",
        "corrections.csv": "id,classes\n{0}1,cup\n",
        "labels.csv": "{0}0,cat\n{0}1.jpg,cup\n",
    }
    for name, text in lists.items():
        save(tmp_path / name, text.format(theirs).encode())
    cams = Cams(np.array([0, 3]), np.ones((2, 3, 3), np.float16), SIZE)
    for index in range(2):
        save(tmp_path / "cams" / f"{theirs}{index}.npz", encode_cams(cams))
        save(tmp_path / "regions" / f"{theirs}{index}.png", np.ones(SIZE, np.uint8))
    given = "dataset.image_list=/images.txt", "dataset.labels=/labels.csv", "tags=file"
    given += "tags.path=/tags.txt", "tags.corrections=/corrections.csv", "cams=file"
    given += "cams.path=/cams", "masks=regions", "masks.regions=/regions"
    finished = run("tags,cams,masks,evaluate", *given)
    assert finished.code == 0 and "left out" not in finished.errors, finished.errors
    [tags] = [line for line in finished.output.splitlines() if line.startswith("| all")]
    assert "100.0" in tags, "labels are those of tags"
    assert masks(tmp_path).keys() == {f"{own}0", f"{own}1"}


def test_masks_of_people_may_have_another_normalisation(spelt, run, tmp_path):
    own, theirs = spelt
    for index in range(3):
        save(tmp_path / "masks" / f"{theirs}{index}.png", np.full(SIZE, 1, np.uint8))
    save(tmp_path / "mine" / f"{theirs}0.png", np.full(SIZE, 2, np.uint8))
    given = "masks=file", "masks.path=/masks", "dataset.masks=/masks", "masks.corrections=/mine"
    finished = run("masks,evaluate", *given)
    assert finished.code == 0 and "left out" not in finished.errors, finished.errors
    assert masks(tmp_path) == {f"{own}0": 2, f"{own}1": 1, f"{own}2": 1}


def test_overlays_take_ids_in_any_normalisation(spelt, run, run_tool, tmp_path):
    own, theirs = spelt
    save(tmp_path / "masks" / f"{own}0.png", np.full(SIZE, 1, np.uint8))
    run("masks", "masks=file", "masks.path=/masks", "dataset.limit=1")
    given = "--images", tmp_path / "photographs", "--output", tmp_path / "drawn"
    finished = run_tool(
        "overlay.py", latest(tmp_path / "out", "masks"), *given, "--ids", f"{theirs}0"
    )
    assert finished.code == 0, finished.errors
    assert (tmp_path / "drawn" / "masks" / f"{own}0.png").is_file()


def test_a_correction_of_no_image_is_named_with_the_nearest(spelt, run, tmp_path):
    _, theirs = spelt
    save(tmp_path / "mine" / f"{theirs}9x.png", np.full(SIZE, 2, np.uint8))
    save(tmp_path / "tags.csv", f"id,classes\n{theirs}9x,cup\n".encode())
    for given in (["tags.corrections=/tags.csv"], ["masks=argmax", "masks.corrections=/mine"]):
        finished = run("tags,cams,masks", *given)
        assert finished.code == 2
        assert f"names {NFC}/{NFC}9x, which split all does not have" in finished.errors
        assert f"did you mean {NFC}/{NFC}" in finished.errors


def test_two_masks_of_one_image_are_refused(spelt, run, tmp_path):
    for name in spelt:
        save(tmp_path / "mine" / f"{name}0.png", np.full(SIZE, 2, np.uint8))
        save(tmp_path / "regions" / f"{name}0.png", np.full(SIZE, 1, np.uint8))
    finished = run("masks", "masks=file", "masks.path=/mine")
    assert finished.code == 2 and "holds two masks of image" in finished.errors
    finished = run("tags,cams,masks", "masks=regions", "masks.regions=/regions", "dataset.limit=1")
    assert finished.code == 2 and "has two files of regions" in finished.errors


@pytest.mark.parametrize(("number", "is_named"), [("0", False), ("9x", True)])
def test_of_too_few_entries_those_of_no_image_are_named(number, is_named, spelt, run, tmp_path):
    save(tmp_path / "masks" / f"{spelt[1]}{number}.png", np.full(SIZE, 1, np.uint8))
    finished = run("masks", "masks=file", "masks.path=/masks")
    assert finished.code == 2 and "fewer than half" in finished.errors
    assert (f"no image is called {NFC}/{NFC}9x" in finished.errors) == is_named
    assert is_named or "no image" not in finished.errors
