"""``stage=status``: what tells the configurations of a stage apart."""

from __future__ import annotations

from pipeline.commands.status import status_table
from pipeline.engine.store import Store
from tests.results import open_writer


def what(store: Store) -> dict[str, str]:
    """Returns key → the column "what"."""
    columns = {c.header: [*c.cells] for c in status_table(store.root, store.folders()).columns}
    return dict(zip(columns["key"], columns["what"]))


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
