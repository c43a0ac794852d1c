"""The files of a report: pictures of the first images, tables, and the page.

``report.html`` has all results of a run, and needs no network.
"""

import base64
import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from matplotlib.colors import to_hex

from pipeline.cams.cams import Cams, read_cams
from pipeline.engine.kinds import CAMS, MASKS, NETWORK, TAGS, Kind, label_kinds, measured_kinds
from pipeline.engine.records import finished_at
from pipeline.engine.sample import Sample
from pipeline.evaluation.currency import Currency
from pipeline.evaluation.record import MetricsFile
from pipeline.files.atomic import replacing, write_atomically
from pipeline.files.fingerprints import fingerprint
from pipeline.files.label_images import BACKGROUND
from pipeline.files.text import in_words
from pipeline.report.page.diagrams import draw_confusion, find_confused
from pipeline.report.page.gallery import build_cards, choose_images
from pipeline.report.page.images import ReportInputs, for_each_readable, measure_images
from pipeline.report.page.painting import DIFFERENCE_COLOURS, HEAT, drawing_colours
from pipeline.report.page.sheets import Tile, cam_tiles, draw_sheet, label_tile, photograph_tile
from pipeline.report.tables.configurations import describe_choices
from pipeline.report.tables.latest import collect_tables, write_tables
from pipeline.report.tables.leaderboard import collect_boards
from pipeline.report.tables.markdown import percent
from pipeline.report.tables.runs import METRIC_LABELS, METRICS, runs_of

_HERE = Path(__file__).parent
REPORT_SCRIPTS = ("tables.js", "page.js", "correcting.js")
_EXAMPLES = 6
_HEAT_STOPS = 9
_CLASS_METRICS = {"map": "AP", "miou": "IoU"}
"""Metric that stands for a stage → its name for a single class."""

_CONTROLS = {code: rf"\x{code:02x}" for code in (*range(32), *range(127, 160))}


def write_report(inputs: ReportInputs) -> list[Path]:
    """Writes the files of a report, the page last; ``examples.png`` if anything was computed."""
    root, vocabulary, files = inputs.root, inputs.vocabulary, []
    results = [inputs.results[kind.stage] for kind in (CAMS, MASKS)]
    samples = [s for s in inputs.samples if all(s.id in each.entries for each in results)]
    titles = {kind.layer: kind.title.removesuffix("s") for kind in label_kinds()}
    titles["truth"] = "ground truth"

    def example(sample: Sample) -> tuple[str, list[Tile | None]]:
        """Returns a title, and a tile for every result that the image may have."""
        image, _ = inputs.read(sample)
        cams, layers = read_cams(results[0].path / f"{sample.id}.npz"), inputs.layers(sample)
        tags = ", ".join(vocabulary.classes[k] for k in cams.classes) or "no tag"
        first = Cams(cams.classes[:1], cams.cams[:1], cams.size)
        heat = next(iter(cam_tiles(image, first, vocabulary.classes)), None)
        labels = (
            label_tile(image, layers[layer], vocabulary.palette, title) if layer in layers else None
            for layer, title in titles.items()
        )
        return f"{sample.id}: {tags}", [photograph_tile(image, "image"), heat, *labels]

    # The page says why others cannot be read.
    readable = for_each_readable(samples, example, inputs.workers, {})
    if examples := list(islice(readable, _EXAMPLES)):
        files.append(root / "examples.png")
        names = (BACKGROUND, *vocabulary.classes)
        write_atomically(files[0], draw_sheet(examples, names, vocabulary.palette))
    metrics = MetricsFile(root / METRICS)
    metrics.withhold(Currency(root, inputs.now))
    inputs = replace(inputs, remarks=[*inputs.remarks, *metrics.withheld])
    tables = write_tables(root / "tables.md", metrics)
    return [*files, tables, write_page(root / "report.html", inputs, metrics)]


def write_page(path: Path, inputs: ReportInputs, metrics: MetricsFile) -> Path:
    """Writes the page, or raises a UserError; images are rendered as they are written."""
    stream = load_template("page.html", *REPORT_SCRIPTS).stream(_context(inputs, metrics))
    with replacing(path) as file:
        # Names of files need not be Unicode.
        stream.dump(file, encoding="utf-8", errors="backslashreplace")
    return path


def script_of(*names: str) -> str:
    """Returns the script, or the style, of a page, which is made of these files."""
    return "".join((_HERE / each).read_text(encoding="utf-8") for each in names)


def load_template(name: str, *scripts: str, folder: Path = _HERE) -> Template:
    """Returns the template of a page, with its style and the scripts that it runs."""
    # All values are escaped, control characters too, except those that the template marks as safe.
    environment = Environment(
        loader=FileSystemLoader(folder),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=lambda value: value.translate(_CONTROLS) if type(value) is str else value,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "percent": percent,
        "colour": lambda rgb: "#{:02x}{:02x}{:02x}".format(*rgb),
        "duration": in_words,
        "count": lambda number: "–" if number is None else f"{number:,}",
        "finished": finished_at,
        "choices": describe_choices,
    }
    script = script_of(*scripts)
    environment.globals |= {
        "style": script_of("theme.css", "page.css"),
        "script": script,
        # The browser runs no other script, whatever its origin, and fetches nothing.
        "script_digest": base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        "written": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "differences": dict(zip(("missed", "extra", "confused"), DIFFERENCE_COLOURS.values())),
    }
    return environment.get_template(name)


