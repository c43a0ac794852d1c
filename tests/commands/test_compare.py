"""``tools/compare.py``: two runs on the same images, and what cannot be compared."""

from __future__ import annotations

import json
import re
import shutil

import numpy as np
import pytest
from PIL import Image

from pipeline.datasets.ground_truth import MaskFile
from pipeline.engine.sample import Sample
from pipeline.exchange.artefacts import Artefact
from pipeline.exchange.paired import Pair
from pipeline.files.images import encode_png
from tests.report.html_page import Page
from tests.report.measured import rows_of
from tests.report.small_run import HOSTILE_CLASSES
from tests.report.two_runs import build_two, change_entries, record_files


@pytest.fixture
def runs(tmp_path):
    return build_two(tmp_path / "runs")


@pytest.fixture
def compare(run_tool, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        return run_tool("compare.py", *arguments)

    return run


def table(html: str, title: str) -> list[list[str]]:
    """Returns the rows of a table on a page."""
    body = html.partition(f'aria-label="{title}"')[2].partition("</table>")[0]
    rows = body.partition("<tbody>")[2].split("</tr>")[:-1]
    return [
        [re.sub("<[^>]*>", "", cell) for cell in re.findall("<t[hd].*?</t[hd]>", r)] for r in rows
    ]


def cards(html: str) -> dict[str, list[str]]:
    """Returns title → the ids of the images that a page shows below it."""
    found, title = {}, ""
    for tag, text in re.findall(r"<(h3|h4)>(?:<bdi>)?([^<]*)<", html):
        if tag == "h3":
            found[title := text] = []
        else:
            found[title].append(text)
    return found


def test_figures_settings_images_and_tags_of_two_runs(compare, runs, tmp_path):
    finished = compare(*runs)
    assert finished.code == 0, finished.errors
    assert rows_of(finished.output, "tags: F1")[0][1:3] == ["76.9", "61.5"], "10/13 and 8/13"
    assert rows_of(finished.output, "masks: mIoU") == [
        ["masks: mIoU", "100.0", "100.0", "0.0 [0.0, 0.0]", "6", "all"]
    ]
    [(_, a, b, change, *_)] = rows_of(finished.output, "segmenter: mIoU")
    assert float(b) - float(a) == pytest.approx(
        float(change.split()[0].replace("−", "-")), abs=0.11
    )
    assert re.fullmatch(r"−\d+\.\d \[−\d+\.\d, \+\d+\.\d\]", change)
    assert rows_of(finished.output, "CAMs: mIoU"), "with β of config.yaml"
    assert rows_of(finished.output, "tags: mAP")[0][1:4] == ["80.6", "80.6", "0.0 [0.0, 0.0]"]
    for side, run in zip("AB", runs):
        folders = re.search(rf"^{side}: (.*)$", finished.output, re.M)[1]
        assert folders.startswith(f"{run}: all/tags/") and "all/predictions/" in folders
    assert rows_of(finished.output, "tags.alpha") == [["tags.alpha", "0.5", "0.25"]]
    assert finished.output.endswith("\nwritten to comparison.html\n")
    page = Page((tmp_path / "comparison.html").read_text(encoding="utf-8"))
    assert cards(page.html) == {"Gained most": ["5", "4"], "Lost most": ["1"]}
    titles = re.findall(r"<figcaption><strong><bdi>([^<]*)", page.html)
    assert titles == 3 * [
        "image",
        "A",
        "B",
        "ground truth",
        "prediction of A against prediction of B",
    ]
    assert table(page.html, "Tags") == [["cat", "1", "1"]]
    assert table(page.html, "Tags of images") == [["0", "cat", ""], ["2", "", "cat"]]
    first, *classes = table(page.html, "Classes")
    assert first[:4] == ["background", "–", "–", "–"], "no tag"
    assert [row[0] for row in classes] == ["cat", "dog", "cup"]
    assert classes[0][1:4] == ["100.0", "50.0", "−50.0"]
    assert not [tag for tag, _ in page.elements if tag in ("link", "iframe")][1:], "the icon alone"


def test_one_stage_of_one_output_directory_with_two_settings(compare, runs):
    masks = runs[0] / "all" / "masks"
    [key] = [path for path in masks.iterdir() if not path.is_symlink()]
    shutil.copytree(key, masks / "other")
    finished = compare(masks / "other", masks / "latest")
    assert finished.code == 0, finished.errors
    assert "masks: mIoU" in finished.output and "tags" not in finished.output
    assert "No setting that changes a result differs." in finished.output


def test_one_output_directory_is_compared_with_what_was_there_before(compare, runs):
    refused = compare(runs[0])
    assert refused.code == 2
    assert "no results older than the latest: give" in refused.errors
    predictions = runs[0] / "all" / "predictions"
    newest = (predictions / "latest").resolve()
    for name, year, complete in (("older", 2024, True), ("old", 2025, True), ("dead", 2026, False)):
        shutil.copytree((runs[1] / "all/predictions/latest").resolve(), predictions / name)
        manifest = predictions / name / "manifest.json"
        facts = json.loads(manifest.read_text())
        facts |= {"complete": complete, "finished": f"{year}-01-01T00:00:00+00:00"}
        manifest.write_text(json.dumps(facts))
    finished = compare(runs[0])
    assert finished.code == 0, finished.errors
    given = compare(predictions / "old", newest)
    figures = "segmenter: mIoU"
    assert rows_of(finished.output, figures) == rows_of(given.output, figures)
    assert rows_of(finished.output, figures)[0][2] == rows_of(compare(*runs).output, figures)[0][1]
    assert "tags" not in finished.output, "there is but one"


def test_without_ground_truth_images_that_differ_are_shown(compare, tmp_path):
    a, b = build_two(tmp_path / "runs", truth=False)
    finished = compare(a, b, "--output", tmp_path / "new" / "page.html")
    assert finished.code == 0, finished.errors
    share = 100 * 32 * (26 + 4 + 5) / (6 * 48 * 64)  # columns of images 1, 4 and 5
    assert rows_of(finished.output, "segmenter: pixels that differ")[0][1] == f"{share:.1f}"
    assert rows_of(finished.output, "tags: classes that differ")[0][1] == f"{100 * 2 / 18:.1f}"
    page = Page((tmp_path / "new" / "page.html").read_text(encoding="utf-8"))
    assert cards(page.html) == {"Differ most": ["1", "5", "4"]}
    assert "ground truth" not in page.text
    assert all(cell for row in table(page.html, "Figures") for cell in row), "no empty column"


def test_hostile_names_are_text(compare, tmp_path):
    runs = build_two(tmp_path / "<b>runs", HOSTILE_CLASSES)
    assert compare(*runs).code == 0
    page = Page((tmp_path / "comparison.html").read_text(encoding="utf-8"))
    assert len(page.find("script")) == 1 and not page.find("b")
    assert "hacked=1" in page.text and not [a for _, a in page.elements if "onerror" in a]


def test_what_cannot_be_read_is_named_and_the_others_are_compared(compare, runs, tmp_path):
    (runs[1] / "all/predictions/latest/2.png").write_bytes(b"torn")
    finished = compare(*runs)
    assert finished.code == 2 and "left out: 2: " in finished.errors
    assert "error: 1 images were left out: repair those listed above" in finished.errors
    assert rows_of(finished.output, "segmenter: mIoU")[0][4] == "5"
    assert (tmp_path / "comparison.html").is_file()


def other_classes(a, b):
    for manifest in b.glob("*/*/*/manifest.json"):
        manifest.write_text(manifest.read_text().replace('"cup"', '"mug"'))


def other_order(a, b):
    for manifest in a.glob("*/*/*/manifest.json"):
        text = json.dumps(json.loads(manifest.read_text()))
        manifest.write_text(text.replace('"cat", "dog", "cup"', '"cup", "dog", "cat"'))


def other_photographs(a, b):
    change_entries(
        b / "all/masks/latest", lambda e: {"inputs": {**e["inputs"], "photograph": "other"}}
    )


def unfinished(a, b):
    for path in b.glob("*/*/*/manifest.json"):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"complete": False}))


