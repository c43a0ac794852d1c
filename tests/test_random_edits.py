"""Whatever is edited and run in any order: what is shown is what a fresh folder gives.

**Edited** are photographs, ground truth (masks, a list of labels), a list of tags, the lists of
splits, corrections, settings, limits and splits; any stages run, into two output directories.

**Compared**, after each step, is all that is shown, with the figures of a fresh folder:

=========================================  =====================================================
shown                                      is what a fresh folder gives with
=========================================  =====================================================
figures of this run, in a report           the settings and inputs of now, on images with results
further figures, in a report or in tables  the settings and images as measured, the inputs of now
rows of a leaderboard                      those of the last result of the row
pairs of a comparison                      the settings of each side, on the images of both
=========================================  =====================================================

What is not shown has a sentence that names it. What a step measured, it shows.
"""

from __future__ import annotations

import itertools
import json
import re
from collections import Counter
from collections.abc import Collection, Iterable
from contextlib import chdir, redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass, replace
from functools import partial
from io import StringIO
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from pipeline.commands import compare
from pipeline.engine.kinds import figure_columns
from pipeline.engine.records import read_manifest
from pipeline.engine.stage import Stage
from pipeline.errors import UserError
from pipeline.evaluation.record import MetricsFile
from pipeline.exchange import paired_page
from pipeline.exchange.paired import Pair
from pipeline.report.page import page
from pipeline.report.tables.combinations import combinations, merge_splits
from pipeline.report.tables.grouping import by_place
from pipeline.report.tables.leaderboard import collect_boards
from pipeline.report.tables.markdown import percent
from pipeline.report.tables.runs import METRIC_LABELS, MeasuredRun, read_runs, runs_of
from tests.edited_runs import (
    DAMAGED,
    EVERY_STAGE,
    OF_OTHER_SIZE,
    SPLITS,
    TO_MASKS,
    Fresh,
    Image,
    Images,
    Metrics,
    Options,
    Place,
    Workspace,
    spare_what_takes_long,
)

LABELS = [(), (0,), (1,), (0, 2), None]
OF_IMAGES = {
    "photograph": [0, 1, 2, None, DAMAGED],
    "mask": [0, 1, 2, None, OF_OTHER_SIZE],
    "labels": LABELS,
    "line": LABELS,
    "listed": [True, False],
    "correction": LABELS,
    "drawn": [0, 1, None],
}
OF_RUNS = {
    "tags": ["colour", "file"],
    "alpha": [0.3, 0.5],
    "cell_size": [4, 8],
    "rounds": [1, 2],
    "learning_rate": [0.01, 0.02],
    "absent_as_zero": [False, True],
    "background_betas": [(1.0,), (1.0, 2.0)],
    "labelled": [False, True],
    "ignore_background": [False, True],
    "limit": [None, 2],
    "split": [None, "train", "val"],
    "out": ["one", "two"],
}
STAGES = [
    *((), ("tags",), ("tags", "cams"), ("masks",), ("train", "predict"), EVERY_STAGE),
    *(("evaluate",), ("tags", "evaluate"), (*TO_MASKS, "evaluate"), (*EVERY_STAGE, "evaluate")),
]
MEASUREMENT = ("absent_as_zero", "background_betas", "labelled", "ignore_background")
"""The options that change figures, and no result."""

METRIC_OF = {label: metric for metric, label in METRIC_LABELS.items()}
ABOUT_RUN = {"measured_on", "read", "about", "versions", "experiments", "legend", "counterparts"}
ABOUT_RUN |= {"settings"}
"""What stands beside figures, and is not one."""


def edits(values: dict[str, list], ids: str) -> st.SearchStrategy:
    chosen = [(name, value) for name, found in values.items() for value in found]
    return st.tuples(st.sampled_from(chosen), st.sampled_from(ids or [""]))


