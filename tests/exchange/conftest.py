"""Folders of finished stages with few images, as the pipeline writes them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.cams.cams import Cams, encode_cams
from pipeline.datasets.vocabulary import voc_palette
from pipeline.files.images import encode_png
from pipeline.files.label_images import IGNORE
from tests import results
from tests.small_runs import draw_photograph

CLASSES = ["cat", "person", 'it\'s {a} "cup"']
SIZES = {"a": (40, 60), "b/c d": (33, 50), "e": (48, 48)}


def draw_labels(seed: int, height: int, width: int) -> np.ndarray:
    """Returns labels 0 to 3 and 255 in squares of 8 pixels, H×W uint8."""
    rng = np.random.default_rng(seed)
    few = rng.choice([0, 1, 2, 3, IGNORE], (-(-height // 8), -(-width // 8)))
    return few.repeat(8, 0).repeat(8, 1)[:height, :width].astype(np.uint8)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """The photographs of the stages' folders, JPEG."""
    root = tmp_path / "images"
    for seed, (image_id, size) in enumerate(SIZES.items()):
        path = root / f"{image_id}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draw_photograph(seed, *size)).save(path)
    return root


@pytest.fixture
def stage_folder(tmp_path: Path) -> Callable[..., Path]:
    """Writes a finished folder of a stage from id → the bytes of its file."""

    def write(stage: str, files: dict[str, bytes], suffix: str, exif: bool = True) -> Path:
        configuration = {"classes": CLASSES, "exif": exif}
        folder = results.open_writer(tmp_path / "out", "val", stage, configuration)
        with folder:
            for image_id, data in files.items():
                results.write(
                    folder, image_id, {"photograph": "input"}, {f"{image_id}{suffix}": data}
                )
            folder.finish(list(files))
        return folder.path

    return write


@pytest.fixture
def labels() -> dict[str, np.ndarray]:
    """Id → labels of the stages' folders."""
    return {i: draw_labels(seed, *size) for seed, (i, size) in enumerate(SIZES.items())}


@pytest.fixture
def masks(stage_folder: Callable[..., Path], labels: dict[str, np.ndarray]) -> Path:
    """A finished folder of masks."""
    palette = voc_palette(256)[: len(CLASSES) + 1]
    return stage_folder("masks", {i: encode_png(m, palette) for i, m in labels.items()}, ".png")


@pytest.fixture
def cams(stage_folder: Callable[..., Path]) -> Path:
    """A finished folder of CAMs; one image has no tag."""
    rng = np.random.default_rng(0)
    files = {}
    for image_id, size in SIZES.items():
        keys = np.array([] if image_id == "e" else [0, 2], np.int64)
        maps = rng.random((len(keys), 3, 4)).astype(np.float16)
        files[image_id] = encode_cams(Cams(keys, maps, size))
    return stage_folder("cams", files, ".npz")
