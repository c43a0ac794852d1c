"""The eight sets on which training-free methods are compared (``--eight``)."""

from collections.abc import Sequence
from statistics import mean

from pipeline.report.tables.grouping import choose_run
from pipeline.report.tables.markdown import Notes, Table
from pipeline.report.tables.published import load_published
from pipeline.report.tables.runs import MeasuredRun

_SETS = {
    "voc2012_val": "VOC21",
    "context60_val": "Context60",
    "coco_object": "COCO-Object",
    "voc20_val": "VOC20",
    "context59_val": "Context59",
    "cocostuff_whole_val": "COCO-Stuff",
    "ade20k_val": "ADE20K",
    "cityscapes_val": "Cityscapes",
}
"""Columns of the table of dense methods → their names in papers."""


def write_eight(runs: Sequence[MeasuredRun]) -> str:
    """Returns mIoU of each method and backbone on the eight sets, published and ours.

    Ours are runs of a preset without changes; means are over the sets that have both figures.
    """
    [table] = [each for each in load_published() if each.name == "dense_as_published"]
    columns = {each.name: each for each in table.columns if each.name in _SETS}
    notes, rows = Notes(), []
    for row in table.rows:
        shown = {}
        for name, preset in row.experiments.items():
            own = [r for r in runs if r.about.experiment == preset and not r.changes()]
            if found := [run for run in own if run.value_in(columns[name]) is not None]:
                shown[name] = choose_run(found, columns[name].split.images)
        ours = {name: 100 * each.run.value(table.metric) for name, each in shown.items()}
        cells = {name: each.cell(table.metric, notes) for name, each in shown.items()}
        published = {name: f"{figure:.1f}" for name, figure in row.figures.items()}
        both = ours.keys() & row.figures.keys()
        for who, texts, values in (("published", published, row.figures), ("ours", cells, ours)):
            average = f"{mean(values[name] for name in both):.1f}" if both else ""
            in_order = [texts.get(name, "") for name in _SETS]
            rows.append([row.method, row.backbone, who, *in_order, average])
    words = ["method", "backbone", "figures"]
    caption = "mIoU in %, without tags. The means are over the sets that have both figures."
    header = [*words, *_SETS.values(), "mean"]
    return Table(header, rows, words, "Eight sets", caption, notes.paragraphs()).markdown("#")
