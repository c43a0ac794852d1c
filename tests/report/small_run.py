"""A small run, computed without any model, to write reports of."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from pipeline.cams.cams import Cams, encode_cams
from pipeline.datasets.ground_truth import MaskFile
from pipeline.datasets.settings import VocabularySettings
from pipeline.datasets.vocabulary import build_vocabulary, voc_palette
from pipeline.engine.sample import ImageReader, Sample
from pipeline.engine.store import Store
from pipeline.engine.writer import Writer
from pipeline.evaluation.about import About
from pipeline.files.fingerprints import fingerprint_cached
from pipeline.files.images import encode_png
from pipeline.report.page.images import ReportInputs
from pipeline.tags.scores import tags_output
from tests.results import open_writer, write

HEIGHT, WIDTH = 48, 64
PALETTE = voc_palette(256)

CLASSES = ["cat", "dog", "cup"]
HOSTILE_CLASSES = [
    "<script>hacked=1</script>",
    '"><img src=x onerror=hacked=1>',
    "</template></style>$\\frac{<b>",
]
HOSTILE_IDS = [
    "a<script>hacked=1</script>",
    "b' onclick='hacked=1",
    'c"><svg onload=hacked=1>',
    "d\udcff",
]


def draw_labels(index: int, label: int, width: int) -> np.ndarray:
    """Returns a mask with one rectangle, whose place depends on the index."""
    labels = np.zeros((HEIGHT, WIDTH), np.uint8)
    left = 4 + 3 * (index % 5)
    labels[8:40, left : left + width] = label
    return labels


def halfway(scores: np.ndarray) -> float:
    """The threshold of α = 0.5."""
    low, high = float(scores.min()), float(scores.max())
    return low + 0.5 * (high - low)


def fill(
    folder: Writer,
    samples: list[Sample],
    files: dict[str, dict[str, bytes]],
    facts: Mapping[str, dict] = {},
    failures: Mapping[str, str] = {},
) -> Writer:
    """Completes a folder with the files and the facts of each image."""
    with folder:
        for sample in samples:
            inputs = {"photograph": fingerprint_cached(sample.image)}
            write(folder, sample.id, inputs, files.get(sample.id, {}), **facts.get(sample.id, {}))
        for image_id, reason in failures.items():
            folder.fail(image_id, reason)
        folder.finish([sample.id for sample in samples])
    return folder


def build_run(
    root: Path,
    ids: list[str],
    classes: list[str],
    *,
    truth: bool = True,
    trained: bool = True,
    split: str = "val",
    computed: tuple[str, ...] = ("tags", "cams", "masks"),
    failures: Mapping[str, str] = {},
    **settings: object,
) -> ReportInputs:
    """Returns a run on photographs of one rectangle each.

    Image k shows class k modulo their number. The last image has no tag; every third one has a
    wrong tag beside the right one; masks are 24 pixels wide as the ground truth, predictions lose
    one column more with every image.
    """
    vocabulary = build_vocabulary(VocabularySettings(classes=classes))
    store, count = Store(root / "out"), len(classes)
    samples, facts, files = [], {}, {stage: {} for stage in ("cams", "masks", "predictions")}
    for folder in ("photographs", "truth"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for index, image_id in enumerate(ids):
        label = 1 + index % count
        labels = draw_labels(index, label, 24)
        path, mask = (root / folder / f"{index}.png" for folder in ("photographs", "truth"))
        image = np.full((HEIGHT, WIDTH, 3), 110, np.uint8)
        image[labels > 0] = PALETTE[label]
        image[0, 0] = index
        Image.fromarray(image).save(path)
        mask.write_bytes(encode_png(labels, PALETTE))
        samples.append(Sample(image_id, path, MaskFile(mask) if truth else None))
        tags = [] if index == len(ids) - 1 else [label - 1]
        if index % 3 == 1 and tags:
            tags = sorted({*tags, label % count})
        scores = np.full(count, 0.1, np.float32)
        scores[tags] = 0.8
        facts[image_id] = tags_output(tags, {"scores": scores}).values
        heat = np.array(Image.fromarray((labels > 0).astype(np.float32)).resize((8, 6)))
        maps = np.stack([heat] * len(tags)) if tags else np.zeros((0, 6, 8))
        cams = Cams(np.array(tags, np.int64), maps, (HEIGHT, WIDTH))
        predicted = draw_labels(index, label, max(1, 24 - index))
        files["cams"][image_id] = {f"{image_id}.npz": encode_cams(cams)}
        files["masks"][image_id] = {f"{image_id}.png": encode_png(labels, PALETTE)}
        files["predictions"][image_id] = {f"{image_id}.png": encode_png(predicted, PALETTE)}
    chosen = {"classes": classes, "exif": False}
    writers = {"tags": open_writer(store, split, "tags", {"method": "tagclip", **chosen})}
    writers |= {s: open_writer(store, split, s, {"name": "x", "tags": chosen}) for s in files}
    if "tags" in computed:
        fill(writers["tags"], samples, {}, facts, failures)
    for name in files:
        if name in computed or (trained and name == "predictions"):
            fill(writers[name], samples, files[name])
    settings = {"threshold": halfway, "about": About(dataset="test"), **settings}
    return ReportInputs(
        root=root / "out",
        split=split,
        samples=samples,
        vocabulary=vocabulary,
        read=ImageReader(),
        results={name: writer.results for name, writer in writers.items()},
        stages=[writer.results for writer in writers.values()],
        **settings,
    )
