"""The leaderboard: combinations of methods beside each other, on the same images."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import cached_property
from statistics import mean
from typing import Any, NamedTuple

from pipeline.clip.quirks import Quirks
from pipeline.errors import UserError
from pipeline.files.atomic import canonical_json
from pipeline.files.label_images import BACKGROUND
from pipeline.report.configurations import distinguish
from pipeline.report.markdown import Notes, padded_table, percent, percent_of_several
from pipeline.report.remarks import map_notes
from pipeline.report.runs import STAGES, Run, without_seed

_FIGURES = {
    "mAP": ("tags", "map"),
    "F1": ("tags", "f1"),
    "mIoU CAMs": ("cams", "miou"),
    "mIoU masks": ("masks", "miou"),
    "mIoU segmenter": ("predictions", "miou"),
}
"""Column → stage and metric; a later stage decides the order of the rows before an earlier one."""

_METHODS = {"tags": "tags", "cams": "cams", "masks": "masks", "network": "predictions"}
"""Column of a method → its stage."""

_GIVEN = "ground_truth"
"""The choice of ``tags=`` that is told the classes of every image."""

_IN_COLUMNS = {"affinity", "clip", *vars(Quirks())}
"""Settings of a stage that a column of their own shows."""

_INTRODUCTION = (
    "Figures are in percent. They stand in one table only where they are of the same photographs,"
    " classes and ground truth. The last stage that was measured orders the rows, and the best of"
    " each column is in bold. mIoU is the mean over the classes of the ground truth."
)
_OF_GIVEN_TAGS = "its tags are the ground truth's, so it is beside the others, not among them"


class _Place(NamedTuple):
    """What the runs of a table share."""

    dataset: str
    split: str
    data: str  # the convention of the ground truth
    classes: tuple[str, ...]
    images: int
    image_set: str


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


class _Combination:
    """A row: the runs of every stage that led to the last one, several where seeds differ."""

    def __init__(self, chains: Sequence[Mapping[str, Run]]):
        self.last = next(iter(chains[-1].values()))
        self.runs: dict[str, list[Run]] = {}
        for stage in dict.fromkeys(stage for chain in chains for stage in chain):
            distinct = {chain[stage].key: chain[stage] for chain in chains if stage in chain}
            self.runs[stage] = list(distinct.values())
        self.settings = self.last.chain

    @cached_property
    def choices(self) -> dict[str, str]:
        """Returns the words of the row by their columns, "" where there are none."""
        about, settings = self.last.about, self.settings
        # Masks that need no CAMs may name the dense method that they read out (masks=dense).
        masks, cams = settings.get("masks", {}), settings.get("cams", {})
        commits = [r.about.get("commit", "") for of in self.runs.values() for r in of][::-1]
        return {
            "tags": about.get("tags", ""),
            "cams": about.get("cams") or str(cams.get("method", "")),
            "affinity": _affinity(cams) if about.get("cams") else "",
            # The CRF without its constants is the argmax of the CAMs (masks=argmax).
            "masks": "argmax" if masks.get("crf", "") is None else about.get("masks", ""),
            "network": about.get("segmenter", "") if self.last.stage == "predictions" else "",
            "round": about.get("round", ""),
            "CLIP": self.last.choices.backbone,
            "compat": about.get("compat", ""),
            "precision": about.get("precision", ""),
            "commit": " / ".join(dict.fromkeys(filter(None, commits))),
        }

    @property
    def is_told_tags(self) -> bool:
        """Whether image labels are given: their figures would be 100, and help all others."""
        return self.choices["tags"] == _GIVEN

    def own_settings(self, stage: str) -> dict[str, Any]:
        """Returns the settings of one stage, without those of the stages before it."""
        left_out = _IN_COLUMNS.union(STAGES)
        found = {k: v for k, v in self.settings.get(stage, {}).items() if k not in left_out}
        if stage == "predictions":
            segmenter = self.settings.get("segmenter", {})
            found["segmenter"] = {k: v for k, v in segmenter.items() if k not in left_out}
        return found

    def values(self, column: str) -> list[float]:
        """Returns the figures of all seeds, as far as they were measured."""
        stage, metric = _FIGURES[column]
        if stage == "tags" and self.is_told_tags:
            return []
        values = [run.value(metric) for run in self.runs.get(stage, ())]
        return [value for value in values if value is not None]

    def cell(self, column: str, notes: Notes) -> str:
        """Returns a figure in percent with the marks of its notes."""
        stage, metric = _FIGURES[column]
        if not (values := self.values(column)):
            return ""
        run = self.runs[stage][0]
        remarks = map_notes(run.figures) if metric == "map" else run.help_by_ground_truth()
        marks = "".join(map(notes.mark, remarks))
        seeds = f" ({len(values)} seeds)" * (len(values) > 1)
        return f"{percent_of_several(values)}{marks}{seeds}"

    def rank(self) -> list[tuple[bool, float]]:
        """Returns what orders rows: the last stage first, higher figures first."""
        found = [self.values(column) for column in reversed(_FIGURES)]
        return [(not values, -mean(values) if values else 0.0) for values in found]


def write_leaderboard(runs: Sequence[Run]) -> str:
    """Returns the leaderboard as Markdown.

    Raises:
        UserError: nothing was measured of which the images are known.
    """
    boards, unknown = collect_boards(runs), _unknown(runs)
    if not boards:
        why = f"; {unknown}" if unknown else ""
        raise UserError(f"nothing was measured: run stage=evaluate first{why}")
    parts = ["# Leaderboard\n", f"{_INTRODUCTION}\n"]
    for board in boards:
        rows = [
            [f"**{cell}**" if (i, j) in board.best else cell for j, cell in enumerate(row)]
            for i, row in enumerate(board.rows)
        ]
        parts += [f"## {board.title}\n", f"{board.caption}\n"]
        parts.append(padded_table(board.header, rows, board.words))
        parts += [f"{note}\n" for note in board.notes]
    return "\n".join(parts + [f"Left out: {unknown}.\n"] * bool(unknown))


def collect_boards(runs: Sequence[Run]) -> list[Board]:
    """Returns a table for each data set, split and set of images; runs are the oldest first."""
    groups: dict[_Place, dict[tuple[str, str], Run]] = {}
    for run in runs:
        if run.image_set:
            # What two folders hold, or two experiments share, counts once.
            of_place = groups.setdefault(_place(run), {})
            of_place.pop((run.stage, run.key), None)
            of_place[run.stage, run.key] = run
    ordered = sorted(groups, key=lambda p: (p.dataset, p.split, p.data, -p.images, p))
    return [_board(place, [*groups[place].values()]) for place in ordered]


def _place(run: Run) -> _Place:
    classes = tuple(name for name in run.figures.get("per_class", {}) if name != BACKGROUND)
    about = run.about
    place = about.get("dataset", ""), run.split, about.get("data", ""), classes
    return _Place(*place, run.images, run.image_set)


def _unknown(runs: Sequence[Run]) -> str:
    """Returns a sentence on the runs of which it is not known what images they measured."""
    places = sorted({run.dataset_split for run in runs if not run.image_set})
    if not places:
        return ""
    return (
        f"figures of {', '.join(places)} of which nothing records the images: run stage=evaluate"
        " again"
    )


def _combinations(runs: Sequence[Run]) -> Iterator[_Combination]:
    """Yields the runs that no later one is made from, each with those that it is made from."""
    by_settings = {(run.stage, canonical_json(run.configuration)): run for run in runs}
    leaves = dict.fromkeys(run.key for run in runs)
    chains = []
    for run in runs:
        steps = ((stage, canonical_json(settings)) for stage, settings in run.chain.items())
        chain = {step[0]: by_settings[step] for step in steps if step in by_settings}
        for earlier in [*chain.values()][1:]:
            leaves.pop(earlier.key, None)
        chains.append({run.stage: run, **chain})
    same: dict[str, list[Mapping[str, Run]]] = {}
    for run, chain in zip(runs, chains):
        if run.key in leaves:
            same.setdefault(f"{run.stage} {without_seed(run)}", []).append(chain)
    yield from map(_Combination, same.values())


def _affinity(cams: Mapping[str, Any]) -> str:
    # CLIP-ES's own had no such setting once, and always refined.
    return {True: "yes", False: "no"}.get(cams.get("affinity", "affinity_blocks" in cams), "")


def _differing_settings(combinations: Sequence[_Combination]) -> list[str]:
    """Returns for each row the settings in which its methods differ from themselves elsewhere."""
    words: list[list[str]] = [[] for _ in combinations]
    for column, stage in _METHODS.items():
        rows: dict[str, dict[int, dict[str, Any]]] = {}
        for i, row in enumerate(combinations):
            if stage in row.settings:
                rows.setdefault(row.choices[column], {})[i] = row.own_settings(stage)
        for of_method in rows.values():
            texts = distinguish([*of_method.values()])
            for i, text in zip(of_method, texts):
                words[i] += [f"{column} {text}"] * bool(text)
    return ["; ".join(of_row) for of_row in words]


def _board(place: _Place, runs: Sequence[Run]) -> Board:
    rows = [*_combinations(runs)]
    choices = [
        {**row.choices, "settings": settings}
        for row, settings in zip(rows, _differing_settings(rows))
    ]
    told = [tuple(of_row.values()) for of_row in choices]
    for row, of_row, words in zip(rows, choices, told):
        # Nothing that has a name tells them apart, such as the weights of two files.
        of_row["key"] = row.last.key if told.count(words) > 1 else ""
    order = sorted(range(len(rows)), key=lambda i: (rows[i].rank(), told[i]))
    rows, choices = [rows[i] for i in order], [choices[i] for i in order]
    shared = {
        name: value
        for name, value in choices[0].items()
        if name not in _METHODS and all(of_row[name] == value for of_row in choices)
    }
    words = [
        name
        for name in choices[0]
        if name not in shared and any(of_row[name] for of_row in choices)
    ]
    columns = [name for name in _FIGURES if any(row.values(name) for row in rows)]
    notes = Notes()
    # Notes are numbered along the rows.
    cells = [[row.cell(name, notes) for name in columns] for row in rows]
    for row, of_row in zip(rows, choices):
        of_row["tags"] += notes.mark(_OF_GIVEN_TAGS) if row.is_told_tags else ""
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
    )


def _best(rows: Sequence[_Combination], column: str) -> list[int]:
    """Returns the rows of the highest figure as it is printed; none where all are alike."""
    found = {i: r.values(column) for i, r in enumerate(rows) if not r.is_told_tags}
    means = {i: percent(mean(values)) for i, values in found.items() if values}
    if len(set(means.values())) < 2:
        return []
    best = max(means.values(), key=float)
    return [i for i, text in means.items() if text == best]


def _caption(place: _Place, shared: Mapping[str, str]) -> str:
    """Returns a sentence of what all rows share."""
    count = f"{len(place.classes)} classes" if place.classes else ""
    images = f"{place.images:,} images ({place.image_set[:8]})"
    same = [f"{name} {value}" for name, value in shared.items() if value]
    return ", ".join(filter(None, [f"split {place.split}", images, count, place.data, *same])) + "."
