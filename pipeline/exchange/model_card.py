"""The README of an ONNX file: a model card, as Hugging Face shows it."""

from collections.abc import Mapping
from pathlib import Path

import yaml
from jinja2 import Template

from pipeline.datasets.sources import find_licence
from pipeline.engine.kinds import NETWORK, PREDICTIONS
from pipeline.engine.records import read_manifest
from pipeline.files.atomic import read_json
from pipeline.files.shipped import PROGRAM
from pipeline.report.tables.configurations import describe_setting, flatten, readable
from pipeline.report.tables.markdown import Table, percent
from pipeline.report.tables.runs import METRICS, MeasuredRun, read_runs
from pipeline.segmenter.export import Shape
from pipeline.segmenter.predict import Segmenter
from pipeline.segmenter.stage import CHOSEN_BY

_STYLE = {"sort_keys": False, "allow_unicode": True, "default_flow_style": None}
_TEMPLATE = Path(__file__).with_name("model_card.md")


def write_card(file: str, segmenter: Segmenter, shape: Shape, checkpoint: Path, best: bool) -> str:
    """Returns Markdown: classes, use, metrics, training data and licences.

    Args:
        file: the name of the ONNX file.
        segmenter: the network of mmsegmentation that it was written from.
        shape: the input of the graph.
        checkpoint: where the network was read from, a file or its folder; the manifest and metrics
            of its run are read if they are there.
        best: whether the best checkpoint of the folder was read.
    """
    folder = (checkpoint if checkpoint.is_dir() else checkpoint.parent).resolve()
    manifest, best = read_manifest(folder), best or checkpoint.name.startswith("best_")
    is_last = checkpoint.is_dir() or checkpoint.name == manifest.get("checkpoint")
    runs = _find_runs(folder, best) if best or is_last else []
    settings = readable(manifest.get("configuration", {}), manifest.get("legend", {}))
    # Of files, with masks=file or pipeline.train; no method made them.
    source = settings.get("masks", {}) if isinstance(settings.get("masks"), Mapping) else {}
    colours = ("#{:02x}{:02x}{:02x}".format(*colour) for colour in segmenter.palette)
    classes = zip(map(str, range(256)), segmenter.class_names, colours)
    header, words = ["split", "images", "mIoU (%)", "notes"], ["split", "notes"]
    about, network = runs[0].about if runs else None, segmenter.network
    clip = about and (about.pretrained or about.clip)
    return Template(_TEMPLATE.read_text(encoding="utf-8"), keep_trailing_newline=True).render(
        file=file,
        shape=shape,
        crf=segmenter.crf,
        limits=network.limits.for_photographs(),
        program=PROGRAM.read_text(encoding="utf-8"),
        is_free=None in shape[1:],
        classes=Table(["label", "class", "colour"], [*classes], ["class", "colour"]).text,
        metrics=Table(header, [*map(_row, runs)], words).text if runs else "",
        about=about,
        manifest=manifest,
        settings=yaml.safe_dump(settings, width=100, **_STYLE) if settings else "",
        notes=network.licence_notes,
        initial=manifest.get("initial_weights"),
        licence=find_licence(clip) if clip else "not known",
        masks=source.get("path") or source.get("from"),
        unknown="not known",
    )


def _find_runs(folder: Path, best: bool) -> list[MeasuredRun]:
    """Returns the measured predictions of a network, the latest of each split."""
    file, found = folder.parents[1] / METRICS, {}
    chosen_by = read_json(folder / CHOSEN_BY) if best else None
    for run in read_runs([file] if file.is_file() else [])[0]:
        network = run.figures.get("made_from", {}).get(NETWORK.stage, [""])[-1]
        is_best = run.configuration.get("checkpoint") == "best"
        is_of_it = is_best == best and run.configuration.get("chosen_by") == chosen_by
        if is_of_it and (run.stage, network) == (PREDICTIONS.stage, folder.name):
            found[run.split] = run
    return [*found.values()]


def _row(run: MeasuredRun) -> list[str]:
    test = flatten({"test": run.configuration.get("test", {})})
    notes = [*(f"{name}={describe_setting(value)}" for name, value in test.items()), *run.notes()]
    return [run.split, str(run.images), percent(run.value("miou")), "; ".join(notes)]
