"""``stage=status``: what tells the configurations of a stage apart."""

from __future__ import annotations

import json
import os
import time

import pytest

from pipeline.commands.status import status_table
from pipeline.engine.store import Store
from tests.results import open_writer
from tests.results import write as write_result


def what(store: Store, column: str = "what") -> dict[str, str]:
    """Returns key → a column."""
    columns = {c.header: [*c.cells] for c in status_table(store.root, store.folders()).columns}
    return dict(zip(columns["key"], columns[column]))


def write(store: Store, stage: str, settings: dict) -> str:
    with open_writer(store, "val", stage, settings) as folder:
        folder.finish([])
    return folder.results.key


def test_configurations_are_told_apart_by_the_settings_that_differ(tmp_path):
    store, names = Store(tmp_path), [f"class {k}" for k in range(9)]
    tags = {"method": "tagclip", "alpha": 0.5, "votes": 4, "classes": names}
    first = write(store, "tags", tags)
    assert what(store) == {first: "tagclip"}, "nothing to tell apart"
    second = write(store, "tags", {**tags, "alpha": 0.3})
    third = write(store, "tags", {"method": "clip", "alpha": 0.5, "classes": names})
    cams = [
        write(store, "cams", {"method": "clip_es", "tags": {**tags, "alpha": alpha}})
        for alpha in (0.5, 0.3)
    ]
    assert what(store) == {
        first: "tagclip, alpha=0.5",
        second: "tagclip, alpha=0.3",
        third: "clip, alpha=0.5",
        cams[0]: "clip_es, tagclip, alpha=0.5",
        cams[1]: "clip_es, tagclip, alpha=0.3",
    }


def test_settings_of_the_same_name_keep_what_tells_them_apart(tmp_path):
    store = Store(tmp_path)
    keys = [
        write(store, "masks", {"algorithm": outer, "cams": {"algorithm": inner}})
        for outer, inner in ((1, 1), (1, 2), (2, 1))
    ]
    assert what(store)[keys[1]] == "algorithm=1, cams.algorithm=2"


@pytest.mark.parametrize(
    ("aside", "changes", "seconds"),
    [(False, {}, "200"), (True, {}, "0"), (False, {"began": "yesterday"}, "0")],
)
def test_the_seconds_of_stopped_turns_count(aside, changes, seconds, tmp_path):
    for image_id in "ab":
        with open_writer(tmp_path, "val", "tags", {}) as writer:
            writer.begin(3, aside)
            write_result(writer, image_id, {"photograph": "1"})
        now, path = time.time(), writer.path / "manifest.json"
        os.utime(path.with_name("entries.jsonl"), (now + 100, now + 100))
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    with open_writer(tmp_path, "val", "tags", {}) as writer:
        writer.finish(["a", "b"])
    assert what(Store(tmp_path), "seconds") == {writer.results.key: seconds}
