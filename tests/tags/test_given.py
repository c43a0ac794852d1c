"""Tags that are given, and what a run says of tags from which nothing can be learned."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest

from pipeline.tags.remarks import remarks_on_tags
from tests.small_runs import replaced


@pytest.fixture
def run_on_tags(run_stage, arguments, photographs, tmp_path):
    """Runs stages on the photographs, whose lines of tags are given."""

    def run(*tags: str, stage: str = "tags"):
        paths = (path.relative_to(photographs) for path in photographs.rglob("*.*"))
        ids = sorted({str(path.with_suffix("")).replace(" ", "%20") for path in paths})
        lines = [f"{i} {tags[k % len(tags)]}".strip() + "\n" for k, i in enumerate(ids)]
        (tmp_path / "tags.txt").write_text("".join(lines))
        given = "tags=file", f"tags.path={tmp_path / 'tags.txt'}"
        return run_stage(*replaced(arguments, *given), f"stage={stage}")

    return run


@pytest.mark.parametrize(
    ("tags", "note"),
    [
        (("",), "no image of split all has a tag: lower tags.min_score"),
        (("0 2",), "all 5 images of split all have the same tags (cat, rocket): before a network"),
        (("0", "2"), ""),
        (("0", ""), ""),
    ],
)
def test_tags_from_which_nothing_is_learned_are_named(tags, note, run_on_tags):
    for _ in range(2):  # the second time from the cache
        finished = run_on_tags(*tags)
        assert finished.code == 0, finished.errors
        assert f"note: {note}" in finished.errors if note else "note" not in finished.errors


@pytest.mark.parametrize(
    ("tags", "names"),
    [([[0]], None), ([[]], ""), ([[2], [2]], "rocket"), ([[0, 2]] * 3, "cat, rocket"), ([], None)],
)
def test_one_image_with_a_tag_is_no_reason_for_a_remark(tags, names):
    entries = {
        str(k): {"tags": of_image, "inputs": {"photograph": str(k)}}
        for k, of_image in enumerate(tags)
    }
    folder = SimpleNamespace(entries=entries, split="val", statistics={})
    names_of_classes = ["cat", "dog", "rocket"]
    said = "; ".join(remarks_on_tags(folder, [*entries, "without an entry"], names_of_classes))
    if names is None:
        assert said == ""
    elif names:
        assert f"all {len(tags)} images of split val have the same tags ({names}):" in said
    else:
        assert said.startswith("no image of split val has a tag:")


def test_rejected_files_count_alike_on_the_terminal_and_in_the_manifest(
    run_on_tags, photographs, tmp_path
):
    first = min(photographs.rglob("*.*"))
    first.with_suffix(".png").write_bytes(first.read_bytes())  # two files of one id
    finished = run_on_tags("0", "1")
    (path,) = (tmp_path / "out" / "all" / "tags").glob("*[0-9a-f]/manifest.json")
    manifest = json.loads(path.read_text())
    line = next(line for line in finished.output.splitlines() if line.startswith("tags"))
    assert f" {manifest['images']} images" in line
    assert f" {manifest['left_out']} left out" in line
    assert manifest["last"]["images"] == manifest["images"]
