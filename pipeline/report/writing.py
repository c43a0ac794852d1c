"""Writes the files of a report: pictures of the first images, tables, and the page."""

from dataclasses import replace
from itertools import islice
from pathlib import Path

from pipeline.cams.cams import Cams, read_cams
from pipeline.engine.kinds import CAMS, MASKS, label_kinds
from pipeline.engine.sample import Sample
from pipeline.evaluation.currency import Currency
from pipeline.evaluation.record import MetricsFile
from pipeline.files.atomic import write_atomically
from pipeline.files.label_images import BACKGROUND
from pipeline.report.measured import ReportInputs, for_each_readable
from pipeline.report.page import write_page
from pipeline.report.runs import METRICS
from pipeline.report.sheets import Tile, cam_tiles, draw_sheet, label_tile, photograph_tile
from pipeline.report.tables import write_tables

_EXAMPLES = 6


def write_report(inputs: ReportInputs) -> list[Path]:
    """Writes the files of a report, the page last; ``examples.png`` if anything was computed."""
    root, vocabulary, files = inputs.root, inputs.vocabulary, []
    folders = [inputs.folders[kind.stage] for kind in (CAMS, MASKS)]
    samples = [s for s in inputs.samples if all(s.id in f.entries for f in folders)]
    titles = {kind.layer: kind.title.removesuffix("s") for kind in label_kinds()}
    titles["truth"] = "ground truth"

    def example(sample: Sample) -> tuple[str, list[Tile | None]]:
        """Returns a title, and a tile for every result that the image may have."""
        image, _ = inputs.read(sample)
        cams, layers = read_cams(folders[0].path / f"{sample.id}.npz"), inputs.layers(sample)
        tags = ", ".join(vocabulary.classes[k] for k in cams.keys) or "no tag"
        first = Cams(cams.keys[:1], cams.cams[:1], cams.size)
        heat = next(iter(cam_tiles(image, first, vocabulary.classes)), None)
        labels = (
            label_tile(image, layers[layer], vocabulary.palette, title) if layer in layers else None
            for layer, title in titles.items()
        )
        return f"{sample.id}: {tags}", [photograph_tile(image, "photograph"), heat, *labels]

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
