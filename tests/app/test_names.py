"""Names as a person writes them, and what the command line of the app refuses."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image

from pipeline.app.labellers import Labellers, classes_of
from pipeline.datasets.scenes import load_world, render_scene
from pipeline.errors import UserError
from pipeline.stages.config import compose
from tests import REPOSITORY
from tests.extras import library

REQUEST = SimpleNamespace(session_hash="s")


@pytest.fixture
def open_folder(tmp_path):
    """Returns a function that makes the part of the page with photographs of a folder."""
    library("gradio")
    from pipeline.app.folder import Folder

    labellers = Labellers("demo", {}, [], 0.3)
    return lambda root, limit=5: Folder(labellers, str(root), limit, tmp_path / "out")


def test_a_line_is_a_class_and_commas_add_words():
    assert classes_of("cat\n\n sofa , couch,\ndisc,,x") == [
        "cat",
        {"name": "sofa", "names": ["sofa", "couch"]},
        {"name": "disc", "names": ["disc", "x"]},
    ]
    with pytest.raises(UserError, match="no names .*write at least one"):
        classes_of(" \n , \n")


def test_a_later_request_of_the_same_part_ends_the_first():
    labellers = Labellers("demo", {}, [], 0.3)
    first, other = labellers.begin("photograph a"), labellers.begin("photograph b")
    assert labellers.is_newest("photograph a", first)
    second = labellers.begin("photograph a")
    assert not labellers.is_newest("photograph a", first) and labellers.is_newest(
        "photograph a", second
    )
    assert labellers.is_newest("photograph b", other)


def test_further_words_are_names_of_the_same_class():
    image = render_scene(load_world("demo"), "val", 1).image
    labellers = Labellers("demo", {}, [], 0.3)
    labelling = labellers.labeller("disc\nsquare, box", "grass")(image)
    assert labelling.classes == ("disc", "square") and labelling.names == ("square",)
    other = labellers.labeller("disc\nbox", "grass", "tags.min_score=0")(image)
    assert other.scores[1] != labelling.scores[1]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["nowhere"], "nowhere is not a folder: give photographs, or outputs of a run"),
        (["tests", "docs"], "docs is one folder too many: give one"),
        (["tags.alfa=0.4"], "tags.alfa"),
        (["classes=nowhere.txt"], "nowhere.txt"),
        (["dataset.classes=nowhere.txt"], "nowhere.txt is not a file"),
        (["--limit", "0"], "--limit 0 leaves no photograph"),
        (["--port", "99999"], "--port 99999 cannot be used"),
        (["--port", "TAKEN"], "cannot be used (Address already in use): give another, or none"),
        (["tests/app"], "tests/app contains no photographs: give another folder"),
        (["dataset.root=tests"], "dataset.root=tests changes nothing on this page: leave it out"),
        (["stage=all"], "stage=all changes nothing on this page"),
        (["tests/app", "++dataset.root=x"], "dataset.root=x changes nothing on this page"),
        (["stagee=all"], "did you mean stage?"),
        (["clases=[a]"], "there is no setting clases: did you mean classes?"),
        (["tests/app", "dataset.classes=[a]"], "tests/app contains no photographs"),
    ],
)
@pytest.mark.extras
def test_what_cannot_be_opened_is_a_sentence(words, sentence):
    library("gradio")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        words = [port if word == "TAKEN" else word for word in words]
        done = subprocess.run(
            [sys.executable, "tools/app.py", "clip=demo", "--no-browser", *words],
            cwd=REPOSITORY,
            capture_output=True,
            text=True,
            timeout=300,
        )
    assert done.returncode == 2 and sentence in done.stderr, done.stderr


@pytest.mark.extras
def test_a_folder_of_damaged_photographs_is_a_sentence(open_folder, tmp_path):
    (tmp_path / "a.png").write_bytes(b"nothing")
    shown = open_folder(tmp_path).choose("disc", "", 0.3, None, "Masks", REQUEST)
    before, *_, (said, page, told) = shown
    assert before == [f"1 photograph of {tmp_path}", "", ""]
    assert said.startswith("no photograph can be read (cannot be decoded") and page == told == ""


@pytest.mark.extras
def test_photographs_are_tried_from_every_sub_folder(open_folder, tmp_path):
    for place in (f"{folder}/{name}" for folder in "abcde" for name in range(30)):
        path = tmp_path / f"{place}.png"
        path.parent.mkdir(exist_ok=True)
        Image.new("RGB", (32, 32)).save(path)
    folder = open_folder(tmp_path, 10)
    for limit in (None, 10.0, 12):
        about = f"{limit or 10:.0f} of 150 photographs of {tmp_path}"
        seen = {*folder._photographs}
        said, pages, told = zip(*folder.choose("disc", "", 0.3, limit, "Masks", REQUEST))
        assert said[0] == said[-1] == about and "disc: " in pages[-1]
        assert re.fullmatch(rf"{re.escape(about)}: 2 done, about \d+ s left", said[3])
        assert "'stage=[tags,cams,masks,report]'" in told[1]
        assert {image_id.partition("/")[0] for image_id in folder._photographs} == {*"abcde"}
        assert seen <= {*folder._photographs}, "a larger number adds to those that were seen"
    assert len(folder._photographs) == 12


@pytest.mark.extras
@pytest.mark.parametrize("folder", ["my, photos", "[x]", "null", '"q"', "end ", "b\\n"])
def test_a_run_has_the_names_and_the_folder_of_the_page(folder, open_folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path(folder).mkdir()
    Image.new("RGB", (32, 32)).save(f"{folder}/a.png")
    names = ["back\\slash", "[red]", "b's", 'say "x"']
    words = open_folder(folder)._settings("\n".join(names), "", 0.3, "Masks")
    dataset = compose(words).dataset
    assert (dataset.root, [*dataset.classes]) == (folder, names)


@pytest.mark.extras
def test_a_run_ends_the_look_at_photographs_before_it_begins(scenes, open_folder):
    folder, began = open_folder(scenes, 9), []
    names = "disc", "", 0.3
    looking = folder.choose(*names, None, "Masks", REQUEST)
    assert [next(looking)[0] for _ in range(3)][-1].endswith("left")
    folder.finished = SimpleNamespace(start=lambda words, _: began.append((words, [*looking])))
    assert folder.run("", "", 0.3, "Masks", REQUEST).startswith("no names are given")
    assert not began
    assert "has ended" in folder.run(*names, "Masks", REQUEST)
    [(words, rest)] = began
    assert words[-1] == "stage=[tags,cams,masks,report]" and "stage" not in str(
        folder._settings(*names, "Masks and a network")
    )
    assert all(each["__type__"] == "update" for shown in rest for each in shown), (
        "no more photograph"
    )
    # Nor does the photograph that is being scored replace what the run says.
    reading = folder._read
    folder._read = lambda image_id: folder._labellers.begin("folder s") and reading(image_id)
    _, _, *rest = folder.choose(*names, None, "Masks", REQUEST)
    assert rest and all(each["__type__"] == "update" for shown in rest for each in shown)


def test_the_app_names_the_package_that_it_requires(run_tool, monkeypatch):
    monkeypatch.setattr("pipeline.commands.app.find_spec", lambda name: None)
    done = run_tool("app.py", "clip=demo")
    assert done.code == 2 and "the app requires gradio: run pip install" in done.errors
