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

_MAY_VARY = {*_PARTS, "commit"}


class Averages(NamedTuple):
    """A table with a row for every method of every part."""

    words: Sequence[str]  # the columns that hold words, the first ones
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    title: str = "Each method, averaged over all others"
    caption: str = (
        "Above, every method is combined with the same others. Each row here averages all"
        " combinations that contain one method; the last column is the best of them."
    )


def average_over_others(
    rows: Sequence[Combination], choices: Sequence[Mapping[str, str]]
) -> Averages | None:
    """Returns the mean figures of every method over its combinations with all others.

    Args:
        rows: the combinations of a table.
        choices: the words of each by their columns, of which "settings" tells apart what is
            otherwise the same method.

    Returns:
        None unless the rows are a full product of at least two parts, and alike in all else: only
        then is every method combined with the same others. Given image labels are left out.
    """
    kept = [(row, words) for row, words in zip(rows, choices) if not row.has_given_tags]
    methods = {part: sorted({words[part] for _, words in kept}) for part in _PARTS}
    methods = {part: found for part, found in methods.items() if len(found) > 1}
    distinct = {tuple(words[part] for part in methods) for _, words in kept}
    is_product = len(kept) == len(distinct) == prod(map(len, methods.values()))
    others = {tuple(v for n, v in words.items() if n not in _MAY_VARY) for _, words in kept}
    if len(methods) < 2 or not is_product or len(others) > 1:
        return None
    columns = [name for name in FIGURES if all(row.values(name) for row, _ in kept)]
    if not columns:
        return None
    last = columns[-1]
    figures = [{name: mean(row.values(name)) for name in columns} for row, _ in kept]
    table = []
    for part, found in methods.items():
        first = [*FIGURES].index(_PARTS[part])
        of_part = []
        for method in found:
            of_method = [f for f, (_, words) in zip(figures, kept) if words[part] == method]
            means = {name: mean(f[name] for f in of_method) for name in columns}
            cells = [
                percent(means[name]) if [*FIGURES].index(name) >= first else "" for name in columns
            ]
            best = percent(max(f[last] for f in of_method))
            of_part.append((-means[last], [part, method, *cells, best]))
        table += [cells for _, cells in sorted(of_part)]
    names = ["part", "method"]
    return Averages(names, [*names, *columns, f"best {last}"], table)
