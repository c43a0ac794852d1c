"""How many corrected images give how much: ``make corrections`` and ``make corrected-masks``.

``python -m tools.benchmark.corrections write`` corrects the tags of the training images by their
ground truth, in the place of a person, and writes a file for each number of images and order.
``print`` prints what the runs with these files reached, and ``review`` how soon each order meets
the wrong tags of a split.

``write_masks`` does the same with masks: a folder for each number of images and seed. It prints the
seed and the settings of each run, in the order of seeds. ``print_masks`` prints their table.
"""

from __future__ import annotations

import csv
import io
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np

from pipeline.datasets.corrections import BySplit, join_names
from pipeline.engine.kinds import TAGS
from pipeline.engine.lineage import open_folder
from pipeline.engine.sample import Sample
from pipeline.evaluation.record import MetricsFile
from pipeline.files.atomic import write_atomically
from pipeline.files.images import encode_png
from pipeline.report.configurations import flatten, last_part
from pipeline.report.markdown import Table, percent, percent_of_several
from pipeline.report.measured import tag_doubt
from pipeline.stages.config import compose, read_config
from pipeline.stages.pipeline import Pipeline
from pipeline.tags.scores import decode_scores

COUNTS = (50, 200)  # and none, and all
MASK_COUNTS = (20, 50, 100)  # and none, and all
REPEATS = (1, 4)
SEEDS = (0, 1, 2)
_COLUMNS = (("train", "tags", "f1"), ("train", "masks", "miou"), ("report", "predictions", "miou"))


def write(pipeline: Pipeline) -> Iterator[tuple[Path, Sequence[int]]]:
    """Writes the files; yields each, with the seeds of the segmenters that are trained with it."""
    builder = pipeline.builder
    split, folder = builder.train_split, builder.store.root / "corrections"
    samples = builder.images.of(split)
    for name, order, seeds in _orders(pipeline, samples):
        for count in COUNTS if name != "all" else (len(samples),):
            chosen = {samples[k].id: samples[k].ground_truth_labels for k in order[:count]}
            path = folder / (f"{name}_{count}.csv" if name != "all" else "all.csv")
            text = format_corrections({split: chosen}, builder.vocabulary.classes)
            write_atomically(path, text)
            yield path, seeds


def write_masks(pipeline: Pipeline) -> Iterator[tuple[int, Sequence[str]]]:
    """Writes the folders; yields the seed and the settings of each training.

    The images of a seed are the first ones of a random order. Of all images none is repeated, which
    would change nothing but their order.
    """
    builder = pipeline.builder
    split, samples = builder.train_split, builder.images.of(builder.train_split)
    for seed in SEEDS:
        yield seed, []
        order = np.random.default_rng(seed).permutation(len(samples))
        for count in (*MASK_COUNTS, len(samples)):
            name = "all" if count == len(samples) else f"{seed}_{count}"
            folder = builder.store.root / "corrections" / f"masks_{name}"
            for sample in (samples[k] for k in order[:count]):
                content = encode_png(sample.mask.read(), builder.vocabulary.palette)
                write_atomically(folder / split / f"{sample.id}.png", content)
            for repeats in REPEATS if count < len(samples) else (1,):
                given = f"segmenter.repeat_corrected={repeats}"
                yield seed, [f"masks.corrections={folder}", given]