def _context(inputs: ReportInputs, metrics: MetricsFile) -> dict[str, Any]:
    """Returns the variables of the template; images are rendered when it reaches them."""
    measured = measure_images(inputs)
    selection = choose_images(measured.images, inputs.settings.images)
    # Those of exactly the folders that the page shows.
    shown, every = inputs.results.values(), measured_kinds()
    found = {r.name: metrics.find(r.name, r.split, r.key) for r in shown}
    figures = {every[stage]: entry for stage, entry in found.items() if entry is not None}
    stages = [each for each in inputs.stages if each.manifest or each.entries or each.failures]
    images, seconds = {}, Counter()  # stage → split → those of each of its folders; of all
    versions = {}  # package, or "host" → those that occur
    for results in stages:
        manifest = results.manifest
        counts = images.setdefault(results.name, {}).setdefault(results.split, [])
        counts.append(manifest.get("images") or 0)
        seconds[results.name] += manifest.get("seconds") or 0
        host = {"host": manifest["host"]} if "host" in manifest else {}
        for package, version in (manifest.get("versions", {}) | host).items():
            versions.setdefault(package, {})[version] = None
    tagged = [image for image in measured.images if image.tags is not None]
    images_of = Counter(index for image in tagged for index in image.tags)
    return {
        "inputs": inputs,
        "classes": inputs.vocabulary.classes,
        "palette": drawing_colours(inputs.vocabulary.palette),
        "selection": selection,
        "title": inputs.about.dataset or inputs.root.name,
        "figures": {kind.title: (kind.metric, entry) for kind, entry in figures.items()},
        "metric_labels": METRIC_LABELS,
        "tables": collect_tables(metrics),
        # A single combination is in the tables above.
        "boards": [board for board in collect_boards(runs_of(metrics)) if len(board.rows) > 1],
        "shown_keys": {results.key for results in shown},
        "flow": [(stage, splits, seconds[stage]) for stage, splits in images.items()],
        "has_network": any(results.name == NETWORK.stage for results in inputs.stages),
        "stages": stages,
        "versions": versions,
        "class_columns": {k.stage: f"{k.name}, {_CLASS_METRICS[k.metric]}" for k in figures},
        "class_rows": list(_class_rows(figures, inputs.vocabulary.classes, images_of)),
        "layers": [kind.layer for kind in label_kinds()],
        "confusions": {n: found for n, found in measured.confusions.items() if found.matrix.any()},
        "draw_confusion": draw_confusion,
        "find_confused": find_confused,
        "cards": build_cards(selection, inputs, measured.problems),
        "corrections": _corrections(inputs),
        "tagged": sum(len(image.copies) for image in tagged),
        "untagged": sum(len(image.copies) for image in tagged if not image.tags),
        "copied": sum(len(image.copies) - 1 for image in measured.images),
        "judged": any(f.truth is not None and f.tags is not None for f in measured.images),
        "labels": (BACKGROUND, *inputs.vocabulary.classes),
        "compares": any(f.iou is not None or f.disagreement is not None for f in selection.images),
        "heat": [to_hex(colour) for colour in HEAT(np.linspace(0, 1, _HEAT_STOPS))],
        "failures": _failures(inputs, measured.problems),
    }


def _corrections(inputs: ReportInputs) -> dict[str, Any]:
    """Returns what the page needs to write a file of corrections, earlier ones included."""
    classes, palette = inputs.vocabulary.classes, drawing_colours(inputs.vocabulary.palette)
    return {
        "key": f"corrections {fingerprint([str(inputs.root), inputs.split])}",
        "split": inputs.split,
        "splits": len(inputs.splits),
        "earlier": [
            (split, image_id, [classes[k] for k in labels])
            for split, images in inputs.corrections.items()
            for image_id, labels in images.items()
        ],
        "classes": classes,
        "colours": [to_hex(np.array(colour) / 255) for colour in palette[1:]],
    }


def _class_rows(
    figures: Mapping[Kind, Mapping], classes: Sequence[str], tagged: Counter[int]
) -> Iterator[dict[str, Any]]:
    """Yields each class's tags, AP and IoU, as far as measured; those of the background first."""
    if not figures and not tagged:
        return
    for label, name in enumerate((BACKGROUND, *classes)):
        if not label and not figures.keys() - {TAGS}:
            continue
        found = {kind: entry["per_class"].get(name, {}) for kind, entry in figures.items()}
        positives = found.get(TAGS, {}).get("positives")
        yield {
            "label": label,
            "name": name,
            "tagged": tagged[label - 1] if label and tagged else None,
            "positives": positives,
            # Without positives, average precision is not defined.
            "measures": {
                kind.stage: values.get(_CLASS_METRICS[kind.metric].lower())
                for kind, values in found.items()
                if kind is not TAGS or positives
            },
        }


def _failures(
    inputs: ReportInputs, problems: Mapping[str, str]
) -> Iterator[tuple[str, str, str, str]]:
    """Yields stages, split, image and reason of what the stages and this page skipped."""
    # Those of this page are known when the images above are rendered.
    found = [(each.name, each.split, each.failures) for each in inputs.stages]
    stages: dict[tuple[str, str, str], dict[str, None]] = {}
    for stage, split, failures in [*found, ("report", inputs.split, problems)]:
        for image_id, reason in sorted(failures.items()):
            stages.setdefault((split, image_id, reason), {})[stage] = None
    for failure, names in stages.items():
        yield ", ".join(names), *failure
