"""Figures of networks in docs/experiments.md; docs/networks.json keeps them with their settings.

``python -m docs.networks OUTPUT...`` reads the results in output directories, and shows how they
differ from those that are kept. With ``--write`` it keeps them; then ``python -m docs.tables`` puts
them into the page.
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

KEPT = Path(__file__).with_suffix(".json")

Record = dict[str, Any]
"""Settings, seed, split and commit of a network, and its mIoU in percent."""

CHANGED = ("iterations", "enlarge", "decoder", "crop_size", "scale_range", "learning_rate")
"""Settings of a network that a row names where they are not those of its preset."""

COLUMNS = {
    "demo, val": ("demo", ("val",)),
    "crowded, choose": ("demo_crowded", ("choose",)),
    "crowded, report": ("demo_crowded", ("report", "report_2", "report_3")),
}
"""Header of a column → the data set and the splits that it is the mean over."""

STEPS = {"single_scale": "", "multi_scale": "several scales", "crf": "with the CRF"}


def records_of(run: MeasuredRun) -> Iterator[Record]:
    """Yields a network's record for each step of its test."""
    network = run.chain["segmenter"]
    given = [f"dataset={run.about.dataset}", f"segmenter={run.about.segmenter}"]
    usual = OmegaConf.to_container(compose_config(given).segmenter, resolve=True)
    changes = [f"{name}={network[name]}" for name in CHANGED if network[name] != usual[name]]
    if run.about.round:
        masks = run.chain["masks"]
        changes += [f"rounds={run.about.round}"]
        changes += [f"{name}={str(masks[name]).lower()}" for name in ("refine", "keep_tags")]
    about = {
        "network": run.about.segmenter,
        "masks": run.about.experiment or "published",
        "changes": changes,
        "seed": network["seed"],
        "dataset": run.about.dataset,
        "split": run.split,
    }
    steps = run.figures.get("variants", {})
    last = run.settings["segmenter"]["test"]
    final = "crf" if last["crf"] else "single_scale" if last["scales"] == [1] else "multi_scale"
    for step, figures in {**steps, final: run.figures}.items():
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


def networks_table() -> Sequence[Sequence[str]]:
    """Returns a row for each network, its masks and settings: means over seeds and splits."""
    rows: dict[tuple[str, ...], list[Record]] = {}
    for record in read_kept().values():
        words = [*record["changes"], STEPS[record["step"]]]
        row = record["network"], record["masks"], ", ".join(filter(None, words))
        rows.setdefault(row, []).append(record)
    found = []
    for (network, masks, words), records in sorted(rows.items()):
        cells = []
        for dataset, splits in COLUMNS.values():
            here = [r for r in records if r["dataset"] == dataset and r["split"] in splits]
            cells.append(_cell([each["miou"] for each in here]))
        seeds = len({each["seed"] for each in records})
        found.append((f"`{network}`", masks, words, str(seeds), *cells))
    return found


def _cell(values: Sequence[float]) -> str:
    if not values:
        return ""
    return f"{mean(values):.1f}" + (f" ± {stdev(values):.1f}" if len(values) > 1 else "")


def main(arguments: Sequence[str]) -> None:
    """Compares results with those that are kept, and perhaps keeps them."""
    runs, problems = read_runs(find_files([Path(a) for a in arguments if a != "--write"]))
    kept = read_kept()
    print(*problems, sep="\n", end="\n" if problems else "")
    for run in runs:
        for record in records_of(run) if run.stage == "predictions" else ():
            before = kept.get(place := place_of(record), {}).get("miou")
            changed = "new" if before is None else f"{record['miou'] - before:+.2f}"
            words = [record["network"], *record["changes"], record["split"], record["step"]]
            print(f"{', '.join(words)}, seed {record['seed']}: {record['miou']} ({changed})")
            kept[place] = record
    if "--write" in arguments:
        write_kept(kept.values())


if __name__ == "__main__":
    main(sys.argv[1:])
