"""``tables.md``: the figures of ``metrics.json``, a table for each question."""

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from pipeline.configuration.registry import methods
from pipeline.engine.kinds import MASKS, NETWORK, PREDICTIONS, TAGS, measured_kinds
from pipeline.engine.results import Results
from pipeline.evaluation.record import MetricsFile
from pipeline.files.atomic import write_atomically
from pipeline.report.tables.configurations import flatten, identity
from pipeline.report.tables.grouping import grouped
from pipeline.report.tables.markdown import Table, percent, percent_of_several
from pipeline.report.tables.runs import (
    METRIC_LABELS,
    METRICS,
    SUPERVISED,
    has_seen_masks,
    map_notes,
)
from pipeline.tags.tagger import STANDARDISED

_STEPS = {"single_scale": "at one scale", "multi_scale": "at several scales, before the CRF"}
"""The steps of testing before the last."""

_TAG_METRICS = ("map", "f1", "precision", "recall")
_MEANS = ("miou", "miou_union", "miou_images")
_CALIBRATION_NOTE = (
    "A class is a tag where its {score} exceeds tags.{key}. The ground truth chooses the best"
    " {word}, which shows how far one {word} for all classes is from the best one of each."
)
_MEANS_NOTE = (
    "mIoU is the mean over the classes of the ground truth, and mIoU_images the mean over the"
    " images of the mIoU of each image."
)
_UNION_NOTE = "In mIoU_union, classes that are only predicted count 0, as in mmsegmentation."


def write_tables(path: Path, metrics: MetricsFile) -> Path:
    """Writes the tables of what was measured, and returns their path."""
    text = "\n".join(table.markdown(padded=False) for table in collect_tables(metrics))
    if metrics.withheld:
        text += "\nNot shown:\n\n" + "".join(f"- {sentence}.\n" for sentence in metrics.withheld)
    elif not text:
        text = "Nothing was measured: the images have no ground truth.\n"
    write_atomically(path, "# Results\n\n" + text)
    return path


def tables_of_run(root: Path, measured: Collection[str]) -> list[Table]:
    """Returns the tables of the latest figures that ``measured`` names, such as "val masks"."""
    metrics = MetricsFile(root / METRICS)
    for stage, splits in metrics.latest.items():
        metrics.latest[stage] = {s: f for s, f in splits.items() if f"{s} {stage}" in measured}
    return [table for table in (*_tagging(metrics), _segmentation(metrics)) if table.rows]


def collect_tables(metrics: MetricsFile) -> list[Table]:
    """Returns the tables of what was measured, without empty ones."""
    tables = [*_tagging(metrics), _ablation(metrics), *_calibration(metrics)]
    tables += [_segmentation(metrics), _seeds(metrics), collect_rounds(metrics)]
    return [table for table in tables if table.rows]


def _tagging(metrics: MetricsFile) -> Iterator[Table]:
    for kind in (kind for kind in measured_kinds().values() if kind.metric == "map"):
        header, rows, notes = ["split", "images", *map(METRIC_LABELS.get, _TAG_METRICS)], [], []
        for split, latest in metrics.latest.get(kind.stage, {}).items():
            for level, figures in _by_level(latest):
                values = (percent(figures.get(metric)) for metric in _TAG_METRICS)
                rows.append([split + level, _images(latest), *values])
                notes += [f"{split}{level}: {note}." for note in map_notes(figures)]
            if corrections := latest.get("corrections"):
                notes.append(f"{split}: corrected by hand ({corrections}).")
            if remark := latest.get("remark"):
                notes.append(f"{split}: {remark}.")
        yield Table(header, rows, header[:1], f"{kind.title.capitalize()} (%)", notes=notes)


def _ablation(metrics: MetricsFile) -> Table:
    splits = {k: f for k, f in metrics.latest.get(TAGS.stage, {}).items() if f.get("variants")}
    header = ["mAP (%)", *(f"{split}, {f['images']} images" for split, f in splits.items())]
    labels = {name: label for method in methods() for name, label in method.variants.items()}
    labels[STANDARDISED] = "scores, standardised"
    found = dict.fromkeys(name for figures in splits.values() for name in figures["variants"])
    rows = [
        [labels.get(n, n), *(percent(f["variants"].get(n, {}).get("map")) for f in splits.values())]
        for n in sorted(found, key=[*labels, *found].index)
    ]
    return Table(header, rows, header[:1], "Tagging, step by step")


