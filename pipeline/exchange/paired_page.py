"""The page that compares two runs: one file, which needs no network."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from pipeline.engine.results import describe_ways
from pipeline.engine.sample import ImageReader, Sample
from pipeline.evaluation.bootstrap import class_figures
from pipeline.exchange.paired import Pair, points
from pipeline.files.images import limit_longest_side
from pipeline.files.label_images import BACKGROUND
from pipeline.report.page.gallery import Panel, difference_panel, label_panel
from pipeline.report.page.images import for_each_readable
from pipeline.report.page.page import load_template
from pipeline.report.page.painting import PHOTOGRAPH_QUALITY, drawing_colours, embed
from pipeline.report.page.settings import ReportSettings
from pipeline.report.tables.configurations import OPTIONAL, describe_value, last_part, varying
from pipeline.report.tables.grouping import grouped
from pipeline.report.tables.markdown import Table, percent

_SIDES = ("A", "B", "B − A")
_LISTED = 500  # images whose tags differ
_IN_TITLE = 3  # settings


def find_settings(pairs: Sequence[Pair]) -> list[list[str]]:
    """Returns each setting that differs, with its values in A and B.

    Those of every pair count: tags may differ in settings that masks are not made with.
    """
    sides = (
        {str(n): {pair.a.kind.stage: pair.both[side].settings} for n, pair in enumerate(pairs)}
        for side in (0, 1)
    )
    # With the stage, as on the command line.
    return [
        [".".join(name.split(".")[-2:]), *map(describe_value, values)]
        for name, values in varying(sides).items()
    ]


def describe_difference(settings: Sequence[Sequence[str]]) -> str:
    """Returns a title for what differs; "" if no setting does."""
    if settings and all(last_part(name) in OPTIONAL for name, *_ in settings):
        return "Before and after corrections"
    words = [f"{name}: {a} → {b}" for name, a, b in settings[:_IN_TITLE]]
    more = len(settings) - _IN_TITLE
    return ", ".join([*words, f"and {more} more settings"] if more > 0 else words)


def comparison_tables(pairs: Sequence[Pair], settings: Sequence[Sequence[str]]) -> list[Table]:
    """Returns the figures of two chains, and the settings that differ."""
    interval = (
        "In percent. Brackets hold the 95% interval of the difference by a paired bootstrap over"
        " the images; it does not cover other seeds."
    )
    header, words = ["figure", *_SIDES, "images", "split"], ["setting", *_SIDES[:2]]
    figures = [row for pair in pairs for row in pair.rows()]
    if not any(pair.known for pair in pairs):  # then neither run has a figure
        header, interval = ["figure", "share", "images", "split"], "In percent."
        figures = [[name, *others] for name, _, _, *others in figures]
    which = "Those that change a result, where A and B have other values."
    if not settings:
        which = "No setting that changes a result differs."
        if any(image.changed for pair in pairs for image in pair.images):
            which += " The results do: the runs were given something else, such as another list of"
            which += " tags, or the machine was another."
    machines = (describe_ways(*pair.both) for pair in pairs)
    which += "".join(f" In A and B, {text}." for text in filter(None, machines))
    return [
        Table(header, figures, ["figure", "split"], "Figures", interval),
        Table(words, settings, words, "Settings", which),
    ]


def comparison_page(
    title: str,
    facts: Mapping[str, object],
    pairs: Sequence[Pair],
    tables: Sequence[Table],
    reader: ImageReader,
    workers: int,
    problems: dict[str, str],
) -> str:
    """Returns the page, which shows images of the last pair of each split.

    The ``tables`` are those of :func:`comparison_tables`; ``workers`` threads read files;
    ``problems`` receives id → reason for images that cannot be read.
    """
    classes, tables = pairs[0].a.classes, [*tables]
    by_split = grouped(pairs, lambda pair: pair.a.split)
    for split, found in by_split.items():
        where = f", {split}" if len(by_split) > 1 else ""
        more = [_classes([pair for pair in found if pair.known], classes)]
        more += [table for pair in found if pair.of_tags for table in _changed_tags(pair)]
        tables += [replace(table, title=table.title + where) for table in more]
    return load_template("compare.html", "tables.js").render(
        title=title,
        facts=facts,
        tables=[table for table in tables if table.rows],
        classes=classes,
        palette=drawing_colours(pairs[0].a.palette),
        sides=_SIDES,
        splits=[_images(found, reader, workers, problems) for found in by_split.values()],
    )


def _images(
    pairs: Sequence[Pair], reader: ImageReader, workers: int, problems: dict[str, str]
) -> dict[str, Any]:
    """Returns the images of a split that differ most in its last pair, and their tags."""
    last = pairs[-1]
    samples = {image.sample.id: image.sample for image in last.images}
    between = f"{last.a.kind.layer} of A", f"{last.a.kind.layer} of B"

    def build(sample: Sample) -> dict[str, Any]:
        image, _ = reader(sample)
        image = limit_longest_side(image, ReportSettings().longest_side)
        size, panels = image.shape[:2], [Panel("photograph", "image", "", "")]
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

    return {
        "last": last,
        "groups": [(title, chosen, cards(chosen)) for title, chosen in last.ranked().items()],
        "tags": {i.sample.id: i.tags for pair in pairs if pair.of_tags for i in pair.images},
    }


def _classes(pairs: Sequence[Pair], classes: Sequence[str]) -> Table:
    """Returns IoU or F1 of each class."""
    columns = {"class": [BACKGROUND, *classes]}
    for pair in pairs:
        a, b = class_figures(pair.tallies.sum(0), pair.of_tags)
        for side, values, show in zip(_SIDES, (a, b, b - a), (percent, percent, points)):
            cells = ["–" if np.isnan(value) else show(value) for value in values]
            # Tags have no background.
            columns[f"{pair.a.kind.name} {side}"] = ["–", *cells] if pair.of_tags else cells
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
    caption = f"The first {_LISTED:,} of {len(rows):,} images." if len(rows) > _LISTED else ""
    header = ["image", *header]
    yield Table(header, rows[:_LISTED], header, "Tags of images", caption)
