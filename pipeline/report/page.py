"""``report.html``: all results of a run in one file, which needs no network."""

from __future__ import annotations

import base64
import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from pipeline.datasets.vocabulary import BACKGROUND
from pipeline.evaluation.record import MetricsFile
from pipeline.files.atomic import replacing
from pipeline.files.text import in_words
from pipeline.report import overview
from pipeline.report.figures import draw_confusion, draw_margins, find_confused
from pipeline.report.gallery import build_cards
from pipeline.report.layers import CONFUSED, DIFFERENCE_COLOURS, EXTRA, MISSED
from pipeline.report.markdown import percent
from pipeline.report.material import Material
from pipeline.report.measured import ImageFigures, Measured, measure_images
from pipeline.report.painting import HEAT
from pipeline.report.runs import STAGE_NAMES
from pipeline.report.selection import Selection, choose_images
from pipeline.report.tables import collect_tables

_HERE = Path(__file__).parent
_HEAT_STOPS = 9


def write_page(path: Path, material: Material, metrics: MetricsFile) -> Path:
    """Writes the page and returns its path; images are rendered as they are written.

    Raises:
        UserError: the file cannot be written.
    """
    measured = measure_images(material)
    selection = choose_images(measured.images, material.max_images)
    context = _context(material, metrics, measured, selection)
    # All values are escaped, except those marked as HTML below.
    environment = Environment(
        loader=FileSystemLoader(_HERE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "percent": percent,
        "colour": _colour,
        "duration": in_words,
        "count": lambda number: "–" if number is None else f"{number:,}",
    }
    stream = environment.get_template("page.html").stream(context)
    with replacing(path) as file:
        # Names of files need not be Unicode.
        stream.dump(file, encoding="utf-8", errors="backslashreplace")
    return path


def _context(
    material: Material, metrics: MetricsFile, measured: Measured, selection: Selection
) -> dict[str, Any]:
    """Returns the variables of the template; images are rendered when it reaches them."""
    figures = overview.find_figures(metrics, material)
    classes, problems = material.vocabulary.classes, measured.problems
    rows = overview.stage_rows(material.stages, str(material.root))
    script = (_HERE / "page.js").read_text(encoding="utf-8")
    stops = HEAT([k / (_HEAT_STOPS - 1) for k in range(_HEAT_STOPS)])[:, :3]
    return {
        "style": Markup((_HERE / "page.css").read_text(encoding="utf-8")),
        "script": Markup(script),
        # The browser runs no other script, whatever its origin, and fetches nothing.
        "script_digest": base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        "title": material.about.get("dataset") or material.root.name,
        "split": material.split,
        "written": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "about": {key: value for key, value in material.about.items() if value},
        "headlines": overview.headlines(figures),
        "tables": collect_tables(metrics),
        "flow": overview.steps(rows),
        "stages": rows,
        "versions": overview.common_versions(rows),
        "class_columns": {stage: STAGE_NAMES[stage] for stage in figures},
        "class_rows": overview.class_rows(figures, classes, measured.images),
        "confusions": _confusions(measured, classes),
        "margins": Markup(draw_margins(measured.images)),
        "cards": build_cards(selection, material, problems),
        "selection": selection,
        "argmax_title": material.argmax_title,
        "marks": _marks(measured.images, selection),
        "filters": sorted(Counter(k for f in selection.images for k in f.classes).items()),
        "classes": classes,
        "palette": material.vocabulary.palette,
        "split_images": len(material.samples),
        "compares": any(f.iou is not None or f.disagreement is not None for f in selection.images),
        "differences": [
            (DIFFERENCE_COLOURS[MISSED], "missed", "only in the second of the two"),
            (DIFFERENCE_COLOURS[EXTRA], "extra", "only in the first of the two"),
            (DIFFERENCE_COLOURS[CONFUSED], "confused", "an object in both, of different classes"),
        ],
        "heat": [_colour([round(255 * channel) for channel in stop]) for stop in stops],
        "failures": overview.list_failures(material, problems),
    }


def _confusions(measured: Measured, classes: tuple[str, ...]) -> list[dict[str, Any]]:
    names = (BACKGROUND, *classes)
    titled = {"masks": measured.masks, "predictions": measured.predictions}
    return [
        {
            "title": f"{title} against the ground truth",
            "svg": Markup(draw_confusion(confusion, names, title)),
            "miou": confusion.miou(),
            "worst": [(names[c.truth], names[c.taken_for], c) for c in find_confused(confusion)],
        }
        for title, confusion in titled.items()
        if confusion.matrix.any()
    ]


def _marks(images: Sequence[ImageFigures], selection: Selection) -> Mapping[str, str]:
    """Returns the filters of images apart from their classes, each with its words."""
    marks = {}
    if any(f.truth is not None and f.tags is not None for f in images):
        marks = {"with-wrong": "with a wrong tag", "with-missed": "with a missed class"}
    if any(f.tags == () for f in selection.images):
        marks["without-tags"] = "without tags"
    reasons = dict.fromkeys(selection.reasons.values())
    return marks | {reason.replace(" ", "-"): f"selected as: {reason}" for reason in reasons}


def _colour(rgb: Sequence[int]) -> str:
    return "#{:02x}{:02x}{:02x}".format(*rgb)
