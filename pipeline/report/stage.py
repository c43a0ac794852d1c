"""The stage ``report``: tables of what was measured, and pages and pictures of all the rest."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from pipeline.cams.cams import read_cams
from pipeline.engine.outcome import Outcome
from pipeline.engine.review import Review
from pipeline.engine.store import Store
from pipeline.evaluation.record import MetricsFile
from pipeline.files.atomic import write_atomically
from pipeline.files.label_images import read_labels
from pipeline.report.examples import Example, contact_sheet
from pipeline.report.material import Material
from pipeline.report.measured import UNREADABLE
from pipeline.report.page import write_page
from pipeline.report.tables import write_tables

_EXAMPLES = 6


@dataclass(frozen=True)
class Report(Review):
    """Writes ``examples.png``, ``tables.md`` and ``report.html`` of all rounds.

    Attributes:
        gather: returns what the report is made from.
        round: the last round.
    """

    command = "report"
    gather: Callable[[], Material]
    round: int = 1

    def review(self, store: Store) -> Iterator[Outcome]:
        """Writes the files; yields them, the page last."""
        for path in run(self.gather()):
            yield Outcome("report", "", 0, 0, 0, path)


def run(material: Material) -> list[Path]:
    """Writes ``examples.png``, where anything was computed, ``tables.md`` and ``report.html``.

    Args:
        material: what the report is of.

    Returns:
        The files, the page last.
    """
    root = material.root
    files = []
    examples = list(islice(_find_examples(material), _EXAMPLES))
    if examples:
        files.append(root / "examples.png")
        write_atomically(files[0], contact_sheet(examples, material.vocabulary))
    metrics = MetricsFile(root / "metrics.json")
    tables = write_tables(root / "tables.md", metrics)
    return [*files, tables, write_page(root / "report.html", material, metrics)]


def _find_examples(material: Material) -> Iterator[Example]:
    cams, masks, predictions = material.cams, material.masks, material.predictions
    for sample in material.samples:
        if sample.id not in cams.entries or sample.id not in masks.entries:
            continue
        try:
            image, _ = material.read(sample)
            predicted = predictions is not None and sample.id in predictions.entries
            yield Example(
                name=sample.id,
                image=image,
                cams=read_cams(cams.path / f"{sample.id}.npz"),
                mask=read_labels(masks.path / f"{sample.id}.png"),
                prediction=read_labels(predictions.path / f"{sample.id}.png")
                if predicted
                else None,
                truth=sample.mask.read() if sample.mask is not None else None,
            )
        except UNREADABLE:
            continue  # the page says why