def another_split(a, b):
    (b / "all").rename(b / "val")


def no_record(a, b):
    (a / "config.yaml").unlink()


def changed_classes(a, b):
    path = a / "config.yaml"
    path.write_text(path.read_text().replace("cup", "mug"))


def split_that_is_not_there(a, b):
    for root in (a, b):
        (root / "all").rename(root / "val")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (other_classes, "have different classes in the two runs: run both with one list"),
        (other_order, "have different classes in the two runs: run both with one list"),
        (other_photographs, "masks of split all: the two runs share no image: run both on"),
        (unfinished, "second/out contains no finished results: run a stage to its end, or give"),
        (another_split, "share no stage of one split: give an output directory, or"),
        (no_record, "first/out/config.yaml is not a file: run a stage there again, which"),
        (changed_classes, "config.yaml has other classes than the results: run a stage there"),
        (split_that_is_not_there, "config.yaml has no split val: did you mean all?"),
    ],
)
def test_what_cannot_be_compared_is_refused_in_a_sentence(compare, runs, tmp_path, change, message):
    change(*runs)
    finished = compare(*runs)
    assert finished.code == 2 and message in finished.errors, finished.errors
    assert finished.errors.startswith("error: ") and finished.errors.count("\n") == 1
    assert not (tmp_path / "comparison.html").exists()


