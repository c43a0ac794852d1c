"""The stage ``report``: tables of what was measured, and pages and pictures of all the rest."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from pipeline.cams.cams import Cams, read_cams
from pipeline.datasets.vocabulary import BACKGROUND
from pipeline.engine.outcome import Outcome
from pipeline.engine.review import Review
from pipeline.engine.sample import Sample
from pipeline.engine.store import Store
from pipeline.evaluation.record import MetricsFile
from pipeline.files.atomic import write_atomically
from pipeline.report.material import Material
from pipeline.report.measured import UNREADABLE, read_all_labels
from pipeline.report.overlays import Tile, cam_tile, draw_sheet, label_tile, photograph_tile
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
    """Writes the files of a report, the page last; ``examples.png`` if anything was computed."""
    root, vocabulary = material.root, material.vocabulary
    files = []
    if examples := list(islice(_examples(material), _EXAMPLES)):
        files.append(root / "examples.png")
        names = (BACKGROUND, *vocabulary.classes)
        write_atomically(files[0], draw_sheet(examples, names, vocabulary.palette))
    metrics = MetricsFile(root / "metrics.json")
    tables = write_tables(root / "tables.md", metrics)
    return [*files, tables, write_page(root / "report.html", material, metrics)]


def _examples(material: Material) -> Iterator[tuple[str, list[Tile | None]]]:
    """Yields images that have CAMs and masks: a title, and a tile for every result."""
    for sample in material.samples:
        if sample.id in material.cams.entries and sample.id in material.masks.entries:
            try:
                yield _example(sample, material)
            except UNREADABLE:
                continue  # the page says why


def _example(sample: Sample, material: Material) -> tuple[str, list[Tile | None]]:
    classes, palette = material.vocabulary.classes, material.vocabulary.palette
    image, _ = material.read(sample)
    cams = read_cams(material.cams.path / f"{sample.id}.npz")
    tags = [classes[k] for k in cams.keys]
    heat = None
    if tags:
        heat = cam_tile(image, Cams(cams.keys[:1], cams.cams[:1], (0, 0)), f"CAM of {tags[0]}")
    labels = read_all_labels(sample, material)
    titled = [
        (labels.mask, "pseudo mask"),
        (labels.prediction, "segmenter"),
        (labels.truth, "ground truth"),
    ]
    tiles = [None if of is None else label_tile(image, of, palette, t) for of, t in titled]
    title = f"{sample.id}: {', '.join(tags) or 'no tag'}"
    return title, [photograph_tile(image, "photograph"), heat, *tiles]
