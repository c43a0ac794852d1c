"""Strange names and places of files, such as cameras and people choose."""

from __future__ import annotations

import os
import shutil
import tempfile
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.datasets import find_reader, load_dataset
from pipeline.datasets.folder import find_images
from pipeline.datasets.lists import format_class_list, read_class_list
from pipeline.datasets.settings import DatasetSettings
from pipeline.errors import UserError
from tests.datasets.miniatures import settings_of
from tests.hostile.examples import SEEDED
from tests.hostile.files import encode, photograph, write
from tests.typed import to_settings

PHOTOGRAPH = encode(photograph())

NAMES = st.one_of(
    st.binary(min_size=1, max_size=40).map(os.fsdecode),
    st.text(min_size=1, max_size=40),
    st.text(" \t\n\r\"'%\\-.,;:*?#&~$\u0301é\u2028\x85", min_size=1, max_size=40),
)
"""Names that a file system accepts, and other programs fail on."""


def is_a_name(name: str) -> bool:
    try:
        encoded = os.fsencode(name)
    except UnicodeEncodeError:  # half pairs that no bytes stand for
        return False
    return not {0, ord("/")} & set(encoded) and not name.startswith(".") and len(encoded) < 250


@cache
def _settings() -> DatasetSettings:
    usual = settings_of("folder", Path(), classes=["cat"])
    return to_settings(find_reader("folder")[1], usual)


def found(root: Path) -> tuple[dict[str, str], dict[str, str]]:
    """Returns id → file and id → reason."""
    dataset = load_dataset(replace(_settings(), root=str(root)))
    samples = {s.id: s.image.name for s in dataset.splits["all"]}
    rejected = dict(dataset.rejected["all"])
    assert not samples.keys() & rejected.keys(), "an image is done or left out"
    return samples, rejected


def test_any_name_is_an_id(tmp_path):
    @SEEDED
    @given(NAMES.filter(is_a_name))
    def name_it(name):
        with tempfile.TemporaryDirectory(dir=tmp_path) as folder:
            (Path(folder) / f"{name}.jpg").touch()
            samples, rejected = found(Path(folder))
        assert samples == {name: f"{name}.jpg"} and not rejected

    name_it()


def test_any_id_is_a_line_of_a_list(tmp_path):
    @SEEDED
    @given(st.lists(NAMES.filter(is_a_name), min_size=1, max_size=5, unique=True))
    def list_them(ids):
        labels = {image_id: tuple(range(k)) for k, image_id in enumerate(ids)}
        lines = format_class_list(labels)
        (tmp_path / "tags.txt").write_text(lines, encoding="utf-8")
        known = {str(k): k for k in range(5)}
        assert read_class_list(tmp_path / "tags.txt", "tags.path", known) == labels

    list_them()


def test_names_of_255_bytes_and_deep_folders(root, tmp_path):
    longest = ["x" * 251, "é" * 125 + "x"]
    deep = "/".join(f"folder {k}" for k in range(60)) + "/x"
    for name in (*longest, deep):
        write(root, f"{name}.jpg", PHOTOGRAPH)
    samples, rejected = found(root)
    assert samples.keys() == {*longest, deep} and not rejected


def test_a_folder_that_is_too_deep_is_named(root, tmp_path):
    write(root, "a.jpg", PHOTOGRAPH)
    here = os.open(root, os.O_RDONLY)
    for _ in range(20):  # longer in all than the 4,096 bytes of a path
        os.mkdir("d" * 250, dir_fd=here)
        below = os.open("d" * 250, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)
    samples, rejected = found(root)
    shutil.rmtree(root / ("d" * 250))
    assert samples.keys() == {"a"}
    [(name, reason)] = rejected.items()
    assert name.startswith("ddd") and name.endswith("/")
    assert reason == "cannot be opened: File name too long"


def test_composed_and_decomposed_accents_are_one_name(root, tmp_path):
    for name in ("\u00e9", "e\u0301"):
        write(root, f"{name}.jpg", PHOTOGRAPH)
    samples, rejected = found(root)
    assert samples == {"e\u0301": "e\u0301.jpg"}
    assert rejected == {
        "\u00e9": "has the same name as e\u0301.jpg, but for its ending or Unicode spelling:"
        " rename one of them"
    }


