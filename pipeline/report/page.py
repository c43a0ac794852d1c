"""``report.html``: one file with everything that a run led to, which opens without a network."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from pipeline.evaluation.record import MetricsFile
from pipeline.files.atomic import replacing
from pipeline.report import overview
from pipeline.report.figures import draw_confusion, draw_margins, find_confused
from pipeline.report.gallery import build_cards, classes_with_counts
from pipeline.report.layers import DIFFERENCE_COLOURS, EXTRA, HEAT, MISSED, OTHER
from pipeline.report.markdown import percent
from pipeline.report.material import Material
from pipeline.report.measured import Measured, measure_images
from pipeline.report.selection import Selection, choose_images
from pipeline.report.tables import collect_tables

_HERE = Path(__file__).parent
_STAGES = {
    "tags": "tags",
    "cams": "maps",
    "masks": "masks",
    "predictions": "segmenter",
}
_HEAT_STOPS = 9


def write_page(path: Path, material: Material, metrics: MetricsFile) -> Path:
    """Writes the page and returns its path.

    Images are rendered one after the other and written as they come.

    Args:
        path: the file.
        material: what the page is of.
        metrics: what was measured.

    Raises:
        UserError: the file cannot be written.
    """
    measured = measure_images(material)
    selection = choose_images(measured.images, material.most_images)
    context = _context(material, metrics, measured, selection)
    # Whatever is put into the page is escaped, but for what is marked as HTML here.
    environment = Environment(
        loader=FileSystemLoader(_HERE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"percent": percent, "colour": _colour}
    stream = environment.get_template("page.html").stream(context)
    with replacing(path) as file:
        # Names of files need not be Unicode.
        stream.dump(file, encoding="utf-8", errors="backslashreplace")
    return path


def _context(
    material: Material, metrics: MetricsFile, measured: Measured, selection: Selection
) -> dict[str, Any]:
    """Returns what the template asks for; the images are rendered when it comes to them."""
    figures = overview.find_figures(metrics, material)
    classes = material.vocabulary.classes
    problems = measured.problems
    rows = overview.stage_rows(material.stages, str(material.root))
    style = (_HERE / "page.css").read_text(encoding="utf-8")
    script = (_HERE / "page.js").read_text(encoding="utf-8")
    return {
        "style": Markup(style),
        "script": Markup(script),
        # No other script is run, wherever it might come from, and nothing is fetched.
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
        "class_columns": {stage: _STAGES[stage] for stage in figures},
        "class_rows": overview.class_rows(figures, classes, measured.images),
        "confusions": _confusions(measured, classes),
        "margins": Markup(draw_margins(measured.images)),
        "cards": build_cards(selection, material, problems),
        "selection": selection,
        "argmax_title": material.argmax_title,
        "marks": _marks(measured, selection),
        "filters": classes_with_counts(selection.images),
        "classes": classes,
        "palette": material.vocabulary.palette,
        "split_images": len(material.samples),
        "compares": any(f.iou is not None or f.disagreement is not None for f in selection.images),
        "differences": [
            (DIFFERENCE_COLOURS[MISSED], "missed", "only in the second of the two"),
            (DIFFERENCE_COLOURS[EXTRA], "extra", "only in the first of the two"),
            (DIFFERENCE_COLOURS[OTHER], "confused", "an object in both, of another class"),
        ],
        "heat": [
            _colour([round(255 * c) for c in HEAT(k / (_HEAT_STOPS - 1))[:3]])
            for k in range(_HEAT_STOPS)
        ],
        "failures": overview.list_failures(material, problems),
    }


def _confusions(measured: Measured, classes: tuple[str, ...]) -> list[dict[str, Any]]:
    names = (overview.BACKGROUND, *classes)
    found = [("masks", measured.masks), ("predictions", measured.predictions)]
    return [
        {
            "title": f"{title} against the ground truth",
            "svg": Markup(draw_confusion(confusion, names, title)),
            "miou": confusion.miou(),
            "worst": [(names[c.truth], names[c.taken_for], c) for c in find_confused(confusion)],
        }
        for title, confusion in found
        if confusion.matrix.any()
    ]


def _marks(measured: Measured, selection: Selection) -> Mapping[str, str]:
    """Returns what images can be filtered by beside their classes, with the words for it."""
    marks = {}
    if any(f.truth is not None and f.tags is not None for f in measured.images):
        marks = {"with-wrong": "with a wrong tag", "with-missed": "with a missed class"}
    if any(f.tags == () for f in selection.images):
        marks["without-tags"] = "without tags"
    chosen = dict.fromkeys(selection.reasons.values())
    return marks | {reason.replace(" ", "-"): f"chosen as: {reason}" for reason in chosen}


def _colour(rgb: tuple[int, int, int] | list[int]) -> str:
    return "#{:02x}{:02x}{:02x}".format(*rgb)
