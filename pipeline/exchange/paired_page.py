"""The page that compares two runs: one file, which needs no network."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from pipeline.engine.sample import ImageReader, Sample
from pipeline.evaluation.bootstrap import class_figures
from pipeline.exchange.paired import Pair, points
from pipeline.files.images import limit_longest_side
from pipeline.files.label_images import BACKGROUND
from pipeline.report.configurations import describe_value, varying
from pipeline.report.gallery import Panel, difference_panel, label_panel
from pipeline.report.markdown import Table, percent
from pipeline.report.measured import for_each_readable
from pipeline.report.page import load_template
from pipeline.report.painting import PHOTOGRAPH_QUALITY, drawing_colours, embed
from pipeline.report.settings import ReportSettings

_SIDES = ("A", "B", "B − A")
_LISTED = 500  # images whose tags differ


def write_tables(pairs: Sequence[Pair]) -> list[Table]:
    """Returns the figures of two runs, and the settings that differ."""
    interval = (
        "In percent. Brackets hold the 95% interval of the difference by a paired bootstrap over"
        " the images; it says nothing of other seeds."
    )
    header, words = ["figure", *_SIDES, "images", "split"], ["setting", *_SIDES[:2]]
    figures = [row for pair in pairs for row in pair.rows()]
    found = varying([{a.kind.stage: a.manifest["configuration"]} for a in pairs[-1].both])
    # With the stage, as on the command line.
    settings = [[".".join(n.split(".")[-2:]), *map(describe_value, v)] for n, v in found.items()]
    which = f"{'Those' if settings else 'None of those'} that change a result differ."
    return [
        Table(header, figures, ["figure", "split"], "Figures", interval),
        Table(words, settings, words, "Settings", which),
    ]


def write_page(
    names: Sequence[str],
    facts: Mapping[str, object],
    pairs: Sequence[Pair],
    tables: Sequence[Table],
    reader: ImageReader,
    workers: int,
    problems: dict[str, str],
) -> str:
    """Returns the page, which shows images of the last pair.

    Args:
        names: what A and B are called.
        facts: further words on them.
        pairs: what was compared.
        tables: those of :func:`write_tables`.
        reader: reads photographs.
        workers: threads that read files.
        problems: receives id → reason for images that cannot be read.
    """
    last, shown = pairs[-1], [pair for pair in pairs if pair.a.split == pairs[-1].a.split]
    tagged = [pair for pair in shown if pair.of_tags]
    more = [_classes([pair for pair in shown if pair.known], last.a.classes)]
    more += [table for pair in tagged for table in _changed_tags(pair)]
    samples = {image.sample.id: image.sample for image in last.images}
    between = f"{last.a.kind.layer} of A", f"{last.a.kind.layer} of B"

    def build(sample: Sample) -> dict[str, Any]:
        image, _ = reader(sample)
        image = limit_longest_side(image, ReportSettings().longest_side)
        size, panels = image.shape[:2], [Panel("photograph", "photograph", "", "")]
        if not last.of_tags:
            labels = dict(zip(_SIDES, last.labels(sample)))
            panels.append(difference_panel("difference", between, [*labels.values()], size))
            if sample.mask is not None:
                labels["ground truth"] = sample.mask.read()
            each = (label_panel("labels", *label, last.a.classes, size) for label in labels.items())
            panels[1:1] = each
        photograph = embed(image, PHOTOGRAPH_QUALITY)
        return {"id": sample.id, "size": size, "panels": panels, "photograph": photograph}

    def cards(ids: Sequence[str]) -> Iterator[dict[str, Any]]:
        return for_each_readable([samples[i] for i in ids], build, workers, problems)

    return load_template("compare.html", "tables.js").render(
        names=names,
        facts=facts,
        last=last,
        tables=[*tables, *(table for table in more if table.rows)],
        classes=last.a.classes,
        palette=drawing_colours(last.a.palette),
        sides=_SIDES,
        groups=[(title, chosen, cards(chosen)) for title, chosen in last.ranked().items()],
        tags={image.sample.id: image.tags for pair in tagged for image in pair.images},
    )


def _classes(pairs: Sequence[Pair], classes: Sequence[str]) -> Table:
    """Returns IoU or F1 of each class."""
    columns = {"class": [BACKGROUND, *classes]}
    for pair in pairs:
        a, b = class_figures(pair.tallies.sum(0), pair.of_tags)
        for side, values, show in zip(_SIDES, (a, b, b - a), (percent, percent, points)):
            cells = ["–" if np.isnan(value) else show(value) for value in values]
            # Tags have no background.
            columns[f"{pair.a.kind.name} {side}"] = ["–"] * pair.of_tags + cells
    caption = "F1 of tags and IoU of all others, in percent; a dash: not in the ground truth."
    rows = [*zip(*columns.values())] if pairs else []
    return Table([*columns], rows, ["class"], "Classes", caption)


def _changed_tags(pair: Pair) -> Iterator[Table]:
    """Yields a table of the classes whose tags differ, and one of the images."""
    classes, header = pair.a.classes, ["only in A", "only in B"]
    sets = {image.sample.id: [{*tags} for tags in image.tags] for image in pair.images}
    changes = {i: (a - b, b - a) for i, (a, b) in sets.items() if a != b}
    counts = [Counter(k for only in changes.values() for k in only[side]) for side in (0, 1)]
    rows = [[classes[k], *(str(n[k]) for n in counts)] for k in sorted({*counts[0], *counts[1]})]
    yield Table(["class", *header], rows, ["class"], "Tags", "The number of images.")
    rows = [[i, *(", ".join(classes[k] for k in sorted(s)) for s in changes[i])] for i in changes]
    caption = f"The first {_LISTED:,} of {len(rows):,} images." * (len(rows) > _LISTED)
    header = ["image", *header]
    yield Table(header, rows[:_LISTED], header, "Tags of images", caption)
