"""What may be removed, what has to stay, and who is asked."""

from __future__ import annotations

import json
import os
import platform

import numpy as np
import pytest

from pipeline.engine.cleaning import (
    find_orphans,
    find_removable,
    find_temporary,
    find_unused_arrays,
    remove,
    remove_orphans,
)
from pipeline.engine.records import MANIFEST
from pipeline.engine.store import Store, folder_size
from pipeline.errors import UserError
from tests.results import open_writer, write


def complete(store: Store, stage: str, configuration: dict, split="val", need=None, run="1"):
    read = need and need.results
    facts = {"made_from": {read.name: [read.split, read.name, read.key]} if read else {}}
    with open_writer(store, split, stage, configuration, about=facts, run=run) as folder:
        write(folder, "a", {"photograph": "1"}, {"a.png": b"x" * 1000})
        folder.finish(["a"])
    return folder


@pytest.fixture
def store(tmp_path) -> Store:
    return Store(tmp_path / "out")


@pytest.fixture
def folders(store):
    """Two runs of everything, the second the latest; a run that was stopped."""
    found = {}
    for number in (1, 2):
        tags = {"votes": number}
        cams, masks = {"tags": tags}, {"cams": {"tags": tags}}
        network = {"name": "demo", "seed": number, "masks": masks, "data": "d"}
        predictions, last = {"test": 1, "segmenter": network}, None
        chain = {"tags": tags, "cams": cams, "masks": masks, "segmenter": network}
        for name, configuration in (chain | {"predictions": predictions}).items():
            split = "" if name == "segmenter" else "val"
            last = complete(store, name, configuration, split, last, str(number))
            found[name, number] = last
    with open_writer(store, "val", "tags", {"votes": 3}, about={"made_from": {}}) as stopped:
        stopped.begin(5)
        write(stopped, "a", {"photograph": "1"}, {})
    found["stopped", 3] = stopped
    return found


def test_what_the_latest_was_made_from_stays(store, folders):
    removable = dict(find_removable(store))
    names = {name for name, folder in folders.items() if folder.path in removable}
    assert {number for _, number in names} == {1, 3}
    assert len(names) == 6, "all of the first run, and the one that was stopped"
    unfinished = [path for path, manifest in removable.items() if not manifest.get("complete")]
    assert unfinished == [folders["stopped", 3].path]
    assert folder_size(folders["masks", 1].path) > 1000


def test_the_results_of_all_rounds_of_a_run_stay(store):
    """Rounds share a ``latest``, and nothing is made from the predictions of the first."""
    found = {}
    for run, rounds in (("1", 1), ("2", 2)):
        last, flip = None, run == "2"
        for number in range(1, rounds + 1):
            masks = complete(store, "masks", {"round": number}, need=last, run=run)
            last = complete(store, "segmenter", {"round": number}, "", need=masks, run=run)
            predictions = {"round": number, "flip": flip}
            made = complete(store, "predictions", predictions, need=last, run=run)
            found[run, number] = made.path
    assert [path for path, _ in find_removable(store)] == [found["1", 1]]
    # A later command for one stage points its latest to the first round again.
    complete(store, "masks", {"round": 1}, run="3")
    assert [path for path, _ in find_removable(store)] == [found["1", 1]]
    with open_writer(
        store, "val", "predictions", {"flip": 0}, run="2", about={"made_from": {}}
    ) as begun:
        begun.begin(5)
    assert begun.path in dict(find_removable(store)), "it is of no complete round"