def test_links_do_not_loop_and_none_is_passed_over(root, tmp_path):
    write(root, "a/x.jpg", PHOTOGRAPH)
    (root / "loop").symlink_to(root)
    (root / "a" / "up").symlink_to("..")
    (root / "a" / "sideways").symlink_to(root / "a")
    (root / "self.jpg").symlink_to("self.jpg")
    (root / "dangling.png").symlink_to("nothing")
    write(tmp_path, "elsewhere/y.jpg", PHOTOGRAPH)
    (root / "album").symlink_to(tmp_path / "elsewhere")
    (root / "linked.jpg").symlink_to(tmp_path / "elsewhere" / "y.jpg")
    samples, rejected = found(root)
    # That a link is broken shows when it is read, as for any file that went away.
    assert samples.keys() == {"a/x", "linked", "self", "dangling"}
    assert rejected == {
        "album/": "is a link to a folder, which is not followed: give the folder itself"
    }


def test_two_images_of_one_name_are_one_and_a_reason(root, tmp_path):
    for name in ("a.jpg", "a.png", "a.webp", "b/a.jpg"):
        write(root, name, PHOTOGRAPH)
    samples, rejected = found(root)
    assert samples == {"a": "a.jpg", "b/a": "a.jpg"}
    assert rejected.keys() == {"a.png", "a.webp"}
    assert all("has the same name as a.jpg, but" in r for r in rejected.values())


def test_a_folder_may_be_named_like_an_image(root, tmp_path):
    write(root, "album.jpg/x.jpg", PHOTOGRAPH)
    (root / "empty.jpg").mkdir()
    samples, rejected = found(root)
    assert samples.keys() == {"album.jpg/x"}
    assert rejected == {
        "empty.jpg/": "is a folder without an image, though named like one: rename it"
    }


def test_a_folder_that_is_named_like_a_result_is_no_place_for_images(root, tmp_path):
    for name in ("x.jpg", "x.png/y.jpg", "x.npz/z/y.jpg", "y.png/x.jpg"):
        write(root, name, PHOTOGRAPH)
    samples, rejected = found(root)
    assert samples.keys() == {"x", "y.png/x"}
    assert rejected == {
        f"x.{ending}": f"is in {folder}, which is the name of a result: rename the folder"
        for ending, folder in (("png/y", "x.png"), ("npz/z/y", "x.npz"))
    }


def test_special_files_are_never_opened(root, tmp_path):
    write(root, "a.jpg", PHOTOGRAPH)
    os.mkfifo(root / "pipe.jpg")
    os.mkfifo(root / "a.png")
    (root / "zero.png").symlink_to("/dev/zero")
    samples, rejected = found(root)
    assert samples.keys() == {"a"}
    assert rejected.keys() == {"pipe", "a.png", "zero"}
    assert all("a pipe or a device: remove or rename it" in r for r in rejected.values())
    assert len(find_images(root)[0]) == 4
    (root / "a.jpg").unlink()
    with pytest.raises(UserError, match=r"no image that .* \(\S+ is not a file"):
        found(root)


@pytest.mark.parametrize("place", ["x" * 5000, "~nobody-of-this-name/x", "a\0b", "", "x.jpg/y"])
def test_a_root_that_none_can_be_is_answered(place, root, tmp_path):
    write(root, "x.jpg", PHOTOGRAPH)
    given_root = root / place if "~" not in place else place
    with pytest.raises(UserError, match="dataset.root") as error:
        found(given_root if place else root / "nothing")
    assert len(str(error.value)) < 300 and "\n" not in str(error.value)


def test_names_that_differ_in_case_on_a_disk_that_does_not(run_stage, arguments, tmp_path):
    """They would overwrite each other's results."""
    shutil.copy(tmp_path / "photographs/c.webp", tmp_path / "photographs/A.jpg")
    output = tmp_path / "out"
    output.mkdir()
    (output / "STORE.JSON").touch()  # as such a disk would show store.json
    refused = run_stage(*arguments, "stage=[tags,cams]")
    assert refused.code == 2 and refused.errors.count("\n") == 1
    assert "images A and a have one name on the disk" in refused.errors
    assert not list(output.rglob("*.npz"))