def _calibration(metrics: MetricsFile) -> Iterator[Table]:
    """Yields a table for each split whose tags follow from one threshold for all images."""
    tag_columns = ["precision (%)", "recall (%)", "F1 (%)"]
    for split, figures in metrics.latest.get(TAGS.stage, {}).items():
        if found := figures.get("calibration"):
            words = {"word": "score", "score": "score", "key": "min_score"}
            if STANDARDISED in figures.get("variants", {}):
                words = {"word": "z", "score": "standardised score", "key": "z"}
            word, note = words["word"], _CALIBRATION_NOTE.format(**words)
            header = ["class", "positives", *tag_columns, f"best {word}", "F1 there (%)"]
            rows, per_class = [], figures.get("per_class", {})
            positives = {name: f.get("positives", 0) for name, f in per_class.items()}
            for name, calibrated in found["per_class"].items():
                values = [percent(calibrated[key]) for key in ("precision", "recall", "f1")]
                best = [f"{calibrated['best_threshold']:.2f}", percent(calibrated["best_f1"])]
                rows.append([name, str(positives.get(name, "–")), *values, *best])
            values = [percent(figures.get(key)) for key in ("precision", "recall", "f1")]
            common = found["threshold"]
            best = ["–" if common is None else f"{common:.2f}", percent(found["f1"])]
            rows.append([f"all, one {word}", str(sum(positives.values())), *values, *best])
            title = f"Calibration of the {words['score']}s, {split}"
            yield Table(header, rows, header[:1], title, notes=[note])


def _segmentation(metrics: MetricsFile) -> Table:
    rows, notes = [], {_MEANS_NOTE: None}
    for kind in (kind for kind in measured_kinds().values() if kind.metric == "miou"):
        for split, figures in metrics.latest.get(kind.stage, {}).items():
            words = [kind.title]
            if "supervised" in figures:
                words.append(SUPERVISED)
            elif kind is PREDICTIONS:
                words.append("trained on pseudo masks")
            if "chosen_by_ground_truth" in figures:
                beta = figures.get("background_beta")
                words.append(f"background chosen by ground truth (β={beta})")
            elif "kept" in figures:
                words.append(f"{percent(figures['kept'])}% of the pixels kept")
            if corrections := figures.get("corrections"):
                words.append("corrected by hand")
                notes[f"Corrected by hand: {corrections}."] = None
            if "remark" in figures:
                words.append(figures["remark"])
            seen = " (its initial weights have seen masks)" if has_seen_masks(figures) else ""
            results = {f"{', '.join(words)}{seen}{level}": f for level, f in _by_level(figures)}
            steps, same = figures.get("variants", {}), f"the same {kind.name}"
            results |= {f"{same}, {how}": steps[s] for s, how in _STEPS.items() if s in steps}
            for result, values in results.items():
                means = [percent(values.get(metric)) for metric in _MEANS]
                rows.append([result, split, _images(figures), *means])
    header = ["result", "split", "images", *(f"{METRIC_LABELS[m]} (%)" for m in _MEANS)]
    miou, union = (header.index(f"{METRIC_LABELS[m]} (%)") for m in ("miou", "miou_union"))
    if all(row[miou] == row[union] for row in rows):
        header, *rows = ([*row[:union], *row[union + 1 :]] for row in (header, *rows))
    else:
        notes[_UNION_NOTE] = None
    return Table(header, rows, header[:1], "Segmentation", notes=[*notes])


