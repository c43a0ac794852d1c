"""Tags that follow from scores in a file: tables, and the JSON of other programs."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable

import numpy as np
import pytest

from pipeline.datasets.annotations import open_annotations
from pipeline.datasets.mask_images import Reading
from pipeline.datasets.score_tables import read_table
from pipeline.errors import UserError
from pipeline.tags.options import TagListOptions
from tests.small_runs import Finished, latest, replaced

CLASSES = ["cat", "person", "rocket", "cup"]
IDS = ["a", "b", "c", "d", "holiday 2026/e f"]
SCORES = {
    "a": {"cat": 0.9, "cup": 0.4},
    "b": {"person": 0.51},
    "c": {},
    "d": {"cat": 1.0, "person": 0.7, "rocket": 0.6, "cup": 0.55},
    "holiday 2026/e f": {"rocket": 0.5},
}
TAGS = {"a": ["cat"], "b": ["person"], "c": [], "d": CLASSES, "holiday 2026/e f": []}


def pairs(scores: dict[str, dict[str, float]], suffix: str = "") -> str:
    lines = ["id,class,score"]
    for image_id, found in scores.items():
        lines += [
            f"{image_id}{suffix},{name},{score}" for name, score in (found or {"": ""}).items()
        ]
    return "\n".join(lines) + "\n"


def columns(scores: dict[str, dict[str, float]], suffix: str = "") -> str:
    rows = ([f"{i}{suffix}", *(f.get(name, "") for name in CLASSES)] for i, f in scores.items())
    return "\n".join(",".join(map(str, row)) for row in [["id", *CLASSES], *rows])


def coco(scores: dict[str, dict[str, float]]) -> str:
    return json.dumps(
        {
            "images": [{"id": n, "file_name": f"{i}.jpg"} for n, i in enumerate(scores)],
            "categories": [{"id": k, "name": name} for k, name in enumerate(CLASSES)],
            "annotations": [
                {
                    "image_id": n,
                    "category_id": CLASSES.index(name),
                    "score": each,
                    "segmentation": [[0, 0, 9, 0, 9, 9]],
                }
                for n, found in enumerate(scores.values())
                for name, score in found.items()
                for each in (score / 2, score)  # the best instance counts
            ],
        }
    )


def label_studio(scores: dict[str, dict[str, float]]) -> str:
    return json.dumps(
        [
            {
                "data": {"image": f"/data/local-files/?d=mine/{image_id}.jpg"},
                "annotations": [
                    {
                        "result": [
                            {"type": "choices", "value": {"choices": [name]}, "score": score}
                            for name, score in found.items()
                        ]
                    }
                ],
            }
            for image_id, found in scores.items()
        ]
    )


@pytest.fixture
def run(run_stage, arguments, tmp_path) -> Callable[..., Finished]:
    """Runs the tags of a file with a content, or of a path: run("x.csv", "id,class…", "K=V")."""

    def run(name: str, content: str = "", *more: str, stage: str = "tags", code: int = 0):
        if content:
            (tmp_path / name).write_text(content)
        given = f"tags.path={tmp_path / name}", "tags=file", *more
        finished = run_stage(*replaced(arguments, *given), f"stage={stage}")
        assert finished.code == code, finished.errors
        assert "Traceback" not in finished.errors
        return finished

    return run


@pytest.fixture
def tags(tmp_path) -> Callable[[], dict[str, list[str]]]:
    """Returns the tags of the last run by their names."""

    def tags() -> dict[str, list[str]]:
        with (latest(tmp_path / "out", "tags") / "tags.csv").open(newline="") as file:
            rows = {row["id"]: row["classes"] for row in csv.DictReader(file)}
        return {image_id: names.split(";") if names else [] for image_id, names in rows.items()}

    return tags


def counts(finished: Finished) -> tuple[int, int, int]:
    """Returns how many images were computed, found, and reused from other settings."""
    line = next(line for line in finished.output.splitlines() if line.startswith("tags"))
    found = [re.search(rf"(\d+) {word}", line) for word in ("computed", "from the", "reused")]
    return tuple(int(each[1]) if each else 0 for each in found)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("x.csv", pairs(SCORES)),
        ("x.csv", "\ufeff" + pairs(SCORES, ".jpg").replace("\n", "\r\n")),
        ("x.CSV", columns(SCORES)),
        ("x.csv", columns(SCORES, ".png") + "\n,,,,\n"),
        ("x.json", coco(SCORES)),
        ("x.json", label_studio(SCORES)),
    ],
    ids=["pairs", "pairs of files", "columns", "columns of files", "COCO", "Label Studio"],
)
def test_every_form_gives_the_same_scores_and_tags(name, content, run, tags, tmp_path):
    assert "note" not in run(name, content).errors
    assert tags() == TAGS, "above 0.5, the lowest of an image's scores as well"
    with np.load(latest(tmp_path / "out", "tags") / "scores.npz") as stored:
        expected = [[SCORES[i].get(name, 0) for name in CLASSES] for i in IDS]
        np.testing.assert_array_equal(stored["scores"], np.float32(expected))


@pytest.mark.parametrize(
    ("file", "first", "second"),
    [("x.jpg", "x", "x.png"), ("x.jpg", "x.jpg", "x.png.jpg"), ("x.png", "x.png", "x.png.jpg")],
)
def test_a_name_in_a_table_is_that_of_a_file_before_a_suffix_is_cut(
    file, first, second, run, tags, photographs
):
    (photographs / "a.jpg").rename(photographs / "x.png.jpg")
    (photographs / "b.png").rename(photographs / file)
    others = {image_id: SCORES[image_id] for image_id in IDS[2:]}
    run("x.csv", pairs({first: {"cat": 0.9}, second: {"cup": 0.9}, **others}))
    assert {i: tags()[i] for i in ("x", "x.png")} == {"x": ["cat"], "x.png": ["cup"]}


def test_boxes_without_shapes_name_classes(run, tags):
    boxes = coco(SCORES).replace('"segmentation": [[0, 0, 9, 0, 9, 9]]', '"bbox": [0, 0, 9, 9]')
    assert "note" not in run("x.json", boxes).errors
    assert tags() == TAGS


def test_a_folder_of_labelmes_files_names_classes(run, tags, tmp_path):
    for image_id in IDS:
        shapes = [
            {"label": name, "points": [[0, 0], [9, 9]], "shape_type": "rectangle"}
            for name in SCORES[image_id]
        ]
        path = tmp_path / "labels" / f"{image_id}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"shapes": shapes, "imageHeight": 90, "imageWidth": 70}))
    run("labels")
    assert tags() == {image_id: [*found] for image_id, found in SCORES.items()}


def test_thresholds_cost_no_computation_and_a_changed_line_costs_one_image(run, tags, tmp_path):
    assert counts(run("x.csv", pairs(SCORES))) == (5, 0, 0)
    first = latest(tmp_path / "out", "tags").resolve()
    assert counts(run("x.csv", "", "tags.min_score=0.6")) == (0, 0, 5)
    assert tags()["d"] == ["cat", "person"] and latest(tmp_path / "out", "tags").resolve() != first
    assert counts(run("x.csv", "", "tags.min_score=0", "tags.alpha=0.5")) == (0, 0, 5)
    assert tags() == {**TAGS, "d": CLASSES, "holiday 2026/e f": ["rocket"]}
    assert counts(run("x.csv", "", "tags.min_score=0.5", "tags.alpha=0")) == (0, 5, 0)
    assert latest(tmp_path / "out", "tags").resolve() == first, "these are the defaults"
    changed = {**SCORES, "b": {"person": 0.52}}
    assert counts(run("x.csv", pairs(changed))) == (1, 4, 0)
    assert counts(run("x.csv", pairs(dict(reversed(changed.items()))))) == (0, 5, 0)
    (tmp_path / "x.csv").rename(tmp_path / "y.csv")
    assert counts(run("y.csv")) == (5, 0, 0), "another name is another source"


def test_names_are_joined_and_others_are_counted(run, tags):
    content = pairs({**SCORES, "a": {"tabby": 0.7, "cat": 0.2, "tree": 0.9}, "c": {"tree": 0.8}})
    errors = run("x.csv", content, "tags.join={cat: [tabby]}").errors
    assert errors.count("note: x.csv has 2 scores of names that are not classes: tree (2)") == 1
    assert tags()["a"] == ["cat"] and tags()["c"] == []
    errors = run("x.csv", content, "tags.join={cat: [tree], cup: [tree]}", code=2).errors
    assert "tags.join counts tree as two classes" in errors


def test_an_image_with_a_line_that_cannot_be_used_is_left_out(run, tags):
    lines = "id,class,score\na,cat,1\na,cup\nb,cat,1.5\n"
    rest = "c,,\nd,rocket,.9\nholiday 2026/e f,cup,0.9\n"
    finished = run("x.csv", lines + rest)
    assert finished.errors.count("\n") == 1
    assert "left out: b: its scores cannot be used: " in finished.errors
    assert "x.csv has, in line 4, a score of 1.5, where 0 to 1 is expected" in finished.errors
    assert tags() == {"a": ["cat", "cup"], "c": [], "d": ["rocket"], "holiday 2026/e f": ["cup"]}, (
        "the others go on"
    )


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        ("b,cat,nan", "has, in line 4, a score of nan, where 0 to 1 is expected"),
        ("b,cat,-inf", "has, in line 4, a score of -inf, where 0 to 1 is expected"),
        ("b,cat,high", "has, in line 4, a score of high, where 0 to 1 is expected"),
        ("b,cat,50%", "has, in line 4, a score of 50%, where 0 to 1 is expected"),
        ("b,cat,0,5", "has, in line 4, 4 cells for 3 columns"),
        ("b", "has, in line 4, 1 cells for 3 columns"),
        ("b,cat,0.5\nb.png,cat,0.6", "has two entries of it"),
    ],
)
def test_a_line_that_cannot_be_used_is_told_of_its_image_alone(lines, reason, tmp_path):
    (tmp_path / "x.csv").write_text(f"id,class,score\na,cat,1\na,cup\n{lines}\nc,,\n")
    table = read_table(tmp_path / "x.csv", "tags.path")
    assert {i: row.problem for i, row in table.rows.items() if row.problem} == {"b": reason}


def test_two_lines_of_an_image_are_one_too_many_where_classes_are_columns(run, tags):
    finished = run("x.csv", columns(SCORES) + "\nb,1,0,0,0\n")
    assert "left out: b: " in finished.errors and "in line 7, a second entry" in finished.errors
    assert tags().keys() == TAGS.keys() - {"b"}


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("image,class,score\na,cat,1\n", "begins with image: its header must be id,cla"),
        ("a 0 3\n", "begins with a 0 3: its header must be"),
        ("\n", "begins with : its header must be"),
        ("id;class;score\na;cat;1\n", "begins with id;class;score: its header must be"),
        ("id,classes\r\na,cat\r\n", "is a table of corrected tags: give it as tags.corrections"),
        ("id,split,classes\na,all,cat\n", "corrected tags: give it as tags.corrections"),
        ('id,class,score\n"a,cat,1\n', "line 2 is not CSV"),
    ],
)
def test_what_is_no_table_of_scores_is_refused(content, sentence, tmp_path):
    path = tmp_path / "x.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError) as refused:
        read_table(path, "tags.path")
    assert sentence in str(refused.value) and "x.csv" in str(refused.value)
    assert len(str(refused.value)) < 500 and str(refused.value).isprintable()


def test_lines_without_an_image_are_a_note(tmp_path):
    (tmp_path / "x.csv").write_text("id,cat\na,1\n,0.5\n,\n")
    table = read_table(tmp_path / "x.csv", "tags.path")
    assert table.rows.keys() == {"a"}
    assert table.remarks == {"lines without an image": (1, "line 3")}


def test_a_refused_table_ends_the_run_with_one_sentence(run):
    errors = run("x.csv", "id,classes\na,cat\n", code=2).errors
    assert errors.count("\n") == 1 and "give it as tags.corrections" in errors
    assert "is not UTF-8" not in errors


def test_corrections_come_last_and_hold_for_images_without_an_entry(run, tags, tmp_path):
    (tmp_path / "mine.csv").write_text("id,classes\r\na,rocket\r\nc,cat;cup\r\n")
    given = {image_id: found for image_id, found in SCORES.items() if image_id != "c"}
    run("x.csv", pairs(given), f"tags.corrections={tmp_path / 'mine.csv'}")
    assert tags() == {**TAGS, "a": ["rocket"], "c": ["cat", "cup"]}
    entries = (latest(tmp_path / "out", "tags") / "entries.jsonl").read_text().splitlines()
    found = {e["id"]: e.get("found") for e in map(json.loads, entries)}
    assert found == {**dict.fromkeys(IDS), "a": [0], "c": []}


def test_figures_rank_scores_and_calibrate_their_threshold(run, tmp_path):
    (tmp_path / "truth.txt").write_text("a 0 3\nb 1\nc\nd 0 1\nholiday%202026/e%20f 2\n")
    truth = f"dataset.labels={tmp_path / 'truth.txt'}"
    run("x.csv", pairs(SCORES), truth, stage="[tags,evaluate,report]")
    figures = json.loads((tmp_path / "out" / "metrics.json").read_text())["latest"]["tags"]["all"]
    # Of rocket and cup, the second of two images is right; of the others both are.
    assert figures["map"] == pytest.approx((1 + 1 + 0.5 + 0.5) / 4)
    assert figures["calibration"]["per_class"]["cup"]["best_f1"] == pytest.approx(2 / 3)
    tables = (tmp_path / "out" / "tables.md").read_text()
    assert "Calibration of the scores, all" in tables and "exceeds tags.min_score" in tables
    page = (tmp_path / "out" / "report.html").read_text()
    doubts = [float(doubt) for doubt in re.findall('data-doubt="([^"]*)"', page)]
    assert doubts[1] == pytest.approx(0.98**0.5), "0.51 is near 0.5, and not far below 1"
    assert doubts[2] == 0 and doubts[4] == 1

    decisions = {image_id: dict.fromkeys(found, 1) for image_id, found in SCORES.items()}
    run("x.csv", pairs(decisions), truth, stage="[tags,evaluate]")
    figures = json.loads((tmp_path / "out" / "metrics.json").read_text())["latest"]["tags"]["all"]
    assert figures["map"] is None and "calibration" not in figures, "decisions rank nothing"


def test_several_splits_have_files_of_their_own(tmp_path):
    reading = Reading.of(TagListOptions(path="x"), "tags", CLASSES)

    def opened(split: str, several: bool = True):
        given = str(tmp_path), "tags.path", reading, split, several
        return open_annotations(*given, holds_tags=True)

    (tmp_path / "train.csv").write_text(pairs(SCORES))
    (tmp_path / "val.json").write_text(coco({"v": {"cup": 0.7}}))
    assert opened("train").find("a").scores == {0: 0.9, 3: 0.4}
    assert opened("val").find("v").scores == {3: 0.7}
    with pytest.raises(UserError, match="neither test/ nor test.json nor"):
        opened("test")
    with pytest.raises(UserError, match="neither train/ nor train.json"):
        open_annotations(str(tmp_path), "masks.path", reading, "train", True)
    with pytest.raises(UserError, match="give a list, a table with scores"):
        open_annotations(str(tmp_path / "x"), "tags.path", reading, holds_tags=True)


def test_a_list_keeps_its_key_and_says_what_it_ignores(run, tmp_path):
    lines = "".join(f"{i.replace(' ', '%20')} {k % 4}\n" for k, i in enumerate(IDS))
    assert "note" not in run("x.txt", lines).errors
    first = latest(tmp_path / "out", "tags").resolve()
    more = ("tags.alpha=0.5", "tags.min_score=0.9", "tags.join={cat: [tabby]}")
    finished = run("x.txt", "", *more)
    assert counts(finished) == (0, 5, 0) and latest(tmp_path / "out", "tags").resolve() == first
    for name in ("alpha", "min_score", "join"):
        assert f"note: tags.{name} has no effect on a list" in finished.errors
    settings = json.loads((first / "manifest.json").read_text())["configuration"]
    assert settings.keys() == {
        "algorithm",
        "method",
        "code",
        "method_algorithm",
        "path",
        "classes",
    }
    assert settings["path"] == f"{tmp_path.name}/x.txt"
