"""Tables and pictures."""

from __future__ import annotations

import dataclasses
import io

import numpy as np
import pytest
from PIL import Image

from pipeline.cams.cams import Cams
from pipeline.evaluation.metrics import tagging_figures
from pipeline.report.page.sheets import cam_tiles, draw_sheet, label_tile, photograph_tile
from pipeline.report.tables.markdown import Table
from pipeline.report.tables.runs import read_runs
from pipeline.report.tables.study import write_study
from tests.report.measured import KNOWN, tables_of

pytestmark = pytest.mark.usefixtures("figures_are_current")

PALETTE = [(0, 0, 0), (200, 0, 0), (0, 200, 0)]


def run(seed: int, miou: float) -> dict:
    segmenter = {"name": "demo", "seed": seed, "masks": {"beta": 1}}
    return {
        "stage": "predictions",
        "split": "val",
        "key": f"k{seed}",
        "images": 10,
        "miou": miou,
        "about": {},
        "configuration": {"segmenter": segmenter},
        **KNOWN,
    }


def test_tables_show_what_was_measured_and_no_more(tmp_path):
    figures = {"images": 10, "map": 0.9, "f1": 0.8, "precision": 0.7, "recall": 0.6}
    text = tables_of(
        tmp_path,
        tags={**figures, "variants": {"clip": {"map": 0.5}, "cwr": {"map": 0.9}}},
        masks={"images": 10, "miou": 0.6, "kept": 0.5},
        predictions={"images": 10, "miou": 0.55},
    )
    assert "| val | 10 | 90.0 | 80.0 | 70.0 | 60.0 |" in text
    assert "squeezed to the native size | 50.0 |" in text
    assert "DMAR |" not in text, "a row that was not measured"
    assert "segmenter, trained on pseudo masks | val | 10 | 55.0 |" in text
    assert "Over seeds" not in text


def test_steps_of_testing_and_weights_that_have_seen_masks_stand_beside_the_figure(tmp_path):
    predictions = {
        "images": 10,
        "miou": 0.73,
        "miou_union": 0.6,
        "variants": {
            "single_scale": {"miou": 0.7, "miou_union": 0.55, "miou_images": 0.5},
            "multi_scale": {"miou": 0.715, "miou_union": 0.59},
        },
        "initial_weights": {"source": "coco", "seen_masks": True},
    }
    text = tables_of(tmp_path, predictions=predictions)
    lines = [line for line in text.splitlines() if "| val |" in line]
    assert "seen masks" in lines[0] and lines[0].endswith("| 73.0 | 60.0 | – |")
    assert "at one scale" in lines[1] and lines[1].endswith("| 70.0 | 55.0 | 50.0 |")
    assert "before the CRF" in lines[2] and lines[2].endswith("| 71.5 | 59.0 | – |")


def test_seeds_are_summed_up(tmp_path):
    runs = [run(0, 0.5), run(1, 0.6), run(2, 0.7)]
    runs.append({**run(0, 0.1), "key": "other"})
    runs[-1]["configuration"] = {"segmenter": {"name": "demo", "seed": 0, "masks": {"beta": 2}}}
    assert "| demo | val | 10 | 0, 1, 2 | 60.0 ± 10.0 |" in tables_of(tmp_path, *runs)


def test_what_a_supervised_network_reaches_is_marked_in_every_table(tmp_path):
    runs = [run(seed, 0.8) | {"supervised": True, "experiments": ["mine"]} for seed in (0, 1)]
    text = tables_of(tmp_path, *runs, predictions=runs[1])
    mark = "trained on the ground truth (supervised)"
    assert f"| segmenter, {mark} | val | 10 | 80.0 |" in text and "pseudo masks |" not in text
    assert f"| demo, {mark} | val | 10 | 0, 1 | 80.0 ± 0.0 |" in text
    assert mark in write_study("mine", read_runs([tmp_path / "metrics.json"])[0])


def tags(positive: list, scores: list, **options: bool) -> dict:
    positive, scores = np.array(positive, bool), np.array(scores)
    found = tagging_figures(scores, positive, scores > 0.5, ["cat", "dog", "cup"], **options)
    return {"images": len(scores), **found}


ABSENT = [[1, 0, 0], [0, 1, 0], [0, 1, 0]], [[0.9, 0.2, 0.7], [0.1, 0.8, 0.6], [0.3, 0.7, 0.1]]
TIED = [[0, 1, 1], [0, 1, 1], [1, 0, 0]], [[0.3, 0.5, 0.4]] * 3
GIVEN = ABSENT[0], ABSENT[0]


