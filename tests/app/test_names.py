"""Names as a person writes them, and what the command line of the app refuses."""

from __future__ import annotations

import socket
import subprocess
import sys
from types import SimpleNamespace

import pytest
from PIL import Image

from pipeline.app.names import Names, classes_of
from pipeline.datasets.scenes import load_world, render_scene
from pipeline.errors import UserError
from tests import REPOSITORY
from tests.extras import library


def test_a_line_is_a_class_and_commas_add_words():
    assert classes_of("cat\n\n sofa , couch,\ndisc,,x") == [
        "cat",
        {"name": "sofa", "names": ["sofa", "couch"]},
        {"name": "disc", "names": ["disc", "x"]},
    ]
    with pytest.raises(UserError, match="no names .*write at least one"):
        classes_of(" \n , \n")


def test_a_later_request_of_the_same_part_ends_the_first():
    names = Names("demo", {}, [], 0.3)
    first, other = names.begin("photograph a"), names.begin("photograph b")
    assert names.is_newest("photograph a", first)
    second = names.begin("photograph a")
    assert not names.is_newest("photograph a", first) and names.is_newest("photograph a", second)
    assert names.is_newest("photograph b", other)


def test_further_words_are_names_of_the_same_class():
    image = render_scene(load_world("demo"), "val", 1).image
    names = Names("demo", {}, [], 0.3)
    labelling = names.labeller("disc\nsquare, box", "grass")(image)
    assert labelling.classes == ("disc", "square") and labelling.names == ("square",)
    other = names.labeller("disc\nbox", "grass", "tags.min_score=0")(image)
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
def test_a_folder_of_damaged_photographs_is_a_sentence(tmp_path):
    library("gradio")
    from pipeline.app.folder import Folder

    (tmp_path / "a.png").write_bytes(b"nothing")
    folder = Folder(Names("demo", {}, [], 0.3), str(tmp_path), 5, None, tmp_path / "out")
    before, *_, (said, page, told) = folder.choose(
        "disc", "", 0.3, SimpleNamespace(session_hash="s")
    )
    assert before == [f"1 photographs of {tmp_path}", "", ""]
    assert said.startswith("no photograph can be read (cannot be decoded") and page == told == ""


@pytest.mark.extras
def test_photographs_are_tried_from_every_sub_folder(tmp_path):
    library("gradio")
    from pipeline.app.folder import Folder

    for place in (f"{folder}/{name}" for folder in "abcde" for name in range(30)):
        path = tmp_path / f"{place}.png"
        path.parent.mkdir(exist_ok=True)
        Image.new("RGB", (32, 32)).save(path)
    folder = Folder(Names("demo", {}, [], 0.3), str(tmp_path), 10, None, tmp_path / "out")
    said = [
        status for status, *_ in folder.choose("disc", "", 0.3, SimpleNamespace(session_hash="s"))
    ]
    about = f"10 of 150 photographs of {tmp_path}"
    assert said[:3] == [about, f"{about}: 1 done", f"{about}: 2 done"]
    assert said[-1] == "10 of 150 photographs"
    assert {image_id.partition("/")[0] for image_id in folder._photographs} == {*"abcde"}


def test_the_app_names_the_package_that_it_requires(run_tool, monkeypatch):
    monkeypatch.setattr("pipeline.commands.app.find_spec", lambda name: None)
    done = run_tool("app.py", "clip=demo")
    assert done.code == 2 and "the app requires gradio: run pip install" in done.errors
