"""Figures of networks in docs/experiments.md; docs/networks.json keeps them with their settings.

``python -m docs.networks OUTPUT...`` reads the results in output directories, and shows how they
differ from those that are kept; ``make networks`` repeats them all. With ``--write`` it keeps them;
then ``python -m docs.tables`` puts them into the page.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from omegaconf import OmegaConf

from pipeline.configuration.hydra import compose_config
from pipeline.report.tables.runs import MeasuredRun, find_files, read_runs
from pipeline.segmenter.settings import CRF, MULTI_SCALE, SINGLE_SCALE

KEPT = Path(__file__).with_suffix(".json")

Record = dict[str, Any]
"""Settings, seed, split and commit of a network, and the mIoU of its labels in percent."""

CHANGED = (
    *("backbone", "iterations", "enlarge", "decoder"),
    *("crop_size", "scale_range", "learning_rate"),
)
"""Settings of a network that a row names where they are not those of its preset."""

COLUMNS = {
    "demo, %": {"demo": ("val",)},
    "crowded, `choose`, %": {"demo_crowded": ("choose",)},
    "crowded, report, %": {"demo_crowded": ("report", "report_2", "report_3")},
}
"""Header of a column → the data set and the splits that it is the mean over."""

MASKS = "masks"
STEPS = {
    SINGLE_SCALE: "",
    MULTI_SCALE: "several scales",
    CRF: "with the CRF",
    MASKS: "masks of the last round",
}
"""A step of a network's test, or masks → how a row names it."""


def records_of(run: MeasuredRun) -> Iterator[Record]:
    """Yields a network's record for each step of its test, or that of the masks of a later round.

    Nothing is yielded for other results.
    """
    if run.stage not in ("predictions", "masks") or "segmenter" not in run.configuration:
        return
    network = run.configuration["segmenter"]
    name = run.about.segmenter.removesuffix(f"_{network.get('backbone')}")  # timm_resnet18
    name = "frozen_vit" if name == "frozen" else name
    given = [f"dataset={run.about.dataset}", f"segmenter={name}"]
    config = OmegaConf.to_container(compose_config(given), resolve=True)
    usual, rounds = config["segmenter"], config["self_training"]
    changes = [f"{key}={network[key]}" for key in CHANGED if network.get(key) != usual[key]]
    if run.about.round:
        masks = run.chain["masks"]
        changes += [f"rounds={run.about.round}"]
        keys = (key for key in ("refine", "keep_tags") if masks[key] != rounds[key])
        changes += [f"{key}={str(masks[key]).lower()}" for key in keys]
    annotated = run.figures.get("supervised") and "ground truth"
    about = {
        "network": name,
        "masks": annotated or run.about.experiment or "published",
        "changes": changes,
        "seed": network["seed"],
        "dataset": run.about.dataset,
        "split": run.split,
    }
    steps = {MASKS: run.figures}
    if run.stage == "predictions":
        last = run.settings["segmenter"]["test"]
        last = CRF if last["crf"] else SINGLE_SCALE if last["scales"] == [1] else MULTI_SCALE
        steps = {**run.figures.get("variants", {}), last: run.figures}
    for step, figures in steps.items():
        miou = round(100 * figures["miou"], 2)
        yield {**about, "step": step, "miou": miou, "commit": run.about.commit}


def place_of(record: Record) -> str:
    """Returns what tells a record from others: all but the figure and its commit."""
    return json.dumps({k: v for k, v in record.items() if k not in ("miou", "commit")})


def read_kept() -> dict[str, Record]:
    """Returns the records that are kept, by their places."""
    return {place_of(each): each for each in json.loads(KEPT.read_text(encoding="utf-8"))}


def write_kept(records: Iterable[Record]) -> None:
    """Keeps records, one a line."""
    lines = ",\n".join(json.dumps(each) for each in sorted(records, key=place_of))
    KEPT.write_text(f"[\n{lines}\n]\n", encoding="utf-8")


def networks_table() -> tuple[Sequence[str], Sequence[Sequence[str]]]:
    """Returns the header and the rows: a network, its masks and settings, and means of its mIoU."""
    rows: dict[tuple[str, ...], list[Record]] = {}
    for record in read_kept().values():
        words = [*(f"`{change}`" for change in record["changes"]), STEPS[record["step"]]]
        row = f"`{record['network']}`", record["masks"], ", ".join(filter(None, words))
        rows.setdefault(row, []).append(record)
    header = ("`segmenter=`", "masks", "settings, and what is measured", *COLUMNS)
    return header, [(*row, *map(_cell, _columns(records))) for row, records in sorted(rows.items())]


def _columns(records: Sequence[Record]) -> Iterator[list[float]]:
    for splits in COLUMNS.values():
        yield [r["miou"] for r in records if r["split"] in splits.get(r["dataset"], ())]


def _cell(values: Sequence[float]) -> str:
    """Returns the mean, the standard deviation, and of how many values they are."""
    if len(values) < 2:
        return "".join(f"{value:.1f}" for value in values)
    return f"{mean(values):.1f} ± {stdev(values):.1f} ({len(values)})"


def main(arguments: Sequence[str]) -> None:
    """Compares results with those that are kept, and perhaps keeps them."""
    runs, problems = read_runs(find_files([Path(a) for a in arguments if a != "--write"]))
    kept = read_kept()
    print(*problems, sep="\n", end="\n" if problems else "")
    for run in runs:
        for record in records_of(run):
            before = kept.get(place := place_of(record), {}).get("miou")
            changed = "new" if before is None else f"{record['miou'] - before:+.2f}"
            words = [record["network"], *record["changes"], record["split"], record["step"]]
            print(f"{', '.join(words)}, seed {record['seed']}: {record['miou']} ({changed})")
            kept[place] = record
    if "--write" in arguments:
        write_kept(kept.values())


if __name__ == "__main__":
    main(sys.argv[1:])
