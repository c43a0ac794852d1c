"""The leaderboard: combinations of methods beside each other, on the same images."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from math import prod
from statistics import mean

from pipeline.engine.kinds import CAMS, figure_columns, kinds, measured_kinds
from pipeline.errors import UserError
from pipeline.report.tables.combinations import Combination, combinations, merge_splits
from pipeline.report.tables.configurations import distinguish
from pipeline.report.tables.grouping import Place, by_place, grouped, result_name
from pipeline.report.tables.markdown import Notes, Table, highest, percent
from pipeline.report.tables.runs import MeasuredRun

_INTRODUCTION = (
    "Figures are in percent. A table compares only figures of the same photographs, classes and"
    " ground truth. Rows are sorted by the last stage that was measured, and the best of each"
    " column is in bold. mIoU is the mean over the classes of the ground truth."
)
_MEANS_NOTE = (
    "Each figure is the mean over the splits ± the standard deviation; with several seeds, over all"
    " splits and seeds."
)
_AVERAGES_CAPTION = (
    "Above, every method is combined with the same others. Each row here averages all"
    " combinations that contain one method; the last column is the best of them."
)
_GIVEN_TAGS_NOTE = "its tags are the ground truth's, so it is an upper bound, not a competitor"
_DENSE_NOTE = "label maps with the image size, templates and windows of their authors, without tags"


@dataclass(frozen=True)
class Board(Table):
    """One table of the leaderboard."""

    split: str = ""  # the split, or several
    keys: Sequence[str] = ()  # of the results at the end of each row
    averages: Table | None = None  # a second table, where the rows are a full product


def write_leaderboard(runs: Sequence[MeasuredRun], splits: Sequence[str] = ()) -> str:
    """Returns the tables of :func:`collect_boards` as Markdown; a UserError if there are none."""
    boards = collect_boards(runs, splits)
    if splits and not boards:
        raise UserError(
            f"no combination was measured on each of the splits {', '.join(splits)}: run them with"
            f" dataset.split=[{','.join(splits)}]"
        )
    if not boards:
        others = " but networks that were trained on the ground truth" if runs else ""
        raise UserError(f"nothing was measured{others}: run stage=evaluate first")
    introduction = f"{_INTRODUCTION} {_MEANS_NOTE}" if splits else _INTRODUCTION
    parts = ["# Leaderboard\n", f"{introduction}\n"]
    for board in boards:
        parts.append(board.markdown())
        if board.averages:
            parts.append(board.averages.markdown("###"))
    # Results that give way to later ones of the same images and the same key.
    same = grouped(runs, lambda r: (*result_name(r), r.split, r.figures["image_set"]))
    results = ({run.figures.get("results") for run in each} for each in same.values())
    if number := sum(len(each) - 1 for each in results):
        parts.append(
            f"Left out are {number} result{'s' if number > 1 else ''} for which a later one has the"
            " same key and other results, such as that of another file of the same name: give the"
            " files, or their folders, other names.\n"
        )
    if number := sum("supervised" in run.figures for run in runs):
        parts.append(
            f"Left out are {number} result{'s' if number > 1 else ''} of networks that were trained"
            " on the ground truth.\n"
        )
    return "\n".join(parts)


def collect_boards(runs: Sequence[MeasuredRun], splits: Sequence[str] = ()) -> list[Board]:
    """Returns a table for each data set, split and set of images; runs are the oldest first.

    Of ``splits`` it is a table of the means over them for each data set, of what all have.
    """
    runs = [run for run in runs if "supervised" not in run.figures]
    rows_by_place = {place: [*combinations(same)] for place, same in by_place(runs).items()}
    if not splits:
        return [_board(place, rows) for place, rows in rows_by_place.items()]
    boards = []
    for alike in grouped(rows_by_place, lambda p: (p.dataset, p.data, p.classes)).values():
        # A split may have been measured on several sets of its images.
        for places in product(*([p for p in alike if p.split == split] for split in splits)):
            if rows := [*merge_splits([rows_by_place[place] for place in places])]:
                place = places[0]._replace(
                    split=", ".join(place.split for place in places),
                    images=sum(place.images for place in places),
                    image_set=" ".join(place.image_set for place in places),
                )
                boards.append(_board(place, rows))
    return boards


def _differing_settings(combinations: Sequence[Combination]) -> list[str]:
    """Returns for each row the settings in which its methods differ from themselves elsewhere."""
    words: list[list[str]] = [[] for _ in combinations]
    for stage, kind in measured_kinds().items():
        having = [i for i, row in enumerate(combinations) if stage in row.settings]
        by_method = grouped(having, lambda i, kind=kind: combinations[i].choices[kind.method])
        for rows in by_method.values():
            texts = distinguish([combinations[i].settings_of(kind) for i in rows])
            for i, text in zip(rows, texts):
                if text:
                    words[i].append(f"{kind.method} {text}")
    return ["; ".join(parts) for parts in words]


def _board(place: Place, rows: Sequence[Combination]) -> Board:
    """Returns the table of the combinations of one place, the best at the end of the way first."""
    choices = [
        {**row.choices, "settings": settings}
        for row, settings in zip(rows, _differing_settings(rows))
    ]
    averages = average_over_others(rows, choices)
    texts = [tuple(choice.values()) for choice in choices]
    for row, choice, text in zip(rows, choices, texts):
        # Nothing that has a name tells them apart, such as the weights of two files.
        choice["key"] = row.last.key if texts.count(text) > 1 else ""
    order = sorted(range(len(rows)), key=lambda i: (rows[i].rank(), texts[i]))
    rows, choices = [rows[i] for i in order], [choices[i] for i in order]
    found = {name: {choice[name] for choice in choices} for name in choices[0]}
    # The caption says once what all rows have in common, except methods.
    methods = {kind.method for kind in measured_kinds().values()}
    alike = [name for name in found if name not in methods and len(found[name]) == 1]
    shared = {name: choices[0][name] for name in alike}
    words = [name for name in found if any(found[name]) and name not in shared]
    columns = [name for name in figure_columns() if any(row.values(name) for row in rows)]
    notes = Notes()
    # Notes are numbered along the rows.
    cells = [[row.cell(name, notes) for name in columns] for row in rows]
    for row, choice in zip(rows, choices):
        choice["tags"] += notes.mark(_GIVEN_TAGS_NOTE) if row.has_given_tags else ""
        choice["masks"] += notes.mark(_DENSE_NOTE) if choice["masks"] == "dense" else ""
    return Board(
        title=f"{place.dataset} {place.split}, {place.images:,} images",
        split=place.split,
        caption=_caption(place, shared),
        words=words,
        header=[*words, *columns],
        rows=[[choice[n] for n in words] + figures for choice, figures in zip(choices, cells)],
        best=_best(rows, columns, len(words)),
        keys=[row.last.key for row in rows],
        notes=notes.paragraphs(),
        averages=averages,
    )


def _best(rows: Sequence[Combination], columns: Sequence[str], first: int) -> set[tuple[int, int]]:
    """Returns row and column of the best figures; the columns of figures begin at ``first``.

    Methods do not compete with tags that are given or corrected. Of equal figures, none is best.
    """
    best = set()
    competing = {
        i: row
        for i, row in enumerate(rows)
        if not (row.has_given_tags or "corrections" in row.last.figures)
    }
    for column, name in enumerate(columns, first):
        figures = {i: values for i, row in competing.items() if (values := row.values(name))}
        printed = {i: percent(mean(values)) for i, values in figures.items()}
        best |= {(i, column) for i in highest(printed)}
    return best


def _caption(place: Place, shared: Mapping[str, str]) -> str:
    """Returns which images, ground truth and classes a table is of, and what its rows share."""
    sets = " ".join(each[:8] for each in place.image_set.split())
    truths = " and ".join(each[:8] for each in place.ground_truth.split())
    parts = [
        f"split {place.split}",
        f"{place.images:,} images ({sets})",
        f"ground truth {truths}" if truths else "",
        f"{len(place.classes)} classes" if place.classes else "",
        place.data,
        *(f"{name} {value}" for name, value in shared.items() if value),
    ]
    return ", ".join(filter(None, parts)) + "."


def average_over_others(
    rows: Sequence[Combination], choices: Sequence[Mapping[str, str]]
) -> Table | None:
    """Returns the mean figures of every method over its combinations with all others.

    ``choices`` are the words of each row by their columns, of which "settings" tells apart what is
    otherwise the same method. Returns none unless the rows are a full product of at least two
    parts, and alike in all else: only then is every method combined with the same others. Given
    image labels are skipped.
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
    is_alike = varying.keys() <= methods.keys() | {"commit"}
    columns = [name for name in order if all(row.values(name) for row, _ in kept)]
    if len(methods) < 2 or not (is_product and is_alike and columns):
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
    return Table([*names, *columns, f"best {columns[-1]}"], table, names, title, _AVERAGES_CAPTION)