@pytest.mark.parametrize(
    ("figures", "cell", "note"),
    [
        (tags(*ABSENT), "100.0", "mAP over 2 of 3 classes; cup has no positive"),
        (
            tags(*ABSENT, absent_as_zero=True),
            "66.7",
            "mAP over 3 of 3 classes; cup has no positive, and counts 0",
        ),
        (tags(*GIVEN), "–", "no mAP: the scores are decisions, which rank nothing"),
        (tags(*TIED), "77.8", "mAP from 50.0 to 100.0 by the order of images of equal score"),
    ],
)
def test_a_table_says_what_its_map_is_the_mean_of(figures, cell, note, tmp_path):
    entry = {"stage": "tags", "split": "val", "key": "k", "configuration": {}, **KNOWN, **figures}
    entry |= {"about": {"dataset": "own", "tags": "file"}, "experiments": ["mine"]}
    text = tables_of(tmp_path, entry, tags=figures)
    assert f"| val | 3 | {cell} |" in text and f"\nval: {note}.\n" in text
    runs, problems = read_runs([tmp_path / "metrics.json"])
    assert not problems
    assert note in write_study("mine", runs)


def test_the_three_means_of_a_run_stand_beside_each_other(tmp_path):
    means = {"miou": 0.7, "miou_union": 0.5, "miou_images": 0.6}
    entry = {"stage": "masks", "split": "val", "key": "k", "images": 3, "configuration": {}}
    entry |= {"about": {"dataset": "own"}, **KNOWN, **means, "kept": 1}
    text = tables_of(tmp_path, entry, masks=entry)
    header = "| split | images | mIoU (%) | mIoU_union (%) | mIoU_images (%) |"
    assert header in text and "| 70.0 | 50.0 | 60.0 |" in text and "In mIoU_union" in text
    (run,), _ = read_runs([tmp_path / "metrics.json"])
    assert run.notes() == ["mIoU_union 50.0, where classes that are only predicted count 0"]
    entry["miou_union"] = 0.7
    assert "mIoU_union" not in tables_of(tmp_path, entry, masks=entry)
    equal = dataclasses.replace(run, figures={**run.figures, "miou_union": 0.7})
    assert not equal.notes()
    about = {"experiment": "cls_seg_voc2012", "clip": "vit_l14"}
    other = dataclasses.replace(equal, about=dataclasses.replace(run.about, **about))
    (note,) = other.notes()
    assert note.endswith("were chosen for clip=vit_b16, not for clip=vit_l14")


def test_nothing_measured_says_so(tmp_path):
    assert "Nothing was measured" in tables_of(tmp_path)


def test_labels_are_painted_in_their_colours():
    labels = np.zeros((240, 240), np.uint8)
    labels[10:30, 10:30], labels[40:, 40:] = 2, 255
    photograph = np.full((240, 240, 3), (90, 128, 170), np.uint8)
    tile = label_tile(photograph, labels, PALETTE, "mask")
    painted = tile.picture.astype(int)
    assert tile.labels == {2, 255}
    assert painted[20, 20, 1] - painted[20, 20, 0] > 80, "class 2 is green"
    assert np.ptp(painted[2, 2]) == 0, "the background is grey"


def test_a_contact_sheet_has_a_row_an_image_and_leaves_out_empty_columns():
    image = np.zeros((30, 40, 3), np.uint8)
    mask = label_tile(image, np.full((30, 40), 2, np.uint8), PALETTE, "mask")
    cams = Cams(np.array([1]), np.ones((1, 2, 2), np.float16), (30, 40))
    computed = [photograph_tile(image, "photograph"), *cam_tiles(image, cams, "ab"), mask]

    def size(*images: list) -> tuple[int, int]:
        sheet = draw_sheet([("x", tiles) for tiles in images], ["background", "a", "b"], PALETTE)
        with Image.open(io.BytesIO(sheet)) as picture:
            return picture.size

    three = [*computed, None, None]
    assert size(three) == size(computed)
    assert size(three, three)[0] == size(three)[0] and size(three, three)[1] > size(three)[1]
    assert size([*computed, mask, mask])[0] > size(three)[0]


def test_very_narrow_photographs_have_tiles():
    for shape in ((1, 1000), (1000, 1), (1, 1)):
        tile = label_tile(np.zeros((*shape, 3), np.uint8), np.ones(shape, np.uint8), PALETTE, "")
        assert max(tile.picture.shape[:2]) == 240 and min(tile.picture.shape[:2]) >= 1


def test_a_bar_in_a_cell_does_not_end_it():
    table = Table(["a|b", "n"], [["x | y", "1"]], ["a|b"])
    assert table.narrow.splitlines()[2] == "| x \\| y | 1 |"
    assert table.text.splitlines()[0] == "| a\\|b   |   n |", "columns line up"