@dataclass(frozen=True)
class Made:
    """What the results of a key are made with.

    Attributes:
        tags: those of the first round, which hold what was read of a list.
        training: what a network learned from, or none.
    """

    options: Options
    tags: Place
    training: Images | None


class Edits(RuleBasedStateMachine):
    fresh: Fresh
    folders: Iterable[Path]
    checked: Counter[str]  # how much was compared

    def __init__(self):
        super().__init__()
        self.workspace, self.options, self.out = Workspace(next(self.folders)), Options(), "one"
        self.images = {i: Image(k % 3, k % 3, line=(k % 3,)) for k, i in enumerate("abcde")}
        self.made: dict[Place, Made] = {}
        self.learned_from: dict[str, Images] = {}  # by the key of a network
        self.runs: list[set[Place]] = []  # the results of each, which belong together
        self.measured: dict[tuple[str, Place], tuple[Options, Images]] = {}
        self.confirmed: dict[tuple[str, Place], tuple[str, Options]] = {}  # by which run, how
        self.row_of: dict[tuple[str, Place], Options] = {}  # as they were when it was measured
        self.new: set[Place] = set()  # what the last step measured

    # What is edited and run

    @initialize(tags=st.sampled_from(OF_RUNS["tags"]))
    def begin(self, tags):
        self.options = Options(tags=tags)
        self.workspace.write(self.images)
        assert not self.run(*EVERY_STAGE, "evaluate")

    @rule(
        edits=st.lists(edits(OF_IMAGES, "abcde") | edits(OF_RUNS, ""), min_size=1, max_size=2),
        stages=st.sampled_from(STAGES),
    )
    def edit_and_run(self, edits, stages):
        self.new = set()
        for (name, value), image_id in edits:
            if name == "out":
                self.out = value
            elif name in ("correction", "drawn"):  # of one image, both may contradict
                tags, masks = dict(self.options.corrections), dict(self.options.drawn)
                given, other = (tags, masks) if name == "correction" else (masks, tags)
                given[image_id] = value
                other.pop(image_id, None)
                tags, masks = (
                    tuple(sorted((i, found) for i, found in each.items() if found is not None))
                    for each in (tags, masks)
                )
                self.options = replace(self.options, corrections=tags, drawn=masks)
            elif image_id:
                self.images[image_id] = replace(self.images[image_id], **{name: value})
                self.workspace.write(self.images)
            else:
                self.options = replace(self.options, **{name: value})
        if "train" in stages and not all(m.photograph in (0, 1, 2) for m in self.images.values()):
            stages = dict.fromkeys((*TO_MASKS, *stages))  # keys hold images that cannot be read
            if self.options.split == "val":  # whose masks of train are those of before
                stages = dict.fromkeys(TO_MASKS)
        if stages:
            self.run(*stages)

    def run(self, *stages: str) -> str:
        """Runs stages; returns why a user has to do something, or ""."""
        put = MetricsFile.put

        def note(file, results, *figures):
            put(file, results, *figures)
            self.new.add((results.name, results.split, results.key))

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(MetricsFile, "put", note)
            problem = self.workspace.run(self.options, *stages, out=self.out)
        found = self.everywhere()
        self.runs.append({*found.values()})
        tags = {p[1]: p for stage, p in found.items() if stage.name == "tags" and stage.round == 1}
        for stage, place in found.items():
            if stage.name == "segmenter":
                self.learned_from.setdefault(place[2], self.listed("train"))
            if self.entries(place, self.out):
                network = stage.uses.get("segmenter")
                training = self.learned_from[network.key] if network else None
                self.made.setdefault(place, Made(self.options, tags[stage.split], training))
            path = self.workspace.folder.joinpath(self.out, place[1], place[0], place[2])
            run = read_manifest(path).get("run", "")
            if run != self.confirmed.get((self.out, place), ("",))[0]:
                self.confirmed[self.out, place] = run, self.options
        for place in self.new:
            self.measured[self.out, place] = self.options, self.with_results(place)
            self.row_of[self.out, place] = self.confirmed[self.out, place][1]
        return problem

    def everywhere(self) -> dict[Stage, Place]:
        """Returns where the results are on every split, unless one of them cannot be read."""
        return self.places(replace(self.options, split=None)) or self.places(self.options)

    def places(self, options: Options) -> dict[Stage, Place]:
        """Returns where the results of a run with these options are."""
        found = {}
        with suppress(UserError), chdir(self.workspace.folder):
            for stage in self.workspace.open(options, self.out).builder.stages:
                with suppress(UserError):  # its key is not known before something is trained
                    found[stage] = stage.name, stage.split, stage.key
        return found

    # What a fresh folder gives

    def entries(self, place: Place, out: str) -> dict[str, dict]:
        """Returns image → what was noted of its result."""
        stage, split, key = place
        path = self.workspace.folder / out / split / stage / key / "entries.jsonl"
        lines = path.read_text().splitlines() if path.exists() else ()
        return {entry["id"]: entry for entry in map(json.loads, lines)}

    def photographs(self, place: Place, out: str) -> dict[str, int]:
        """Returns image → the content that its result was made from."""
        found = {i: entry["inputs"]["photograph"] for i, entry in self.entries(place, out).items()}
        return {i: self.workspace.contents[content] for i, content in found.items()}

    def listed(self, split: str) -> Images:
        """Returns the images of a split that a run works on."""
        listed = [i for i in SPLITS[split] if self.images[i].listed]
        return {i: self.images[i] for i in listed[: self.options.limit]}

    def with_results(self, place: Place) -> Images:
        """Returns those that have results; photographs that are gone may be elsewhere."""
        made, listed = self.made[place], self.listed(place[1])
        first = self.photographs(made.tags if made.training is None else place, self.out)
        there = {*self.photographs(place, self.out)}
        if place[0] != "predictions":  # masks and tags of a later round keep the first tags
            there &= {*self.photographs(made.tags, self.out)} if made.training else there
        return {
            i: replace(m, photograph=first.get(i)) if m.photograph is None else m
            for i, m in listed.items()
            if i in there
        }

    def as_made(self, place: Place, images: Images, out: str) -> Images:
        """Returns images with the lines that the tags were read from."""
        tags = self.entries(self.made[place].tags, out).items()
        lines = {i: tuple(entry.get("found", entry["tags"])) for i, entry in tags}
        return {i: replace(m, line=lines.get(i, m.line)) for i, m in images.items()}

    def metrics(
        self, made: Made, measured: Options, images: Images, training: Images | None = None
    ) -> Metrics:
        """Returns what a fresh folder gives; the network has learned from the ``training``."""
        options = replace(made.options, **{name: getattr(measured, name) for name in MEASUREMENT})
        training = None if made.training is None else training or made.training
        images = {i: m for i, m in images.items() if (m.mask, m.labels) != (None, None)}
        for image_id, then in (training or {}).items():
            if image_id in images and images[image_id].line is None:
                images[image_id] = replace(images[image_id], line=then.line)
        return self.fresh.metrics(options, images, training)

    def expected(self, place: Place, made: Made, is_of_this_run: bool) -> Metrics:
        """Returns what a fresh folder gives for figures that are shown, and beside them."""
        if is_of_this_run:
            then = made.training or {}  # photographs that could not be read had no masks
            now = {
                i: m
                for i, m in self.listed("train").items()
                if then.get(i, m).photograph != DAMAGED
            }
            return self.metrics(made, self.options, self.with_results(place), now)
        options, then = self.measured[self.out, place]
        images = {}
        for i, before in then.items():
            now = self.images[i]
            gone = [part for part in ("photograph", "mask") if getattr(now, part) is None]
            images[i] = replace(now, **{part: getattr(before, part) for part in gone})  # elsewhere
            added = [part for part in ("mask", "labels") if getattr(before, part) is None]
            images[i] = replace(images[i], **dict.fromkeys(added))  # was not measured
        return self.metrics(made, options, self.as_made(place, images, self.out))

    # What is shown

    @invariant()
    def tables_are_right(self):
        path = self.workspace.folder / self.out / "metrics.json"
        runs, problems = read_runs([path] if path.exists() else [])
        shown = {(run.stage, run.split, run.key): run.figures for run in runs}
        self.check_figures("tables", shown)
        self.check_withheld("tables", shown, problems)
        self.check_rows(shown, runs)
        self.check_means(runs)

    @invariant()
    def reports_are_right(self):
        seen = []
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(page, "write_page", lambda *given: seen.append(given) or given[0])
            if self.workspace.run(self.options, "report", out=self.out):
                return  # the run was refused, such as for a list of labels of no image
        tables = (self.workspace.folder / self.out / "tables.md").read_text()
        ours = {*self.places(self.options).values()}
        everywhere = {*self.everywhere().values()}
        for _, _, metrics in seen:
            latest = {
                (stage, split, figures["key"]): figures
                for stage, splits in metrics.latest.items()
                for split, figures in splits.items()
            }
            for place, figures in latest.items():
                assert place in everywhere, f"{place} is of another run"
                values = [figures[name] for name in ("map", "f1", "miou") if name in figures]
                assert f"| {' | '.join(map(percent, values))} |" in tables
            runs, sentences = runs_of(metrics), tables.split("Not shown:")[-1].splitlines()
            shown = {(run.stage, run.split, run.key): run.figures for run in runs}
            for figures_of in (latest, shown):
                self.check_figures("reports", figures_of, ours)
            self.check_withheld("reports", shown, sentences)
            self.check_rows(shown, runs, ours)
            self.check_means(runs)

    def check_figures(self, what: str, shown: Metrics, ours: Collection[Place] = ()):
        for place, figures in shown.items():
            fresh = self.expected(place, self.made[place], place in ours).get(place, {})
            names = figures.keys() - ABOUT_RUN
            different = {n: (figures[n], fresh.get(n)) for n in names if figures[n] != fresh.get(n)}
            assert not different, f"{what} show {place}, which differ from fresh ones: {different}"
            self.checked[what] += 1

    def check_withheld(self, what: str, shown: Metrics, sentences: list[str]):
        withheld = self.workspace.metrics(self.out).keys() - shown.keys()
        assert not withheld & self.new, f"{what} do not show what was measured just now"
        for stage, split, key in withheld:
            about = f"{stage} of split {split} ("
            keys = [s.partition(about)[2].partition(")")[0] for s in sentences]
            assert any(key in found for found in keys), f"{what} do not say why {about}{key}) lacks"
            self.checked["withheld"] += 1

    def check_means(self, runs: list[MeasuredRun]):
        """Checks that each mean is over figures of one run on both splits."""
        rows = {place: [*combinations(same)] for place, same in by_place(runs).items()}
        for pair in itertools.product(*([p for p in rows if p.split == s] for s in SPLITS)):
            for row in merge_splits([rows[place] for place in pair]):
                places = {(r.stage, r.split, r.key) for each in row.runs.values() for r in each}
                assert any(places <= run for run in self.runs), f"{places} are of several runs"
                for column, (kind, _) in figure_columns().items():
                    splits = {run.split for run in row.runs.get(kind.stage, ())}
                    assert not row.values(column) or splits == {*SPLITS}
                self.checked["means"] += 1

    def check_rows(self, shown: Metrics, runs: list[MeasuredRun], ours: Collection[Place] = ()):
        rows = [(b, *row) for b in collect_boards(runs) for row in zip(b.keys, b.rows)]
        for board, key, row in rows:
            place = next(p for p in shown if p[1:] == (board.split, key))
            made = replace(self.made[place], options=self.row_of[self.out, place])
            fresh = self.expected(place, made, place in ours)
            same = {p for p in fresh.keys() & shown.keys() if p[1] == board.split}
            same = {p for p in same if fresh[p]["results"] == shown[p]["results"]}
            for column, text in zip(board.header, row):
                if column in figure_columns() and (text := re.sub("[†‡§¶]", "", text)):
                    kind, metric = figure_columns()[column]
                    found = [percent(shown[p][metric]) for p in same if p[0] == kind.stage]
                    assert text in found, f"{column} of {place} is another's: {text}, not {found}"
                    self.checked["rows"] += 1

    @invariant()
    def comparisons_are_right(self):
        for outs in (("one", "one"), ("one", "two")):
            folders = dict.fromkeys(str(self.workspace.folder / out) for out in outs)
            page = str(self.workspace.folder / "comparison.html")
            check = partial(self.check_pairs, outs)
            with pytest.MonkeyPatch.context() as patch, suppress(UserError):
                patch.setattr(paired_page, "comparison_tables", check)
                with redirect_stdout(StringIO()), redirect_stderr(StringIO()):
                    compare.run([*folders, "--output", page])

    def check_pairs(self, outs: tuple[str, str], pairs: list[Pair], *_) -> list:
        sides = set(), set()
        for pair in pairs:
            both = [(x.kind.stage, x.split, x.path.resolve().name) for x in pair.both]
            found = [self.photographs(*each) for each in zip(both, outs)]
            there = {i: m for i, m in self.images.items() if m.listed and m.photograph is not None}
            is_of_both = {i: all(f.get(i) == m.photograph for f in found) for i, m in there.items()}
            images = {i: m for i, m in there.items() if is_of_both[i]}
            recorded = [self.workspace.recorded(out) for out in outs]
            a, b = (
                self.metrics(
                    self.made[place],
                    replace(recorded[0], background_betas=own.background_betas),
                    self.as_made(place, images, out),
                ).get(place)
                for place, out, own in zip(both, outs, recorded)
            )
            usable = {image.mask for image in images.values()} - {None, OF_OTHER_SIZE}
            if not (a and b) and not usable:  # evaluation ends with the first round
                continue
            for name, *figures, _, count, _ in pair.rows():
                if metric := METRIC_OF.get(name.split(": ")[1]):
                    fresh = a and b and [percent(a[metric]), percent(b[metric])]
                    assert (figures, count) == (fresh, str(a["images"])), f"{name}, {both}"
                    self.checked["pairs"] += 1
                else:
                    assert not (a or b), f"ground truth of {both} was not compared"
            for side, place in zip(sides, both):
                side.add(place)
        for side in sides:
            assert any(side <= run for run in self.runs), f"{side} do not belong together"
        return []