def test_cams_and_precisions_are_measured_as_each_run_says(runs):
    """Of several β, the one that suits a run's CAMs; B's CAM of image 0 is that of image 3."""
    cams = runs[1] / "all/cams/latest"
    (cams / "0.npz").write_bytes((cams / "3.npz").read_bytes())
    record_files(cams.resolve())
    world = runs[0].parent
    samples = [  # none of the third class, which is then absent
        Sample(i, world / f"photographs/{i}.png", MaskFile(world / f"truth/{i}.png"))
        for i in ("0", "1", "3", "4")
    ]

    def figures(stage: str, *betas: list[float], absent_as_zero: bool = False) -> list[str]:
        measured = [{"background_betas": b, "absent_as_zero": absent_as_zero} for b in betas]
        pair = Pair(*(Artefact((run / f"all/{stage}/latest").resolve()) for run in runs), measured)
        pair.compare(samples, 1, {})
        return next(pair.rows())[1:3]

    (a, b), (other_a, other_b) = (figures("cams", [beta], [beta]) for beta in (0.5, 4))
    assert len({a, b, other_a, other_b}) == 4
    assert figures("cams", [0.5], [4]) == [a, other_b]
    assert figures("cams", [0.5, 4], [0.5, 4]) == [max(a, other_a), max(b, other_b)]
    assert figures("tags", [2], [2]) != figures("tags", [2], [2], absent_as_zero=True)


def test_a_run_is_measured_with_the_betas_of_its_own_record(compare, runs):
    def figures() -> list[str]:
        return rows_of(compare(*runs).output, "CAMs: mIoU")[0][1:3]

    before, record = figures(), runs[1] / "config.yaml"
    text = record.read_text()
    record.write_text(re.sub(r"(background_betas:\s*- )2\b", r"\g<1>4", text))
    after = figures()
    assert after[0] == before[0] and after[1] != before[1]


