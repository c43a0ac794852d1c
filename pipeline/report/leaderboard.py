"""The leaderboard: combinations of methods beside each other, on the same images."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from statistics import mean

from pipeline.engine.kinds import figure_columns, measured_kinds
from pipeline.errors import UserError
from pipeline.report.averages import average_over_others
from pipeline.report.combinations import Combination, combinations, merge_splits
from pipeline.report.configurations import distinguish
from pipeline.report.grouping import Place, by_place, grouped
from pipeline.report.markdown import Notes, Table, highest, percent
from pipeline.report.runs import MeasuredRun

_INTRODUCTION = (
    "Figures are in percent. A table compares only figures of the same photographs, classes and"
    " ground truth. Rows are sorted by the last stage that was measured, and the best of each"
    " column is in bold. mIoU is the mean over the classes of the ground truth."
)
_MEANS_NOTE = (
    "Each figure is the mean over the splits ± the standard deviation; with several seeds, over all"
    " splits and seeds."
)
_GIVEN_TAGS_NOTE = "its tags are the ground truth's, so it is an upper bound, not a competitor"
_DENSE_NOTE = "label maps with the image size, templates and windows of their authors, without tags"


@dataclass(frozen=True)
class Board(Table):
    """One table of the leaderboard.

    Attributes:
        split: the split, or several.
        keys: of the results at the end of each row.
        averages: a second table, where the rows are a full product.
    """

    split: str = ""
    keys: Sequence[str] = ()
    averages: Table | None = None


def write_leaderboard(runs: Sequence[MeasuredRun], splits: Sequence[str] = ()) -> str:
    """Returns the leaderboard as Markdown.

    Args:
        runs: what was measured, the oldest first.
        splits: of which a table has the mean and the standard deviation; none for each apart.

    Raises:
        UserError: nothing was measured, or not on these splits.
    """
    boards = collect_boards(runs, splits)
    if splits and not boards:
        raise UserError(
            f"no combination was measured on each of the splits {', '.join(splits)}: run them with"
            f" dataset.split=[{','.join(splits)}]"
        )
    if not boards:
        raise UserError("nothing was measured: run stage=evaluate first")
    introduction = " ".join([_INTRODUCTION] + [_MEANS_NOTE] * bool(splits))
    parts = ["# Leaderboard\n", f"{introduction}\n"]
    for board in boards:
        parts.append(board.markdown())
        if board.averages:
            parts.append(board.averages.markdown("###"))
    return "\n".join(parts)


def collect_boards(runs: Sequence[MeasuredRun], splits: Sequence[str] = ()) -> list[Board]:
    """Returns a table for each data set, split and set of images; runs are the oldest first.

    Of several ``splits`` it is a table of the means over them for each data set, of what all have.
    """
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
            texts = distinguish([combinations[i].own_settings(kind) for i in rows])
            for i, text in zip(rows, texts):
                words[i] += [f"{kind.method} {text}"] * bool(text)
    return ["; ".join(parts) for parts in words]


def _board(place: Place, rows: Sequence[Combination]) -> Board:
    choices = [
        {**row.choices, "settings": settings}
        for row, settings in zip(rows, _differing_settings(rows))
    ]
    averages = average_over_others(rows, choices)
    words = [tuple(choice.values()) for choice in choices]
    for row, choice, text in zip(rows, choices, words):
        # Nothing that has a name tells them apart, such as the weights of two files.
        choice["key"] = row.last.key if words.count(text) > 1 else ""
    order = sorted(range(len(rows)), key=lambda i: (rows[i].rank(), words[i]))
    rows, choices = [rows[i] for i in order], [choices[i] for i in order]
    methods = {kind.method for kind in measured_kinds().values()}
    shared = {
        name: value
        for name, value in choices[0].items()
        if name not in methods and all(choice[name] == value for choice in choices)
    }
    words = [
        name
        for name in choices[0]
        if name not in shared and any(choice[name] for choice in choices)
    ]
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
        best={(i, len(words) + j) for j, name in enumerate(columns) for i in _best(rows, name)},
        keys=[row.last.key for row in rows],
        notes=notes.paragraphs(),
        averages=averages,
    )


def _best(rows: Sequence[Combination], column: str) -> list[int]:
    """Returns the rows of the highest figure as it is printed; none where all are alike."""
    by_method = (r for r in enumerate(rows) if not (r[1].has_given_tags or r[1].has_corrected_tags))
    found = {i: row.values(column) for i, row in by_method}
    return highest({i: percent(mean(values)) for i, values in found.items() if values})


def _caption(place: Place, shared: Mapping[str, str]) -> str:
    """Returns a sentence of what all rows share."""
    count = f"{len(place.classes)} classes" if place.classes else ""
    sets = " ".join(each[:8] for each in place.image_set.split())
    images = f"{place.images:,} images ({sets})"
    truths = " and ".join(each[:8] for each in place.ground_truth.split())
    truth = f"ground truth {truths}" if truths else ""
    same = [f"{name} {value}" for name, value in shared.items() if value]
    parts = [f"split {place.split}", images, truth, count, place.data, *same]
    return ", ".join(filter(None, parts)) + "."
