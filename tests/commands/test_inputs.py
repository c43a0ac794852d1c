"""The images that are named on a command line."""

from pathlib import Path

import pytest

from pipeline.commands.inputs import find_inputs
from pipeline.errors import UserError


def place(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def ids(inputs) -> list[str]:
    return [sample.id for sample in inputs.samples]


def test_folders_keep_their_paths_and_files_their_names(tmp_path):
    place(tmp_path, "in/b.JPG", "in/x/y/c.webp", "in/notes.txt", "in/.hidden.png", "other/d.bmp")
    inputs = find_inputs([tmp_path / "in", tmp_path / "other/d.bmp"], tmp_path / "out")
    assert ids(inputs) == ["b", "x/y/c", "d"]
    assert inputs.problems == []
    assert inputs.remarks == ["files that are not images were left out: 1 .txt"]


def test_results_of_one_name_are_numbered(tmp_path):
    place(tmp_path, "one/a.jpg", "one/a.png", "two/a.jpg", "two/A.jpg", "one/a_2.jpg")
    given = [tmp_path / name for name in ("one", "two/a.jpg", "two/A.jpg")]
    inputs = find_inputs(given, tmp_path / "out")
    files = {s.id: s.image.relative_to(tmp_path).as_posix() for s in inputs.samples}
    assert files["a"] == "one/a.jpg" and files["a_2"] == "one/a.png"
    assert files["a_2_2"] == "one/a_2.jpg"
    assert files["a_3"] == "two/a.jpg" and files["A_4"] == "two/A.jpg"
    assert len({image_id.casefold() for image_id in files}) == 5
    assert len(inputs.remarks) == 4 and "one/a.png are named a_2" in inputs.remarks[0]


def test_a_file_that_is_named_twice_is_one_image(tmp_path, monkeypatch):
    place(tmp_path, "in/a.jpg")
    monkeypatch.chdir(tmp_path)
    given = [Path("in/a.jpg"), tmp_path / "in", Path("in/../in/a.jpg")]
    inputs = find_inputs(given, Path("out"))
    assert ids(inputs) == ["a"] and inputs.remarks == []


def test_what_is_no_image_is_said(tmp_path):
    place(tmp_path, "empty/notes.txt")
    inputs = find_inputs([tmp_path / "nowhere.jpg", tmp_path / "empty"], tmp_path / "out")
    assert inputs.samples == []
    assert inputs.problems[0].endswith("nowhere.jpg does not exist")
    assert "empty contains no image (.jpeg, .jpg, .png, .webp, .bmp, " in inputs.problems[1]


@pytest.mark.parametrize("output", ["in", "in/x", "in/x/.."])
def test_results_do_not_lie_among_the_images(tmp_path, output):
    place(tmp_path, "in/a.png", "in/x/b.jpg")
    with pytest.raises(UserError, match="images in .*: give another --output"):
        find_inputs([tmp_path / "in/a.png", tmp_path / "in/x/b.jpg"], tmp_path / output)


def test_a_link_to_an_image_is_refused_beside_it_too(tmp_path):
    place(tmp_path, "store/x.jpg")
    (tmp_path / "links").mkdir()
    (tmp_path / "links/a.jpg").symlink_to(tmp_path / "store/x.jpg")
    assert ids(find_inputs([tmp_path / "links"], tmp_path / "out")) == ["a"]
    with pytest.raises(UserError, match="among the images"):
        find_inputs([tmp_path / "links"], tmp_path / "links")
