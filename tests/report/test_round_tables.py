"""The table of self-training's rounds, from what metrics.json holds."""

from pipeline.evaluation.record import MetricsFile
from pipeline.report.tables import collect_rounds

TAGS = {"method": "tagclip"}
MASKS = {"cams": {"tags": TAGS}, "confidence": 0.0}
FIRST = {"name": "demo", "seed": 0, "masks": MASKS}
SEEN = {"scales": [1.0], "segmenter": FIRST}
LATER_MASKS = {"confidence": 0.5, **SEEN}
SECOND = {"name": "demo", "seed": 0, "masks": LATER_MASKS}


def run(stage, split, key, configuration, **figures):
    return {"stage": stage, "split": split, "key": key, "configuration": configuration, **figures}


def metrics_of(tmp_path, *runs):
    metrics = MetricsFile(tmp_path / "metrics.json")
    metrics.runs = list(runs)
    predictions = [r for r in runs if r["stage"] == "predictions"]
    metrics.latest = {"predictions": {r["split"]: r for r in predictions}}
    return metrics


def test_rounds_are_found_back_from_the_last_segmenter(tmp_path):
    metrics = metrics_of(
        tmp_path,
        run("tags", "val", "t1", TAGS, map=0.9, f1=0.8, levels=[{"map": 0.95}]),
        run("tags", "val", "other", {"method": "clip"}, map=0.1, f1=0.1),
        run("masks", "val", "m1", MASKS, miou=0.7, kept=1.0),
        run("predictions", "val", "p1", {"segmenter": FIRST}, miou=0.71),
        run("predictions", "val", "px", {"segmenter": {**FIRST, "seed": 1}}, miou=0.11),
        run("tags", "val", "t2", {"method": "segmenter", **SEEN}, map=0.91, f1=0.82),
        run("masks", "val", "m2", LATER_MASKS, miou=0.72, kept=0.93),
        run("predictions", "val", "p2", {"segmenter": SECOND}, miou=0.73),
    )
    table = collect_rounds(metrics)
    first, second = (dict(zip(table.header, row)) for row in table.rows)
    assert first == {
        "round": "1",
        "tags mAP, val": "90.0",
        "tags mAP level 1, val": "95.0",
        "tags F1, val": "80.0",
        "masks mIoU, val": "70.0",
        "pixels kept, val": "100.0",
        "segmenter mIoU, val": "71.0",
    }
    assert second["round"] == "2" and second["tags mAP, val"] == "91.0"
    assert second["tags mAP level 1, val"] == "" and second["segmenter mIoU, val"] == "73.0"


def test_a_split_that_was_predicted_earlier_does_not_hide_the_rounds(tmp_path):
    metrics = metrics_of(
        tmp_path,
        run("predictions", "train", "p0", {"segmenter": FIRST}, miou=0.7),
        run("predictions", "val", "p2", {"segmenter": SECOND}, miou=0.73),
    )
    assert "73.0" in collect_rounds(metrics).rows[1]


def test_a_single_round_has_no_table(tmp_path):
    metrics = metrics_of(tmp_path, run("predictions", "val", "p1", {"segmenter": FIRST}, miou=0.7))
    assert not collect_rounds(metrics).rows
    assert not collect_rounds(metrics_of(tmp_path)).rows


def test_own_masks_have_rounds_too(tmp_path):
    own = {"name": "demo", "masks": {"from": "files"}}
    later = {"name": "demo", "masks": {"segmenter": own}}
    metrics = metrics_of(tmp_path, run("predictions", "val", "p", {"segmenter": later}, miou=0.5))
    assert "50.0" in collect_rounds(metrics).rows[1]
