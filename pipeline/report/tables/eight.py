"""The eight sets on which training-free methods are compared (``--eight``)."""

from collections.abc import Sequence
from statistics import mean

from pipeline.report.tables.grouping import choose_run, describe_images, grouped
from pipeline.report.tables.markdown import Notes, Table
from pipeline.report.tables.published import load_published
from pipeline.report.tables.runs import MeasuredRun


def write_eight(runs: Sequence[MeasuredRun]) -> str:
    """Returns the mIoU of each method on the eight sets: published, and ours by backbone.

    Ours are runs of presets without changes. A mean is over the sets that we ran as a whole and
    that have a published figure; beside it is the mean of these published figures.
    """
    [table] = [each for each in load_published() if each.name == "dense_as_published"]
    columns, notes, rows = {each.name: each for each in table.columns}, Notes(), []
    for row in table.rows:
        if row.figures:
            cells = [f"{row.figures[n]:g}" if n in row.figures else "" for n in columns]
            words = [row.method + notes.mark(row.source), row.backbone, "published"]
            rows.append([*words, *cells, ""])
        sets = {preset: columns[name] for name, preset in row.experiments.items()}
        presets = [run for run in runs if run.about.experiment in sets and not run.changes()]
        own = [run for run in presets if run.value_in(sets[run.about.experiment]) is not None]
        alike = grouped(own, lambda run: (run.backbone, run.about.compat, run.about.precision))
        for (backbone, *choices), same in sorted(alike.items()):
            of = grouped(same, lambda run, sets=sets: sets[run.about.experiment].name)
            shown = {name: choose_run(of[name], columns[name].split.images) for name in of}
            whole = {n for n in of if not describe_images(shown[n].run.images, shown[n].full_sizes)}
            both = whole & row.figures.keys()
            pairs = [(100 * shown[n].run.value(table.metric), row.figures[n]) for n in both]
            average = "{:.1f} (published {:.1f})".format(*map(mean, zip(*pairs))) if pairs else ""
            cells = [shown[n].cell(table.metric, notes) if n in shown else "" for n in columns]
            rows.append([row.method, backbone, f"ours ({', '.join(choices)})", *cells, average])
    header = ["method", "backbone", "figures", *(each.label for each in table.columns), "mean"]
    caption = "mIoU in %; ours of presets without changes. A mean is over sets with both figures."
    return Table(header, rows, header[:3], "Eight sets", caption, notes.paragraphs()).markdown("#")
