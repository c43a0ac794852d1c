"""What each method gains on average over all combinations with the others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from statistics import mean
from typing import NamedTuple

from pipeline.report.combinations import FIGURES, Combination
from pipeline.report.markdown import percent

_PARTS = {"tags": "mAP", "cams": "mIoU CAMs", "affinity": "mIoU CAMs", "masks": "mIoU masks"}
"""Part of a combination → the first figure that depends on it."""


class Averages(NamedTuple):
    """A table with a row for every method of every part."""

    words: Sequence[str]  # the columns that hold words, the first ones
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    title: str = "Each method, averaged over all others"
    caption: str = (
        "The rows above combine each method with the same others. A row here has the means over all"
        " combinations with one method; the last column is the highest figure of one of them."
    )


def average_over_others(
    rows: Sequence[Combination], choices: Sequence[Mapping[str, str]]
) -> Averages | None:
    """Returns the mean figures of every method over its combinations with all others.

    Args:
        rows: the combinations of a table.
        choices: the words of each by their columns.

    Returns:
        None unless the rows are a full product of at least two parts: only then is every method
        combined with the same others.
    """
    methods = {part: sorted({of_row[part] for of_row in choices}) for part in _PARTS}
    methods = {part: found for part, found in methods.items() if len(found) > 1}
    distinct = {tuple(of_row[part] for part in methods) for of_row in choices}
    if len(methods) < 2 or not len(rows) == len(distinct) == prod(map(len, methods.values())):
        return None
    columns = [name for name in FIGURES if all(row.values(name) for row in rows)]
    if not columns:
        return None
    last = columns[-1]
    figures = [{name: mean(row.values(name)) for name in columns} for row in rows]
    table = []
    for part, found in methods.items():
        first = [*FIGURES].index(_PARTS[part])
        of_part = []
        for method in found:
            of_method = [f for f, of_row in zip(figures, choices) if of_row[part] == method]
            means = {name: mean(f[name] for f in of_method) for name in columns}
            cells = [
                percent(means[name]) if [*FIGURES].index(name) >= first else "" for name in columns
            ]
            best = percent(max(f[last] for f in of_method))
            of_part.append((-means[last], [part, method, *cells, best]))
        table += [cells for _, cells in sorted(of_part)]
    words = ["part", "method"]
    return Averages(words, [*words, *columns, f"best {last}"], table)