def review(pipeline: Pipeline, split: str) -> Table:
    """Returns the share of wrong tags, missed ones included, in the first images of each order."""
    samples = pipeline.builder.images.of(split)
    entries, scores, thresholds = _tags_of(pipeline, split, samples)
    doubts = [*map(tag_doubt, scores, thresholds)]
    nearest = [-np.abs(row - limit).min() for row, limit in zip(scores, thresholds)]
    errors = np.array([len({*entries[s.id]["tags"]} ^ {*s.ground_truth_labels}) for s in samples])
    orders = {"by doubt": doubts, "by the class nearest to the threshold": nearest}
    orders["the best possible"] = errors
    firsts, rows = [len(samples) // n for n in (10, 4, 2)], []
    for name, worth in orders.items():
        found = np.cumsum(errors[np.argsort(worth, kind="stable")[::-1]]) / errors.sum()
        rows.append([name, *(percent(float(found[n - 1])) for n in firsts)])
    rows.insert(2, ["at random", *(percent(n / len(samples)) for n in firsts)])
    header = ["order", *(f"first {n} of {len(samples)}" for n in firsts)]
    return Table(header, rows, ["order"], f"Share of the {errors.sum()} wrong tags of {split} (%)")


def _tags_of(
    pipeline: Pipeline, split: str, samples: Sequence[Sample]
) -> tuple[Mapping[str, dict], list[np.ndarray], list[float]]:
    """Returns the entries of a split's tags, and the scores and the threshold of each image."""
    stage = pipeline.builder.per_split(split)[TAGS.stage]
    entries = open_folder(stage, pipeline.builder.store).entries
    scores = [decode_scores(entries[sample.id]["scores"]) for sample in samples]
    return entries, scores, [stage.threshold(row) for row in scores]


def _orders(
    pipeline: Pipeline, samples: Sequence[Sample]
) -> Iterator[tuple[str, np.ndarray, Sequence[int]]]:
    """Yields orders of review: the most doubtful first, and three random ones with a seed each."""
    _, scores, thresholds = _tags_of(pipeline, pipeline.builder.train_split, samples)
    doubts = [*map(tag_doubt, scores, thresholds)]
    yield "all", np.arange(len(samples)), SEEDS
    yield "doubt", np.argsort(doubts, kind="stable")[::-1], SEEDS
    for seed in SEEDS:
        yield f"random_{seed}", np.random.default_rng(seed).permutation(len(samples)), (seed,)


def curve(runs: Sequence[Mapping[str, Any]], images: int) -> Table:
    """Returns the figures by the number of corrected images and their order, as a table.

    Figures of several seeds, and of several random orders, are a mean ± a standard deviation. A
    note for each order says how many images reach half of the gain of all.
    """
    found: dict[tuple[int, str], dict[str, dict[str, float]]] = {}
    for run in runs:
        names = {named["file"] for named in run.get("legend", {}).values()}
        name = Path(names.pop() if names else "none_0").stem
        order, _, count = name.rpartition("_")
        place = (images, "") if name == "all" else (int(count), order.partition("_")[0])
        for column in _COLUMNS:
            if column[:2] == (run["split"], run["stage"]):
                # The latest figure of a key counts.
                found.setdefault(place, {}).setdefault(column[1], {})[run["key"]] = run[column[2]]
    words = {"none": "", "doubt": "by doubt", "random": "at random"}
    rows = []
    for (count, order), figures in sorted(found.items()):
        values = [[*figures.get(stage, {}).values()] for _, stage, _ in _COLUMNS]
        cells = [percent_of_several(each) if each else "" for each in values]
        rows.append([str(count), words.get(order, order), *cells])
    header = ["images corrected", "order", "F1 of tags, train", "mIoU masks, train"]
    header = [*header, "mIoU segmenter, report"]
    notes = []
    for order in sorted({order for _, order in found} & {"doubt", "random"}):
        ends = ("none", "", order)
        by_count = {n: figures for (n, name), figures in sorted(found.items()) if name in ends}
        halves = []
        for (_, stage, _), column in zip(_COLUMNS, header[2:]):
            if all(stage in figures for figures in by_count.values()):
                means = [mean(figures[stage].values()) for figures in by_count.values()]
                halves.append(f"{column}: {half_of_the_gain([*by_count], means):.0f}")
        notes.append(f"Half of the gain, {words[order]}, in images: {'; '.join(halves)}.")
    return Table(header, rows, ["order"], "Corrected images", notes=notes)


def mask_curve(runs: Sequence[Mapping[str, Any]], images: int) -> Table:
    """Returns the figures by the number of corrected masks, repeated or not; see :func:`curve`."""
    found: dict[tuple[int, int], dict[str, dict[str, float]]] = {}
    for run in runs:
        files = {each["file"] for each in run.get("legend", {}).values()}
        count = Path(files.pop() if files else "masks_0/train").parent.name.rpartition("_")[2]
        settings = flatten(run["configuration"])
        repeats = [n for name, n in settings.items() if last_part(name) == "repeat_corrected"]
        place = images if count == "all" else int(count), *(repeats or [1])
        for column in _COLUMNS[1:]:
            if column[:2] == (run["split"], run["stage"]):
                found.setdefault(place, {}).setdefault(column[1], {})[run["key"]] = run[column[2]]
    rows = []
    for (count, repeats), figures in sorted(found.items()):
        values = [[*figures.get(stage, {}).values()] for _, stage, _ in _COLUMNS[1:]]
        cells = [percent_of_several(each) if each else "" for each in values]
        rows.append([str(count), str(repeats), *cells])
    header = ["masks corrected", "times in an epoch", "mIoU masks, train", "mIoU segmenter, report"]
    return Table(header, rows, [], "Corrected masks")


def format_corrections(corrections: BySplit, classes: Sequence[str]) -> str:
    """Returns the text of a file of corrections; a single split "" has no column of its own."""
    has_splits = {*corrections} != {""}
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(["id", "split", "classes"] if has_splits else ["id", "classes"])
    for split, images in corrections.items():
        for image_id, labels in images.items():
            names = join_names(classes[k] for k in labels)
            writer.writerow([image_id, *([split] * has_splits), names])
    return text.getvalue()


def half_of_the_gain(counts: Sequence[int], values: Sequence[float]) -> float:
    """Returns how many images give half of the gain of all, between measurements linearly."""
    half = mean((values[0], values[-1]))
    return float(np.interp(half, values, counts))


def main(arguments: Sequence[str]) -> None:
    """Writes files, or prints a table."""
    overrides = ["experiment=corrections", *arguments[1:]]
    pipeline = Pipeline.open(read_config(compose(overrides)))
    if arguments[:1] == ["review"]:
        print(review(pipeline, pipeline.builder.splits[0]).markdown(), end="")
    elif arguments[:1] == ["write"]:
        for path, seeds in write(pipeline):
            print(path, ",".join(map(str, seeds)))
    elif arguments[:1] == ["write_masks"]:
        for seed, given in write_masks(pipeline):
            print(seed, *given)
    else:
        root, samples = pipeline.builder.store.root, pipeline.builder.images
        table, of_masks = (mask_curve, True) if arguments[:1] == ["print_masks"] else (curve, False)
        runs = [r for r in MetricsFile(root / "metrics.json").runs if _is_ours(r, of_masks)]
        print(table(runs, len(samples.of(pipeline.builder.train_split))).markdown(), end="")


def _is_ours(run: Mapping[str, Any], of_masks: bool) -> bool:
    """Tells whether a run is one with corrected masks, or tags, or with neither."""
    legend = run.get("legend", {}).values()
    has_masks = any(each["file"].startswith("masks_") for each in legend)
    return "corrections" in run["experiments"] and (has_masks == of_masks or not legend)


if __name__ == "__main__":
    main(sys.argv[1:])
