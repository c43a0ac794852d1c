"""Groups runs that can be compared: on the same images, or with different seeds."""

from collections.abc import Callable, Hashable, Iterable, Sequence
from itertools import product
from typing import NamedTuple, TypeVar

from pipeline.files.label_images import BACKGROUND
from pipeline.report.tables.configurations import flatten, identity, last_part
from pipeline.report.tables.markdown import Notes, percent, percent_of_several
from pipeline.report.tables.runs import MeasuredRun

Element = TypeVar("Element")
Key = TypeVar("Key", bound=Hashable)


def grouped(elements: Iterable[Element], key: Callable[[Element], Key]) -> dict[Key, list[Element]]:
    """Returns elements by a key of each, in their order."""
    groups: dict[Key, list[Element]] = {}
    for element in elements:
        groups.setdefault(key(element), []).append(element)
    return groups


# The same images and the same ground truth


class Place(NamedTuple):
    """Properties that comparable figures share."""

    dataset: str
    split: str
    data: str  # the convention of the ground truth
    classes: tuple[str, ...]
    images: int
    image_set: str
    ground_truth: str = ""  # where the images have several: that of tags, and that of pixels


def by_place(runs: Iterable[MeasuredRun]) -> dict[Place, list[MeasuredRun]]:
    """Returns the latest run of each key on the same images and the same ground truth."""

    def place_of(run: MeasuredRun) -> Place:
        classes = tuple(name for name in run.figures.get("per_class", {}) if name != BACKGROUND)
        about = run.about.dataset, run.split, run.about.data
        return Place(*about, classes, run.images, run.figures["image_set"])

    places: dict[Place, list[MeasuredRun]] = {}
    for place, place_runs in grouped(runs, place_of).items():
        # Tags are measured against labels, and the other results against masks.
        truths = [
            {r.figures["ground_truth"]: None for r in place_runs if r.has_tags == has_tags} or [""]
            for has_tags in (True, False)
        ]
        pairs = [*product(*truths)]
        for tag_truth, mask_truth in pairs:
            truth = f"{tag_truth} {mask_truth}" if len(pairs) > 1 else ""
            its = {True: tag_truth, False: mask_truth}
            same = [run for run in place_runs if run.figures["ground_truth"] == its[run.has_tags]]
            # What two folders hold, or two experiments share, counts once: the latest of them.
            latest = {result_name(run): run for run in same}
            kept = [run for run in same if latest[result_name(run)] is run]
            places[place._replace(ground_truth=truth)] = kept
    ordered = sorted(places, key=lambda p: (p.dataset, p.split, p.data, -p.images, p))
    return {place: places[place] for place in ordered}


# The same results, and the same settings but for the seed


def result_name(run: MeasuredRun) -> tuple[str, str, str]:
    """Returns what results of one split share that are the same; "auto" is in keys as such."""
    return run.stage, run.key, run.about.precision


def without_seed(run: MeasuredRun) -> str:
    """Returns what runs of a stage share that differ in nothing but the seed."""
    has_seed = any(last_part(name) == "seed" for name in flatten(run.configuration))
    settings = identity(run.configuration) if has_seed else run.key
    return f"{run.stage} {run.about.precision} {settings}"


class Shown(NamedTuple):
    """The run that a cell shows, and what it was chosen from, see :func:`choose_run`."""

    run: MeasuredRun
    candidates: int  # configurations, apart from seeds
    full_sizes: Sequence[int]
    seeds: Sequence[MeasuredRun] = ()  # runs of other seeds on as many images

    def figure(self, metric: str, level: int = 0) -> str:
        """Returns a figure in percent; of several seeds the mean ± the standard deviation."""
        values = [run.value(metric, level) for run in (self.run, *self.seeds)]
        return percent(values[0]) if None in values else percent_of_several(values)

    def cell(self, metric: str, notes: Notes, level: int = 0) -> str:
        """Returns a figure, which the run has, in percent with its marks and remarks."""
        latest = f"latest of {self.candidates}" if self.candidates > 1 else ""
        images = describe_images(self.run.images, self.full_sizes)
        seeds = f"{1 + len(self.seeds)} seeds" if self.seeds else ""
        remark = ", ".join(filter(None, [images, seeds, latest]))
        marks = "".join(map(notes.mark, self.run.notes(level)))
        cell = f"{self.figure(metric, level)}{marks}"
        return f"{cell} ({remark})" if remark else cell


def choose_run(runs: Sequence[MeasuredRun], full_sizes: Sequence[int] = ()) -> Shown:
    """Chooses the latest run on all images, or else the latest of those on the most images.

    Runs that differ from it in nothing but the seed are shown with it. ``full_sizes`` are the
    numbers of images that make a whole split; empty if any number does.
    """

    def rank(run: MeasuredRun) -> tuple[bool, int, int]:
        is_full_size = run.images in full_sizes
        return is_full_size, 0 if is_full_size else run.images, run.order

    chosen = max(runs, key=rank)
    latest = {run.key: run for run in runs if run.key != chosen.key}.values()
    same = without_seed(chosen)
    seeds = [r for r in latest if without_seed(r) == same and r.images == chosen.images]
    return Shown(chosen, len({same, *map(without_seed, latest)}), full_sizes, seeds)


def describe_images(images: int, full_sizes: Sequence[int]) -> str:
    """Returns "" if a whole split was measured (see :func:`choose_run`), else how much of it."""
    if not full_sizes or images in full_sizes:
        return ""
    return f"{'partial: ' if images < max(full_sizes) else ''}{images:,} images"
