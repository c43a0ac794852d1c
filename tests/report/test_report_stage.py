"""``stage=report`` on the command line, whatever was run before it."""

from __future__ import annotations

import json

import pytest

from tests.report.html_page import Page
from tests.small_runs import TINY_SEGMENTER


def read(out):
    return Page((out / "report.html").read_text(encoding="utf-8"))


def layers(page):
    return {a["data-layer"] for a in page.find("figure") if "data-layer" in a}


def test_the_page_comes_last_and_grows_with_what_was_run(run_stage, arguments, tmp_path):
    out, hostile = tmp_path / "out", "<b>&amp;"
    (tmp_path / "photographs" / f"{hostile}.jpg").write_bytes(b"no photograph")
    finished = run_stage(*arguments, "stage=report")
    assert finished.code == 0, finished.errors
    *_, written, following = finished.output.splitlines()
    assert written.endswith(f"→  {out / 'report.html'}")
    assert following == f"next: open {out / 'report.html'} in a browser"
    assert "Nothing was computed yet" in read(out).text

    assert run_stage(*arguments, "stage=[tags,report]").code == 0
    page = read(out)
    assert len(page.find("li", **{"class": "card"})) == 5 and layers(page) == {"photograph"}
    failures = page.text.partition("Images that a stage, or this page, left out")[2]
    assert hostile in failures and "cannot be decoded" in failures

    assert run_stage(*arguments, "stage=[cams,masks,report]").code == 0
    assert layers(read(out)) == {"photograph", "cam", "argmax", "mask"}


def test_the_split_that_is_shown_is_refused_before_anything_is_computed(run_stage, arguments):
    for more in ("dry_run=true", "dry_run=false"):
        finished = run_stage(*arguments, "stage=[tags,report]", "report.split=al", more)
        assert finished.code == 2 and "computed now" not in finished.output
        assert "report.split=al is not a split of this run: did you mean all?" in finished.errors


def test_images_are_limited_as_the_configuration_says(run_stage, arguments, tmp_path):
    finished = run_stage(*arguments, "stage=[tags,report]", "report.images=2")
    assert finished.code == 0, finished.errors
    page = read(tmp_path / "out")
    assert len(page.find("li", **{"class": "card"})) == 2
    assert "2 of 5 images are shown: 1 whose tags are the most doubtful and 1 at even" in page.text


def test_masks_are_named_after_what_refined_them(run_stage, arguments, tmp_path):
    def page(masks: str) -> str:
        finished = run_stage(*arguments, "stage=[tags,cams,masks,report]", f"masks={masks}")
        assert finished.code == 0, finished.errors
        return read(tmp_path / "out").text

    assert "mask before the CRF, argmax of the CAMs" in page("crf")
    text = page("pamr")
    assert "mask before PAMR, argmax of the CAMs" in text and "mask after PAMR" in text
    assert "CRF" not in text
    text = page("argmax")
    assert "masksargmax" in text, "in the header"
    assert "argmax, " in text and "crf, " not in text, "in the table of the pipeline"


def test_given_masks_are_not_said_to_be_ours(run_stage, arguments, tmp_path):
    photographs = sorted((tmp_path / "photographs").glob("*.*"))
    images = [{"id": k, "file_name": path.name} for k, path in enumerate(photographs)]
    shape = {"category_id": 1, "segmentation": [[2, 2, 20, 2, 20, 20, 2, 20]], "score": 0.4}
    drawn = [{"image_id": image["id"], **shape} for image in images]
    content = {"images": images, "categories": [{"id": 1, "name": "cat"}], "annotations": drawn}
    (tmp_path / "sam3.json").write_text(json.dumps(content))
    given = ["masks=file", f"masks.path={tmp_path / 'sam3.json'}", "masks.min_score=0.5"]
    finished = run_stage(*arguments, *given, "stage=[masks,report]")
    assert finished.code == 0, finished.errors
    page = read(tmp_path / "out")
    assert layers(page) == {"photograph", "mask"}
    assert (
        "mask, as given" in page.text and f"pseudo masks of {tmp_path.name}/sam3.json" in page.text
    )
    assert "without annotations" not in page.text and "yet" not in page.text


@pytest.mark.large
def test_every_round_is_told_of(run_stage, arguments, tmp_path):
    stages = "stage=[tags,cams,masks,train,predict,report]"
    finished = run_stage(*arguments, *TINY_SEGMENTER, stages, "rounds=2")
    assert finished.code == 0, finished.errors
    page = read(tmp_path / "out")
    keys = {
        path.parent.name
        for pattern in ("all/*/*/manifest.json", "segmenter/*/manifest.json")
        for path in (tmp_path / "out").glob(pattern)
        if not path.parent.is_symlink()
    }
    assert len(keys) == 2 + 1 + 2 + 2 + 2, "tags, cams, masks, segmenter and predictions"
    assert all(key in page.text for key in keys)
    assert {"argmax", "mask", "prediction", "mask-prediction"} <= layers(page)
    assert "mask, seen by the segmenter before" in page.text
    assert "argmax of the first round's CAMs" in page.text


def test_damaged_figures_are_named_and_put_aside(run_stage, arguments, tmp_path):
    labels = tmp_path / "labels.txt"
    ids = (path.stem.replace(" ", "%20") for path in (tmp_path / "photographs").rglob("*.*"))
    labels.write_text("".join(f"{i} 0\n" for i in ids))
    arguments = [*arguments, f"dataset.labels={labels}"]
    assert run_stage(*arguments, "stage=[tags,evaluate]").code == 0
    metrics = tmp_path / "out" / "metrics.json"
    whole = json.loads(metrics.read_text())
    metrics.write_text("[1, 2")
    finished = run_stage(*arguments, "stage=report")
    assert finished.code == 0
    assert f"note: {metrics} is damaged, which is skipped: run stage=evaluate" in finished.errors
    finished = run_stage(*arguments, "stage=[evaluate,report]")
    assert finished.code == 0
    assert "is damaged: it was put aside as metrics.json.damaged" in finished.errors
    assert json.loads(metrics.read_text()) == whole