SEQUENCES = {
    "a mean over the splits was the figure of one": [
        "colour",
        (["correction", (0, 2), "c"], ["drawn", 1, "d"], (*EVERY_STAGE, "evaluate")),
    ],
    "a report showed another split's figures of other settings": [
        "colour",
        (["alpha", 0.3], ["split", "val"], (*TO_MASKS, "evaluate")),
        (["split", "train"], ["learning_rate", 0.02], ("train", "predict", "evaluate")),
    ],
    "tags without a correction were compared beside CAMs of another split with it": [
        "file",
        (["correction", (0, 2), "c"], ["out", "two"], (*TO_MASKS, "evaluate")),
        (["out", "one"], ["cell_size", 8], ["split", "val"], ("tags", "cams")),
    ],
    "the first tags of the latest run were compared as those of the run before": [
        "file",
        (["rounds", 2], ["labels", (0,), "e"], ["background_betas", (1.0, 2.0)], EVERY_STAGE),
        (["correction", (), "c"], ["correction", (1,), "e"], ("tags",)),
        (["mask", None, "b"], (*EVERY_STAGE, "evaluate")),
    ],
    "the background of CAMs was chosen on images that were not compared": [
        "file",
        (["photograph", DAMAGED, "e"], ("tags", "evaluate")),
        (["background_betas", (1.0, 2.0)], ["line", (1,), "b"], ("tags", "cams")),
        (["correction", (0, 2), "a"], ["line", (), "d"], EVERY_STAGE),
        (["photograph", DAMAGED, "a"], ("masks",)),
        (["mask", 2, "b"], ()),
    ],
    "labels of a network were withheld for an image without tags": [
        "file",
        (["line", None, "b"], ["photograph", 2, "d"], (*EVERY_STAGE, "evaluate")),
    ],
    "an image lost its line in the list": ["file", (["line", None, "b"], ())],
    "tags skip an image of which there are masks": ["file", (["line", None, "b"], ("tags",))],
    "a comparison counted those images alone that were measured": [
        "colour",
        (["limit", 2], ["alpha", 0.3], ("tags", "evaluate")),
        (["limit", None], ("tags",)),
    ],
    "a comparison knew neither edited ground truth nor another background": [
        "file",
        (["cell_size", 8], ["background_betas", (1.0, 2.0)], (*TO_MASKS, "evaluate")),
        (["mask", 2, "a"], ["background_betas", (2.0,)], ("masks",)),
    ],
    "a list of labels changed": [
        "file",
        (["labelled", True], ["labels", (0,), "a"], ("tags", "evaluate")),
        (["labels", (1,), "a"], ()),
    ],
    "masks of old tags were compared": [
        "file",
        (["out", "two"], ["cell_size", 8], TO_MASKS),
        (["line", (0, 2), "a"], ("tags",)),
    ],
    "a network of old masks was compared": [
        "file",
        (["out", "two"], ["cell_size", 8], EVERY_STAGE),
        (["line", (0, 2), "a"], TO_MASKS),
    ],
    "a second correction under the same name made rows of two": [
        "file",
        (["correction", (1,), "a"], (*EVERY_STAGE, "evaluate")),
        (["correction", (0, 2), "b"], (*EVERY_STAGE, "evaluate")),
    ],
    **{
        f"a report showed figures of before another {name}": [
            "colour" if name == "photograph" else "file",
            ([name, value, *image_id], ("tags",)),
        ]
        for name, value, *image_id in (
            ["correction", (), "a"],
            ["photograph", 1, "a"],
            ["line", (0, 2), "a"],
            ["mask", 1, "a"],
            ["limit", 2],
        )
    },
}
"""What was wrong, or is rare → the tags at the beginning, and steps: edits, and stages to run."""