def test_images_of_one_run_alone_are_counted(compare, runs):
    masks = runs[1] / "all/masks/latest"
    change_entries(masks, lambda e: {"id": "7"} if e["id"] == "4" else {})
    change_entries(masks, lambda e: {"inputs": {"photograph": "other"}} if e["id"] == "2" else {})
    (runs[0].parent / "photographs" / "3.png").unlink()
    finished = compare(*runs)
    assert finished.code == 0, finished.errors
    assert rows_of(finished.output, "masks: mIoU")[0][4:] == ["3", "all"]
    assert "masks of split all: 3 images were compared; 4 are in only one run" in finished.errors
    assert "predictions of split all: 5 images were compared; 1 are in" in finished.errors


def test_a_run_is_not_compared_with_itself(compare, runs):
    finished = compare(runs[0], runs[0] / "all/masks/latest")
    assert finished.code == 2 and "both runs hold the same masks of split all" in finished.errors


def test_results_of_different_sizes_are_left_out(compare, runs):
    path = runs[1] / "all/predictions/latest/2.png"
    with Image.open(path) as image:
        image.transpose(Image.Transpose.ROTATE_90).save(path)
    record_files(path.parent.resolve())
    finished = compare(*runs)
    assert "left out: 2: its results have different sizes: run both with one" in finished.errors


def test_nothing_is_written_where_the_file_says(compare, runs, tmp_path):
    path = runs[0] / "config.yaml"
    changes = {"name": "demo", "limit": 1, "root": tmp_path / "scenes"}
    text = path.read_text()
    for key, value in {**changes, "masks": "null"}.items():
        text = re.sub(rf"(?m)^  {key}: .*$", f"  {key}: {value}", text, count=1)
    path.write_text(text)
    before = set(tmp_path.rglob("*"))
    assert "has no split all" in compare(*runs, "--output", tmp_path / "c.html").errors
    assert set(tmp_path.rglob("*")) == before, "scenes are rendered elsewhere, and removed"


@pytest.mark.large
def test_two_methods_are_compared_by_the_figures_of_evaluate(
    run_stage, compare, arguments, photographs, tmp_path, monkeypatch
):
    for index, path in enumerate(sorted(photographs.rglob("*.*"))):
        with Image.open(path) as image:
            labels = np.zeros((image.height, image.width), np.uint8)
        labels[20:50, 10:60] = 1 + index % 4
        target = tmp_path / "truth" / path.relative_to(photographs).with_suffix(".png")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(encode_png(labels))
    given = [*arguments, f"dataset.masks={tmp_path / 'truth'}", "stage=[tags,cams,masks,evaluate]"]
    for name, more in {"a": ["cams=clip_es"], "b": ["cams=naclip", "masks=argmax"]}.items():
        assert run_stage(*given, *more, f"output_dir={tmp_path / name}").code == 0
    monkeypatch.chdir(tmp_path)
    finished = compare("a", "b")
    assert finished.code == 0, finished.errors
    measured = [json.loads((tmp_path / n / "metrics.json").read_text())["latest"] for n in "ab"]
    names = {"mAP": "map", "F1": "f1", "precision": "precision", "recall": "recall"}
    rows = [("tags", f"tags: {label}", metric) for label, metric in names.items()]
    rows += [("cams", "CAMs: mIoU", "miou"), ("masks", "masks: mIoU", "miou")]
    for stage, label, metric in rows:
        expected = [f"{100 * each[stage]['all'][metric]:.1f}" for each in measured]
        assert rows_of(finished.output, label)[0][1:3] == expected, label
    assert rows_of(finished.output, "cams.method")[0] == ["cams.method", "clip_es", "naclip"]
    title = re.search("<h1>(.*?)</h1>", (tmp_path / "comparison.html").read_text("utf-8"))[1]
    assert "cams.method: clip_es → naclip" in title and "masks.crf: on → null" in title


def test_another_photograph_under_the_same_name_is_left_out(compare, runs):
    Image.new("RGB", (64, 48)).save(runs[0].parent / "photographs" / "2.png")
    finished = compare(*runs)
    assert finished.code == 2
    assert "left out: 2: its photograph has changed: run stage=" in finished.errors
    assert rows_of(finished.output, "segmenter: mIoU")[0][4] == "5"
