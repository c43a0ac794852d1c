"""The made-up file of annotations, and that its index takes its place."""

from __future__ import annotations

import json

from pipeline.datasets import annotation_index
from tools.benchmark.annotations import measure, write_file


def test_the_second_reading_is_that_of_the_index(tmp_path, monkeypatch):
    monkeypatch.setattr(annotation_index, "_LARGE", 100)
    path, cache = tmp_path / "annotations.json", tmp_path / "index"
    write_file(path, images=30, instances=50)
    content = json.loads(path.read_text())
    assert (len(content["images"]), len(content["annotations"])) == (30, 50)
    first = measure(path, cache)
    assert first[0] == 30 and len([*cache.iterdir()]) == 1
    monkeypatch.setattr(annotation_index, "stream_json", None)
    assert measure(path, cache)[0] == 30