@pytest.fixture(scope="module")
def fresh(tmp_path_factory) -> Fresh:
    return Fresh(tmp_path_factory.mktemp("fresh"))


@pytest.fixture
def any_edits(fresh, tmp_path, monkeypatch) -> type[Edits]:
    spare_what_takes_long(monkeypatch)
    Edits.fresh, Edits.checked = fresh, Counter()
    Edits.folders = (tmp_path / str(number) for number in itertools.count())
    return Edits


@pytest.mark.parametrize("what", SEQUENCES)
def test_sequences(what, any_edits):
    follow(SEQUENCES[what], any_edits())


def follow(sequence: list, state: Edits) -> None:
    tags, *steps = sequence
    state.begin(tags=tags)
    for *edits, stages in steps:
        chosen = [((name, value), "".join(ids)) for name, value, *ids in edits]
        state.edit_and_run(edits=chosen, stages=stages)
        state.tables_are_right()
        state.reports_are_right()
        state.comparisons_are_right()


@pytest.mark.large
def test_any_order(any_edits):
    chosen = settings(
        derandomize=True,
        database=None,
        deadline=None,
        max_examples=12,
        stateful_step_count=15,
        phases=[Phase.generate],  # to shrink what fails takes minutes
        suppress_health_check=[*HealthCheck],
    )

    def begin() -> Edits:  # Hypothesis draws by its text: a new name in the class draws no others
        return any_edits()

    run_state_machine_as_test(begin, settings=chosen)
    assert all(
        any_edits.checked[what] > 100 for what in ("tables", "reports", "rows", "means", "pairs")
    )
