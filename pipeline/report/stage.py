"""The stage ``report``: tables of what was measured, and pictures of what was computed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

from pipeline.cams.stage import read_cams
from pipeline.datasets.sample import ImageReader, Sample
from pipeline.files import write_atomically
from pipeline.masks.stage import read_labels
from pipeline.metrics.record import MetricsFile
from pipeline.report.pictures import Example, contact_sheet
from pipeline.report.tables import write_tables
from pipeline.store import StageFolder
from pipeline.vocabulary import Vocabulary

_EXAMPLES = 6


def run(
    root: Path,
    samples: Sequence[Sample],
    cams: StageFolder,
    masks: StageFolder,
    predictions: StageFolder | None,
    vocabulary: Vocabulary,
    read: ImageReader,
) -> list[Path]:
    """Writes ``examples.png``, where anything was computed, and ``tables.md``.

    Args:
        root: the output folder.
        samples: the images that examples are taken from, the first ones.
        cams: the folder of their maps.
        masks: the folder of their masks.
        predictions: the folder of their predictions; none before there is a segmenter.
        vocabulary: class names and palette.
        read: decodes the images.

    Returns:
        The files, the tables last.
    """
    files = []
    found = _find_examples(samples, cams, masks, predictions, read)
    examples = list(islice(found, _EXAMPLES))
    if examples:
        files.append(root / "examples.png")
        write_atomically(files[0], contact_sheet(examples, vocabulary))
    metrics = MetricsFile(root / "metrics.json")
    return [*files, write_tables(root / "tables.md", metrics)]


def _find_examples(
    samples: Sequence[Sample],
    cams: StageFolder,
    masks: StageFolder,
    predictions: StageFolder | None,
    read: ImageReader,
) -> Iterator[Example]:
    for sample in samples:
        if sample.id not in cams.entries or sample.id not in masks.entries:
            continue
        image, _ = read(sample)
        predicted = predictions is not None and sample.id in predictions.entries
        yield Example(
            name=sample.id,
            image=image,
            cams=read_cams(cams.path / f"{sample.id}.npz"),
            mask=read_labels(masks.path / f"{sample.id}.png"),
            prediction=read_labels(predictions.path / f"{sample.id}.png") if predicted else None,
            truth=sample.mask.read() if sample.mask is not None else None,
        )
