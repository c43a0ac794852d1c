"""The mean gain of each method over all combinations with the others."""

from collections.abc import Mapping, Sequence
from math import prod
from statistics import mean

from pipeline.engine.kinds import CAMS, figure_columns, kinds
from pipeline.report.combinations import Combination
from pipeline.report.markdown import Table, percent

_CAPTION = (
    "Above, every method is combined with the same others. Each row here averages all"
    " combinations that contain one method; the last column is the best of them."
)


def average_over_others(
    rows: Sequence[Combination], choices: Sequence[Mapping[str, str]]
) -> Table | None:
    """Returns the mean figures of every method over its combinations with all others.

    Args:
        rows: the combinations of a table.
        choices: the words of each by their columns, of which "settings" tells apart what is
            otherwise the same method.

    Returns:
        None unless the rows are a full product of at least two parts, and alike in all else: only
        then is every method combined with the same others. Given image labels are skipped.
    """
    kept = [(row, words) for row, words in zip(rows, choices) if not row.has_given_tags]
    order = [*figure_columns()]
    # Part of a combination → the first figure that depends on it.
    first_figures = {kind.group: next(iter(kind.figures)) for kind in kinds() if kind.group}
    first_figures["affinity"] = first_figures[CAMS.group]
    found = {name: {words[name] for _, words in kept} for name in choices[0]}
    varying = {name: values for name, values in found.items() if len(values) > 1}
    methods = {name: values for name, values in varying.items() if name in first_figures}
    distinct = {tuple(words[part] for part in methods) for _, words in kept}
    is_product = len(kept) == len(distinct) == prod(map(len, methods.values()))
    columns = [name for name in order if all(row.values(name) for row, _ in kept)]
    if varying.keys() - methods.keys() - {"commit"}:
        return None
    if len(methods) < 2 or not is_product or not columns:
        return None
    table = []
    for part, found in methods.items():
        first = order.index(first_figures[part])
        part_rows = []
        for method in found:
            same = [row for row, words in kept if words[part] == method]
            figures = {name: [mean(row.values(name)) for row in same] for name in columns}
            cells = [percent(mean(figures[n])) * (order.index(n) >= first) for n in columns]
            last = figures[columns[-1]]
            part_rows.append((-mean(last), [part, method, *cells, percent(max(last))]))
        table += [cells for _, cells in sorted(part_rows)]
    names, title = ["part", "method"], "Each method, averaged over all others"
    return Table([*names, *columns, f"best {columns[-1]}"], table, names, title, _CAPTION)
