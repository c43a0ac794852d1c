"""Every metric and every time in README is that of the file from which it was taken."""

from __future__ import annotations

import re
from statistics import mean

import pytest
import yaml

from docs.networks import read_kept
from tests import REPOSITORY

PUBLISHED = REPOSITORY / "pipeline" / "report" / "tables" / "published.yaml"
DECIMAL = re.compile(r"(?<![\w.])\d+\.\d(?![\w.])")


def read(page: str) -> str:
    return (REPOSITORY / page).read_text(encoding="utf-8")


def cells(page: str, *begin: str) -> list[str]:
    """Returns the cells after these first ones of a row of a page's table."""
    start = "| " + " | ".join(begin) + " |"
    (row,) = [line for line in read(page).splitlines() if line.startswith(start)]
    return [cell.strip() for cell in row.removeprefix(start).removesuffix("|").split("|")]


def published(table: str, method: str) -> dict[str, float]:
    tables = yaml.safe_load(PUBLISHED.read_text(encoding="utf-8"))["tables"]
    (found,) = [each["rows"] for each in tables if each["name"] == table]
    return next(row["figures"] for row in found if row["method"] == method)


def columns(table: str, method: str, suffix: str = "") -> list[str]:
    figures = published(table, method)
    return [str(figures[f"{split}{suffix}"]) for split in ("voc2012_val", "coco2017_val")]


TAGS = "TagCLIP, tags as released"
EXPECTED = {
    "precision of tags": columns("released_tags", TAGS, "_precision"),
    "recall of tags": columns("released_tags", TAGS, "_recall"),
    "F1 of tags": columns("released_tags", TAGS, "_f1"),
    "mIoU of CAMs": columns("annotation_free", "TagCLIP CLS-SEG (CAMs)"),
    "mIoU of masks": columns("annotation_free", "TagCLIP CLS-SEG + CRF"),
}
OURS = {
    "F1 of the tags": 1,
    "mIoU of the CAMs": 2,
    "mIoU of the masks": 3,
}
"""A row of ours → its column in the table of the recipe."""
NETWORK = "mIoU of the network"


@pytest.mark.parametrize("row", EXPECTED)
def test_published_metrics_are_those_of_the_tables(row):
    assert cells("README.md", row) == EXPECTED[row]


@pytest.mark.parametrize("row", OURS)
def test_metrics_of_ours_are_those_of_the_experiments(row):
    demo, *crowded = cells("README.md", row)
    name = row.replace("of the CAMs", "of CAMs").replace("of the masks", "of masks")
    assert cells("docs/experiments.md", name)[0] == demo
    recipe = (
        "published: TagCLIP, CLIP-ES, CRF",
        "and PAR in place of the CRF: `experiment=recipe`",
    )
    means = [cells("docs/experiments.md", name)[OURS[row]].strip("*") for name in recipe]
    assert [mean.partition(" ")[0] for mean in means] == crowded


def test_metrics_of_our_network_are_those_of_its_results():
    demo, *crowded = cells("README.md", NETWORK)
    assert f"The segmenter of `make demo` reaches {demo} " in read("docs/experiments.md")
    kept = [r for r in read_kept().values() if r["network"] == "frozen_clip" and not r["changes"]]
    plain = [r for r in kept if r["step"] == "single_scale"]
    assert demo in [f"{r['miou']:.1f}" for r in plain if r["dataset"] == "demo" and not r["seed"]]
    for masks, expected in zip(("published", "recipe"), crowded):
        here = [r for r in plain if r["masks"] == masks and r["split"].startswith("report")]
        assert f"{mean(r['miou'] for r in here):.1f}" == expected


def test_hours_are_those_of_the_page_on_speed():
    for size in ("4000×3000", "500×375"):
        (hours,) = [cells("README.md", f"{size} pixels")]
        patches = {"4000×3000": "40×30", "500×375": "32×24"}[size]
        for precision, each in zip(("fp32", "bf16"), hours):
            assert cells("docs/speed.md", "ViT-B/16", size, patches, precision)[-1] == each


def test_other_numbers_of_the_readme_stand_in_their_files():
    readme = " ".join(read("README.md").split())
    assert f"mAP on VOC 2007 test is {published('multilabel', 'TagCLIP')['voc2007_test']}" in readme
    segmenter = published("weakly_supervised", "CLIP-ES")["voc2012_val"]
    assert f"DeepLab-V2 reach {segmenter} mIoU" in readme


def test_no_further_number_with_a_decimal_is_in_the_readme():
    text = re.sub(r"Python 3\.\d+ to 3\.\d+", "", read("README.md"))
    known = {number for row in EXPECTED.values() for number in row}
    known |= {cell for row in (*OURS, NETWORK) for cell in cells("README.md", row)}
    known |= {"92.8", "71.1"}
    known |= {*cells("README.md", "4000×3000 pixels"), *cells("README.md", "500×375 pixels")}
    assert {*DECIMAL.findall(text)} <= known