def _seeds(metrics: MetricsFile) -> Table:
    """Returns the mean of the runs of a segmenter that differ in nothing but the seed."""
    trained, rows = [run for run in metrics.runs if run["stage"] == PREDICTIONS.stage], []
    groups = grouped(trained, lambda r: (r["split"], _images(r), identity(r["configuration"])))
    for (split, images, _), runs in groups.items():
        values = [run.get("miou") for run in runs]
        if len(runs) > 1 and None not in values:
            settings = [flatten(run["configuration"]) for run in runs]
            seeds = ", ".join(str(each.get("segmenter.seed")) for each in settings)
            name = str(settings[0].get("segmenter.name"))
            if "supervised" in runs[0]:
                name += f", {SUPERVISED}"
            rows.append([name, split, images, seeds, percent_of_several(values)])
    header = ["segmenter", "split", "images", "seeds", "mIoU (%), mean ± standard deviation"]
    return Table(header, rows, header[:1], "Over seeds")


def _by_level(figures: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    levels = enumerate(figures.get("levels", []), 1)
    above = [(f", level {n} ({len(f.get('per_class', ()))} names)", f) for n, f in levels]
    return [("", figures), *above]


def _images(figures: Mapping[str, Any]) -> str:
    """Returns how many images were measured, and how many lacked usable ground truth."""
    left_out = figures.get("left_out")
    return f"{figures['images']} ({left_out} left out)" if left_out else str(figures["images"])


# Self-training


def collect_rounds(metrics: MetricsFile) -> Table:
    """Returns the table of the rounds that led to the latest segmenter, empty for a single one.

    Its figures are those of ``metrics.json``, blank where nothing was measured.
    """
    latest = {each.get("key") for each in metrics.latest.get(PREDICTIONS.stage, {}).values()}
    # Splits may have been predicted by different segmenters: the newest run counts.
    newest = next((run for run in metrics.runs[::-1] if run["key"] in latest), None)
    networks = []
    if newest is not None:
        last = Results(metrics.root / newest["split"] / newest["stage"] / newest["key"])
        networks = [result for result in last.chain if result.name == NETWORK.stage]
    columns, notes = dict[str, list[str]](), list[str]()
    for split in dict.fromkeys(run["split"] for run in metrics.runs) if len(networks) > 1 else ():
        runs = [run for run in metrics.runs if run["split"] == split]
        for number, network in enumerate(networks):
            measured = {run["stage"]: run for run in runs if _is_of_round(run, network)}
            marked = {stage: run["remark"] for stage, run in measured.items() if "remark" in run}
            marked |= {stage: SUPERVISED for stage, run in measured.items() if "supervised" in run}
            notes += [f"{s} of split {split}, round {number + 1}: {m}." for s, m in marked.items()]
            for label, value in _figures(measured):
                column = columns.setdefault(f"{label}, {split}", [""] * len(networks))
                column[number] = percent(value)
    rows = [[str(number), *cells] for number, cells in enumerate(zip(*columns.values()), 1)]
    return Table(["round", *columns], rows, ["round"], "Rounds of self-training (%)", notes=notes)


def _figures(measured: Mapping[str, Mapping]) -> Iterator[tuple[str, float | None]]:
    """Yields the figures of a round on one split, by stage, each with the name of its column."""
    if tags := measured.get("tags"):
        yield "tags mAP", tags.get("map")
        for number, level in enumerate(tags.get("levels", []), 1):
            yield f"tags mAP level {number}", level.get("map")
        yield "tags F1", tags.get("f1")
    if "masks" in measured:
        yield "masks mIoU", measured["masks"].get("miou")
        yield "pixels kept", measured["masks"].get("kept")
    if "predictions" in measured:
        yield "segmenter mIoU", measured["predictions"].get("miou")


def _is_of_round(run: Mapping, network: Results) -> bool:
    """Tells whether a run is of a network, of its masks, or of the tags that came before them."""
    read = {name: key for name, (*_, key) in run.get("made_from", {}).items()}
    if run["stage"] == PREDICTIONS.stage:
        return read.get(NETWORK.stage) == network.path.name
    if (masks := network.needs.get(MASKS.stage)) is None:
        return False
    if run["stage"] == TAGS.stage and NETWORK.stage in masks.needs:  # made together with them
        return read == {name: need.path.name for name, need in masks.needs.items()}
    return (run["stage"], run["key"]) in {(each.name, each.path.name) for each in masks.chain}