def test_the_tool_asks_and_leaves_what_is_unfinished_or_in_use(store, folders, run_tool):
    refused = run_tool("clean.py", store.root)
    assert refused.code == 2
    assert refused.errors == (
        "error: there is no terminal to ask on: give --yes to remove these, or --dry-run\n"
    )
    shown = run_tool("clean.py", store.root, "--dry-run")
    assert shown.code == 0 and "5 folders" in shown.output
    assert "1 unfinished runs stay; --unfinished removes them too" in shown.output
    assert all(folder.path.is_dir() for folder in folders.values())

    half, used = (
        store.root / f".partial-{process}-{platform.node()}-0123abcd"
        for process in (2**22 + 1, os.getpid())  # one that there is not, and one that goes on
    )
    half.write_bytes(b"half")
    used.write_bytes(b"half")
    assert find_temporary(store) == [half]
    with folders["masks", 1]:
        busy = run_tool("clean.py", store.root, "--yes")
    assert busy.code == 0 and "not removed: " in busy.errors and "4 folders removed" in busy.output
    assert folders["masks", 1].path.is_dir() and used.exists() and not half.exists()
    assert "1 folders removed" in run_tool("clean.py", store.root, "--yes").output
    left = {name for name, folder in folders.items() if folder.path.is_dir()}
    assert {number for _, number in left} == {2, 3}
    assert "1 folders removed" in run_tool("clean.py", store.root, "--yes", "--unfinished").output
    assert not folders["stopped", 3].path.exists()
    assert "nothing to remove" in run_tool("clean.py", store.root, "--yes").output
    assert any(folders["masks", 2].results.candidates("a", {"photograph": "1"}))


def test_folders_that_do_not_say_what_they_were_made_from_stay(store, folders, run_tool):
    old = folders["tags", 1].path / MANIFEST
    content = json.loads(old.read_text())
    del content["made_from"]
    old.write_text(json.dumps(content))
    (folders["stopped", 3].path / MANIFEST).write_text("damaged")
    assert not {old.parent, folders["stopped", 3].path} & dict(find_removable(store)).keys()
    cleaned = run_tool("clean.py", store.root, "--yes", "--unfinished").output
    assert "2 folders stay" in cleaned and "4 folders removed" in cleaned
    assert old.is_file() and any(folders["stopped", 3].results.candidates("a", {"photograph": "1"}))


def test_a_folder_that_is_not_there_is_said(run_tool, tmp_path):
    finished = run_tool("clean.py", tmp_path / "no")
    assert finished.code == 2 and "is not a folder: give an output_dir" in finished.errors


def test_results_of_images_that_are_gone_are_offered(store, run_tool):
    with open_writer(store, "val", "masks", {"beta": 1}) as folder:
        for image_id in ("a", "b/c", "b/d", "e"):
            files = {f"{image_id}.png": b"x" * 1000, f".unfiltered/{image_id}.png": b"y"}
            write(folder, image_id, {"photograph": "1"}, files)
        folder.finish(["a"], known={"a", "e"})
    assert not find_removable(store)
    shown = run_tool("clean.py", store.root, "--dry-run")
    line = f"val/masks/{folder.results.key}: results of 2 images that were removed or left out"
    assert line in shown.output and "0 folders, 2.0 kB" in shown.output
    assert (folder.path / "b/c.png").is_file()
    with folder:
        assert "not removed: " in run_tool("clean.py", store.root, "--yes").errors
    cleaned = run_tool("clean.py", store.root, "--yes")
    assert "results of removed images: 2" in cleaned.output
    files = {p.relative_to(folder.path).as_posix() for p in folder.path.rglob("*.png")}
    assert files == {f"{below}{name}.png" for below in ("", ".unfiltered/") for name in "ae"}
    with open_writer(store, "val", "masks", {"beta": 1}) as again:
        assert again.results.entries.keys() == {"a", "e"} and any(
            again.results.candidates("a", {"photograph": "1"})
        )
    assert "nothing to remove" in run_tool("clean.py", store.root, "--yes").output


