"""The leaderboard: combinations of methods beside each other, on the same images."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import product
from statistics import mean
from typing import Any, NamedTuple

from pipeline.errors import UserError
from pipeline.files.label_images import BACKGROUND
from pipeline.report.averages import Averages, average_over_others
from pipeline.report.combinations import (
    FIGURES,
    METHODS,
    Combination,
    combinations,
    merge_splits,
)
from pipeline.report.configurations import distinguish
from pipeline.report.markdown import Notes, padded_table, percent
from pipeline.report.runs import Run

_INTRODUCTION = (
    "Figures are in percent. A table compares only figures of the same photographs, classes and"
    " ground truth. Rows are sorted by the last stage that was measured, and the best of each"
    " column is in bold. mIoU is the mean over the classes of the ground truth."
)
_OF_MEANS = (
    "Each figure is the mean over the splits ± the standard deviation; with several seeds, over all"
    " splits and seeds."
)
_OF_GIVEN_TAGS = "its tags are the ground truth's, so it is an upper bound, not a competitor"
_OF_DENSE = "label maps with the image size, templates and windows of their authors, without tags"


class _Place(NamedTuple):
    """What the runs of a table share."""

    dataset: str
    split: str
    data: str  # the convention of the ground truth
    classes: tuple[str, ...]
    images: int
    image_set: str
    ground_truth: str = ""  # where the images have several: that of tags, and that of pixels


class Board(NamedTuple):
    """One table of the leaderboard."""

    title: str
    split: str
    caption: str
    words: Collection[str]  # the columns that hold words, the first ones
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    best: Collection[tuple[int, int]]  # row and column of the cells in bold
    keys: Sequence[str]  # of the results at the end of each row
    notes: Sequence[str]  # paragraphs below it
    averages: Averages | None  # a second table, where the rows are a full product


def write_leaderboard(runs: Sequence[Run], splits: Sequence[str] = ()) -> str:
    """Returns the leaderboard as Markdown.

    Args:
        runs: what was measured, the oldest first.
        splits: of which a table has the mean and the standard deviation; none for each apart.

    Raises:
        UserError: nothing was measured of which the images are known, or not on these splits.
    """
    unknown = _unknown(runs)
    boards = collect_means(runs, splits) if splits else collect_boards(runs)
    if splits and not boards:
        raise UserError(
            f"no combination was measured on each of the splits {', '.join(splits)}: run them with"
            f" dataset.split=[{','.join(splits)}]"
        )
    if not boards:
        why = f"; {unknown}" if unknown else ""
        raise UserError(f"nothing was measured: run stage=evaluate first{why}")
    introduction = " ".join([_INTRODUCTION] + [_OF_MEANS] * bool(splits))
    parts = ["# Leaderboard\n", f"{introduction}\n"]
    for board in boards:
        rows = [
            [f"**{cell}**" if (i, j) in board.best else cell for j, cell in enumerate(row)]
            for i, row in enumerate(board.rows)
        ]
        parts += [f"## {board.title}\n", f"{board.caption}\n"]
        parts.append(padded_table(board.header, rows, board.words))
        parts += [f"{note}\n" for note in board.notes]
        if averages := board.averages:
            parts += [f"### {averages.title}\n", f"{averages.caption}\n"]
            parts.append(padded_table(averages.header, averages.rows, averages.words))
    return "\n".join(parts + [f"Left out: {unknown}.\n"] * bool(unknown))


def collect_boards(runs: Sequence[Run]) -> list[Board]:
    """Returns a table for each data set, split and set of images; runs are the oldest first."""
    return [_board(place, rows) for place, rows in _rows_by_place(runs).items()]


def collect_means(runs: Sequence[Run], splits: Sequence[str]) -> list[Board]:
    """Returns a table of the means over splits for each data set, of what all of them have."""
    groups: dict[tuple, dict[str, list[tuple[_Place, list[Combination]]]]] = {}
    for place, rows in _rows_by_place(runs).items():
        common = place.dataset, place.data, place.classes
        groups.setdefault(common, {}).setdefault(place.split, []).append((place, rows))
    boards = []
    for by_split in groups.values():
        # A split may have been measured on several sets of its images.
        for choice in product(*(by_split.get(split, []) for split in splits)):
            places, of_splits = zip(*choice)
            if rows := [*merge_splits(of_splits)]:
                boards.append(_board(_join(places), rows))
    return boards


def _rows_by_place(runs: Sequence[Run]) -> dict[_Place, list[Combination]]:
    """Returns the rows of every data set, split and set of images, in the order of the tables."""
    groups: dict[_Place, list[Run]] = {}
    for place, of_place in _runs_by_place(runs):
        # What two folders hold, or two experiments share, counts once: the latest of them.
        latest: dict[tuple[str, str], Run] = {}
        for run in reversed(of_place):
            latest.setdefault((run.stage, run.key), run)
        groups[place] = [*latest.values()][::-1]
    ordered = sorted(groups, key=lambda p: (p.dataset, p.split, p.data, -p.images, p))
    return {place: [*combinations(groups[place])] for place in ordered}


def _runs_by_place(runs: Sequence[Run]) -> Iterator[tuple[_Place, list[Run]]]:
    """Yields the runs on the same images, apart where the ground truth is another one."""
    groups: dict[_Place, list[Run]] = {}
    for run in runs:
        if run.image_set and run.ground_truth:
            groups.setdefault(_place(run), []).append(run)
    for place, of_place in groups.items():
        # Tags are measured against labels, and the other stages against masks.
        truths = [
            [*dict.fromkeys(r.ground_truth for r in of_place if (r.stage == "tags") == of_tags)]
            for of_tags in (True, False)
        ]
        for pair in product(*(of_kind or [""] for of_kind in truths)):
            several = any(len(of_kind) > 1 for of_kind in truths)
            of_pair = place._replace(ground_truth=" ".join(pair)) if several else place
            yield of_pair, [r for r in of_place if r.ground_truth == pair[r.stage != "tags"]]


def _join(places: Sequence[_Place]) -> _Place:
    """Returns the place of a mean over several."""
    splits = ", ".join(place.split for place in places)
    sets = " ".join(place.image_set for place in places)
    return places[0]._replace(split=splits, images=sum(p.images for p in places), image_set=sets)


def _place(run: Run) -> _Place:
    classes = tuple(name for name in run.figures.get("per_class", {}) if name != BACKGROUND)
    about = run.about
    place = about.get("dataset", ""), run.split, about.get("data", ""), classes
    return _Place(*place, run.images, run.image_set)


def _unknown(runs: Sequence[Run]) -> str:
    """Returns a phrase that names the runs whose images or ground truth were not recorded."""
    places = sorted({r.dataset_split for r in runs if not (r.image_set and r.ground_truth)})
    if not places:
        return ""
    return (
        f"figures of {', '.join(places)} whose images or ground truth were not recorded:"
        " run stage=evaluate again"
    )


def _differing_settings(combinations: Sequence[Combination]) -> list[str]:
    """Returns for each row the settings in which its methods differ from themselves elsewhere."""
    words: list[list[str]] = [[] for _ in combinations]
    for column, stage in METHODS.items():
        rows: dict[str, dict[int, dict[str, Any]]] = {}
        for i, row in enumerate(combinations):
            if stage in row.settings:
                rows.setdefault(row.choices[column], {})[i] = row.own_settings(stage)
        for of_method in rows.values():
            texts = distinguish([*of_method.values()])
            for i, text in zip(of_method, texts):
                words[i] += [f"{column} {text}"] * bool(text)
    return ["; ".join(of_row) for of_row in words]


def _board(place: _Place, rows: Sequence[Combination]) -> Board:
    choices = [
        {**row.choices, "settings": settings}
        for row, settings in zip(rows, _differing_settings(rows))
    ]
    averages = average_over_others(rows, choices)
    words = [tuple(of_row.values()) for of_row in choices]
    for row, of_row, own in zip(rows, choices, words):
        # Nothing that has a name tells them apart, such as the weights of two files.
        of_row["key"] = row.last.key if words.count(own) > 1 else ""
    order = sorted(range(len(rows)), key=lambda i: (rows[i].rank(), words[i]))
    rows, choices = [rows[i] for i in order], [choices[i] for i in order]
    shared = {
        name: value
        for name, value in choices[0].items()
        if name not in METHODS and all(of_row[name] == value for of_row in choices)
    }
    words = [
        name
        for name in choices[0]
        if name not in shared and any(of_row[name] for of_row in choices)
    ]
    columns = [name for name in FIGURES if any(row.values(name) for row in rows)]
    notes = Notes()
    # Notes are numbered along the rows.
    cells = [[row.cell(name, notes) for name in columns] for row in rows]
    for row, of_row in zip(rows, choices):
        of_row["tags"] += notes.mark(_OF_GIVEN_TAGS) if row.has_given_tags else ""
        of_row["masks"] += notes.mark(_OF_DENSE) if of_row["masks"] == "dense" else ""
    return Board(
        title=f"{place.dataset} {place.split}, {place.images:,} images",
        split=place.split,
        caption=_caption(place, shared),
        words=words,
        header=[*words, *columns],
        rows=[[of_row[n] for n in words] + of_cells for of_row, of_cells in zip(choices, cells)],
        best={(i, len(words) + j) for j, name in enumerate(columns) for i in _best(rows, name)},
        keys=[row.last.key for row in rows],
        notes=[f"{mark} {note}" for note, mark in notes.items()],
        averages=averages,
    )


def _best(rows: Sequence[Combination], column: str) -> list[int]:
    """Returns the rows of the highest figure as it is printed; none where all are alike."""
    found = {i: r.values(column) for i, r in enumerate(rows) if not r.has_given_tags}
    means = {i: percent(mean(values)) for i, values in found.items() if values}
    if len(set(means.values())) < 2:
        return []
    best = max(means.values(), key=float)
    return [i for i, text in means.items() if text == best]


def _caption(place: _Place, shared: Mapping[str, str]) -> str:
    """Returns a sentence of what all rows share."""
    count = f"{len(place.classes)} classes" if place.classes else ""
    sets = " ".join(each[:8] for each in place.image_set.split())
    images = f"{place.images:,} images ({sets})"
    truths = " and ".join(each[:8] for each in place.ground_truth.split())
    truth = f"ground truth {truths}" if truths else ""
    same = [f"{name} {value}" for name, value in shared.items() if value]
    parts = [f"split {place.split}", images, truth, count, place.data, *same]
    return ", ".join(filter(None, parts)) + "."
