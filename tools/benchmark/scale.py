"""What a million images, and a hundred million, take: hours, files, bytes, memory, messages."""

from __future__ import annotations

import os
import pickle
import tempfile
import tracemalloc
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import joblib
import numpy as np
from rich.filesize import decimal

from pipeline.cams.cams import encode_cams
from pipeline.datasets.vocabulary import voc_palette
from pipeline.engine.records import ENTRIES, holds, write_result
from pipeline.engine.results import Results
from pipeline.engine.sample import Sample
from pipeline.engine.stage import Item
from pipeline.engine.store import Store
from pipeline.engine.writer import Writer
from pipeline.files import fingerprints
from pipeline.files.fingerprints import fingerprint_cached, remember_in
from pipeline.files.images import encode_png
from pipeline.files.journal import Journal
from pipeline.masks.crf import CrfOptions
from pipeline.masks.pseudo_mask import pseudo_mask
from pipeline.report.tables.markdown import Table
from pipeline.tags.scores import tags_output
from tools.benchmark.masks import random_cams
from tools.benchmark.setup import (
    Setup,
    load_photographs,
    seconds_an_image,
    section,
    stages_of_run,
    timed,
)

_IMAGES = 2000  # that files are written and read for
_PHOTOGRAPH = 80_000  # bytes, as VOC's and ImageNet's have
_SIZES = (10_582, 1_300_000, 100_000_000)


def scale(setup: Setup, size: tuple[int, int]) -> str:
    """Returns what an image of width and height ``size`` takes, and what many of them come to."""
    computing = seconds_an_image(setup.tag_and_cams, load_photographs(4, *size))
    (photograph,), cams = load_photographs(1, *size), random_cams(size, seed=0)
    label = partial(pseudo_mask, photograph, cams, CrfOptions(), bgr=True, fp16=True)
    masking = timed(label)
    mask = encode_png(label()[0], voc_palette(21))
    with tempfile.TemporaryDirectory() as folder:
        one = _measure_store(Path(folder), encode_cams(cams), mask)
    rates = [
        ["photographs read for the first time", f"{one['first']:.0f} a second"],
        ["photographs known from an earlier run", f"{one['known']:.0f} a second"],
        ["results written, a file and a line each", f"{one['written']:.0f} a second"],
        ["results checked when a stage begins", f"{one['checked']:.0f} a second"],
        ["bytes of an image's CAMs, mask and lines", f"{one['bytes']:.0f}"],
        ["of these, lines", f"{one['lines']:.0f}"],
        ["memory of an image's lines in three stages", f"{one['memory']:.0f} bytes"],
        ["a shard of 16 images on its way to a worker", f"{one['shard'] / 1024:.1f} KiB"],
        ["tags and CAMs", f"{computing:.2f} s/image"],
        ["mask, one process", f"{masking:.2f} s/image"],
    ]
    hours = (computing + masking / joblib.cpu_count()) / 3600
    checking = (2 / one["checked"] + 1 / one["known"]) / 3600
    rows = [
        [
            f"{images:,}",
            f"{images * hours:,.2f}",
            f"{images * hours / 48:,.1f}",
            f"{2 * images:,}",
            decimal(round(images * one["bytes"])),
            decimal(round(images * one["memory"])),
            f"{images * checking:,.2f}",
            decimal(round(images / 16 * one["shard"])),
        ]
        for images in _SIZES
    ]
    header = ["images", "hours on this machine", "machines for a weekend (48 h)", "files", "disk"]
    header += ["memory", "hours of checks when all is there", "messages to workers"]
    of_one = section("Scale", ["one image", ""], rates)
    return f"{of_one}\n{Table(header, rows, header[:1]).narrow}"


def _measure_store(root: Path, cams_file: bytes, mask: bytes) -> dict[str, float]:
    """Measures what the store does for every image; rates are images a second."""
    samples = []
    for index in range(_IMAGES):
        path = root / f"{index:06d}.jpg"
        path.write_bytes(os.urandom(_PHOTOGRAPH))
        os.utime(path, (0, 0))  # long settled
        samples.append(Sample(path.stem, path))
    store = Store(root / "out")
    store.root.mkdir()
    found: dict[str, float] = {}

    def rate(name: str, work: Callable[[Sample], object]) -> None:
        found[name] = _IMAGES / timed(lambda: [work(sample) for sample in samples])

    for name in ("first", "known"):
        remember_in(store.root)
        rate(name, lambda sample: fingerprint_cached(sample.image))
    remember_in(None)
    names = ("tags", "cams", "masks")
    folders = [Results(store.root / "train" / name / "key", split="train") for name in names]
    scores = tags_output([], {"scores": np.zeros(20, np.float32)}).values["scores"]
    tags, cams, masks = writers = [Writer(folder, {}, store) for folder in folders]

    def write(writer: Writer, *result: object, **values: object) -> None:
        writer.adopt(write_result(writer.path, "", *result, **values))

    with ExitStack() as locks:
        for writer in writers:
            locks.enter_context(writer)
        for sample in samples:
            made_from = {"photograph": "0" * 16}
            write(tags, sample.id, made_from, {}, tags=[0, 14], scores=scores)
            write(masks, sample.id, {**made_from, "cams": "0" * 16}, {f"{sample.id}.png": mask})
        read = {"photograph": "0" * 16, "tags.tags": "0" * 16}
        rate("written", lambda s: write(cams, s.id, read, {f"{s.id}.npz": cams_file}))
        rate("checked", lambda s: holds(cams.path, cams.results.entries[s.id]))
    lines = [folder.path / ENTRIES for folder in folders]
    journals = [*lines, store.root / fingerprints.FILE]
    found["lines"] = sum(path.stat().st_size for path in journals) / _IMAGES
    found["bytes"] = len(cams_file) + len(mask) + found["lines"]
    tracemalloc.start()
    kept = [Journal(path).entries for path in lines]
    found["memory"] = tracemalloc.get_traced_memory()[0] / _IMAGES
    tracemalloc.stop()
    del kept
    shard = [
        Item(sample, {"photograph": "0" * 16, "tags.tags": "0" * 16}, (0, 14))
        for sample in samples[:16]
    ]
    places = [(cams.path, "0" * 16)]
    found["shard"] = len(pickle.dumps((pickle.dumps(stages_of_run()["cams"]), places, shard)))
    return found