def test_text_embeddings_that_no_result_needs_are_offered(store, run_tool):
    for names in (["cat", 'a "mug"'], ["cat", "dög"]):
        cams = {"clip": {"weights": "w1"}, "tag_names": [[n] for n in names]}
        complete(store, "cams", cams, run=names[1])
    latest, older = names, ["cat", 'a "mug"']
    for digit, about in enumerate((["w1", *latest], ["w1", *older], ["w2", *latest], ["w1"])):
        store.array(f"{digit}" * 16, lambda: np.zeros(100), *about)
    text = store.root / "text"
    (text / f"{'3' * 16}.damaged").write_bytes(b"damaged")
    (text / f"{'4' * 16}.npz").write_bytes(b"damaged")
    (text / "theirs.npz").write_bytes(b"theirs")
    shown = run_tool("clean.py", store.root, "--dry-run").output
    assert "1 folders and 4 unfinished files or unused text embeddings, " in shown
    assert run_tool("clean.py", store.root, "--yes").code == 0
    left = {f"{'0' * 16}.npz", f"{'3' * 16}.npz", "theirs.npz"}
    assert {path.name for path in text.iterdir()} == left
    assert "nothing to remove" in run_tool("clean.py", store.root, "--yes").output
    assert store.array("0" * 16, lambda: pytest.fail("it is there")).shape == (100,)


def test_what_a_run_embedded_belongs_to_its_results(run_stage, arguments, tmp_path):
    """Whatever the method: names, names of several words a class, sentences, names of masks."""
    names, sentences = tmp_path / "names.txt", tmp_path / "sentences.json"
    names.write_text("background, sky\ncat, kitten\nperson\nrocket\ncup\n")
    classes = ["cat", "person", "rocket", "cup"]
    sentences.write_text(json.dumps({c: [f"{c} number {k}" for k in range(4)] for c in classes}))
    store, small = Store(tmp_path / "out"), [*arguments, "dataset.limit=2"]
    excel = ["cams=excel", f"cams.descriptors={sentences}", "cams.clusters=2"]
    dense = ["cams=sclip", "masks=dense", f"masks.names={names}", "masks.short_side=64"]
    for more in (["stage=[tags,cams]", *excel], ["stage=masks", *dense]):
        finished = run_stage(*small, *more)
        assert finished.code == 0, finished.errors
    text = {*(store.root / "text").iterdir()}
    assert len(text) == 4 and not find_unused_arrays(store, ())
    masks = [path for path, manifest in store.folders() if manifest["stage"] == "masks"]
    (unused,) = find_unused_arrays(store, masks)
    assert unused in text
    assert {*find_unused_arrays(store, [path for path, _ in store.folders()])} == text


def test_files_outside_the_folder_are_never_orphans(store, tmp_path):
    (tmp_path / "theirs.png").write_bytes(b"theirs")
    with open_writer(store, "val", "masks", {"beta": 1}) as folder:
        folder.adopt(
            {"id": "a", "inputs": {"photograph": "1"}, "files": {"../../../../theirs.png": "0"}}
        )
        folder.finish([], known=set())
    assert find_orphans(folder.path) == {"a": []}
    assert remove_orphans(folder.path) == 1 and (tmp_path / "theirs.png").is_file()


def test_what_a_run_used_in_the_meantime_stays(store, folders):
    """Between the list and the answer to it, a run may finish, or point to older results."""
    removable = dict(find_removable(store))
    tags, cams = folders["tags", 1], folders["cams", 1]
    for what, folder in (("latest", tags), ("an input of the latest", cams)):
        assert folder.path in removable, what
    folders["masks", 1].point_latest()  # as a cached run with the older settings does
    for folder in (folders["masks", 1], tags, cams):
        with pytest.raises(UserError, match="was used by a run in the meantime"):
            remove(store, folder.path, removable[folder.path])
        assert folder.path.is_dir()
    stopped = folders["stopped", 3]
    with stopped:
        stopped.finish(["a"])
    with pytest.raises(UserError, match="was used by a run in the meantime"):
        remove(store, stopped.path, removable[stopped.path])
    folders["masks", 2].point_latest()
    network = folders["segmenter", 1].path
    remove(store, network, removable[network])
    assert not network.exists()
