"""What a million images, and a hundred million, take: hours, files, bytes, memory, messages."""

from __future__ import annotations

import os
import pickle
import tempfile
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from skimage.filters import gaussian

from pipeline.benchmark.setup import Setup, load_photographs, seconds_an_image, tags_and_maps
from pipeline.cams.cams import Cams, encode_cams
from pipeline.cams.clip_es import ClipEsOptions
from pipeline.cams.stage import ComputedCams
from pipeline.clip.device import Batches, keep_freed_memory
from pipeline.clip.frozen import FrozenClip, Resources
from pipeline.datasets.vocabulary import Vocabulary, voc_palette
from pipeline.engine.reading import Reading
from pipeline.engine.registry import method_of
from pipeline.engine.sample import ImageReader, Sample
from pipeline.engine.stage import Item
from pipeline.engine.store import ENTRIES, Store
from pipeline.files.fingerprints import fingerprint_file, remember_in
from pipeline.files.images import encode_png
from pipeline.files.journal import Journal
from pipeline.masks.crf import CrfOptions
from pipeline.masks.pseudo_mask import pseudo_mask
from pipeline.report.markdown import markdown_table
from pipeline.tags.scores import encode_scores

_IMAGES = 2000  # that files are written and read for
_PHOTOGRAPH = 80_000  # bytes, as VOC's and ImageNet's have
_SIZES = (10_582, 1_300_000, 100_000_000)


def scale(setup: Setup, size: tuple[int, int]) -> str:
    """Returns what was measured of one image, and what many of them come to.

    Args:
        setup: the models.
        size: width and height of the images.
    """
    keep_freed_memory()  # as the stages do
    computing = seconds_an_image(tags_and_maps, setup, load_photographs(4, *size))
    photograph = load_photographs(1, *size)[0]
    noise = np.random.default_rng(0).random((2, size[1] // 16, size[0] // 16))
    maps = np.stack([gaussian(each, 3) for each in noise])  # as smooth as maps are
    maps = ((maps - maps.min()) / np.ptp(maps)).astype(np.float16)
    cams = Cams(np.array([0, 14]), maps, size[::-1])
    began = time.perf_counter()
    labels, _ = pseudo_mask(photograph, cams, CrfOptions(), bgr=True, fp16=True)
    masking = time.perf_counter() - began
    with tempfile.TemporaryDirectory() as folder:
        measured = _measure_store(
            Path(folder), encode_cams(cams), encode_png(labels, voc_palette(21))
        )
    rates = [
        ["photographs read for the first time", f"{measured['first']:.0f} a second"],
        ["photographs known from an earlier run", f"{measured['known']:.0f} a second"],
        ["results written, a file and a line each", f"{measured['written']:.0f} a second"],
        ["results checked when a stage begins", f"{measured['checked']:.0f} a second"],
        ["bytes of an image's maps, mask and lines", f"{measured['bytes']:.0f}"],
        ["of these, lines", f"{measured['lines']:.0f}"],
        ["memory of an image's lines in three stages", f"{measured['memory']:.0f} bytes"],
        ["a shard of 16 images on its way to a worker", f"{measured['shard'] / 1024:.1f} KiB"],
        ["tags and maps", f"{computing:.2f} s an image"],
        ["mask, one process", f"{masking:.2f} s an image"],
    ]
    cores = os.cpu_count() or 1
    rows = [
        [
            f"{images:,}",
            _hours(images * (computing + masking / cores)),
            f"{images * (computing + masking / cores) / 48 / 3600:,.1f}",
            f"{2 * images:,}",
            _bytes(images * measured["bytes"]),
            _bytes(images * measured["memory"]),
            _hours(2 * images / measured["checked"] + images / measured["known"]),
            _bytes(images / 16 * measured["shard"]),
        ]
        for images in _SIZES
    ]
    header = ["images", "hours on this machine", "machines for a weekend (48 h)", "files", "disk"]
    header += ["memory", "hours of checks when all is there", "messages to workers"]
    one = markdown_table(["one image", ""], rates)
    return f"## Scale\n\n{one}\n{markdown_table(header, rows)}"


def _measure_store(root: Path, maps: bytes, mask: bytes) -> dict[str, float]:
    """Measures what the store does for every image; rates are images a second."""
    photographs = root / "photographs"
    photographs.mkdir()
    samples = []
    for index in range(_IMAGES):
        path = photographs / f"{index:06d}.jpg"
        path.write_bytes(os.urandom(_PHOTOGRAPH))
        os.utime(path, (0, 0))  # long settled
        samples.append(Sample(path.stem, path))
    store = Store(root / "out")
    store.root.mkdir()
    found = {}

    def rate(work: Callable[[], Any]) -> float:
        began = time.perf_counter()
        work()
        return _IMAGES / (time.perf_counter() - began)

    for name in ("first", "known"):
        remember_in(store.root)
        found[name] = rate(lambda: [fingerprint_file(s.image) for s in samples])
    scores = encode_scores(np.zeros(20, np.float32))
    folders = {
        stage: store.folder("train", stage, {"stage": stage}) for stage in ("tags", "cams", "masks")
    }
    with folders["tags"] as tags, folders["cams"] as cams, folders["masks"] as masks:
        for sample in samples:
            tags.write(sample.id, "0" * 16, {}, tags=[0, 14], scores={"scores": scores})
        written = rate(lambda: [cams.write(s.id, "0" * 33, {f"{s.id}.npz": maps}) for s in samples])
        for sample in samples:
            masks.write(sample.id, "0" * 33, {f"{sample.id}.png": mask})
        found["written"] = written
        found["checked"] = rate(lambda: [cams.is_whole(s.id) for s in samples])
    lines = [folder.path / ENTRIES for folder in folders.values()]
    journals = sum(path.stat().st_size for path in (*lines, store.root / ".fingerprints.jsonl"))
    found["lines"] = journals / _IMAGES
    found["bytes"] = len(maps) + len(mask) + found["lines"]
    tracemalloc.start()
    kept = [Journal(path).entries for path in lines]
    found["memory"] = tracemalloc.get_traced_memory()[0] / _IMAGES
    tracemalloc.stop()
    del kept
    remember_in(None)
    shard = [Item(sample, "0" * 33, (0, 14)).portable() for sample in samples[:16]]
    place = (folders["cams"].path, "cams", "train", "0" * 16)
    found["shard"] = len(pickle.dumps((pickle.dumps(_stage()), [place], shard)))
    return found


def _stage() -> ComputedCams:
    """Returns a stage as large as those of a run."""
    options = ClipEsOptions()
    method = method_of(options)
    names = tuple((f"class {k}",) for k in range(20))
    vocabulary = Vocabulary(tuple(name for (name,) in names), names, names)
    clip = FrozenClip(
        model="ViT-B-16-quickgelu",
        pretrained="openai",
        checkpoint=None,
        device="cpu",
        precision="fp32",
        max_patches=4096,
        position_fp16=True,
        batches=Batches(1, 4, 8),
    )
    return ComputedCams(
        split="train",
        vocabulary=vocabulary,
        method=method,
        options=options,
        reading=Reading(ImageReader(), 1, 8),
        resources=Resources(vocabulary, "cpu", clip, SimpleNamespace(open_border=True)),
    )


def _hours(seconds: float) -> str:
    return f"{seconds / 3600:,.2f}"


def _bytes(count: float) -> str:
    for unit in ("KB", "MB", "GB"):
        count /= 1000
        if count < 1000:
            return f"{count:.1f} {unit}"
    return f"{count / 1000:.1f} TB"
