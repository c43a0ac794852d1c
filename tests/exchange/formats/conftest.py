"""What all formats are asked for: masks that were made from the images as they are."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.datasets.vocabulary import voc_palette
from pipeline.files.fingerprints import fingerprint_file
from pipeline.files.images import encode_png
from pipeline.files.label_images import IGNORE
from tests.exchange.conftest import CLASSES
from tests.report.two_runs import change_entries
from tests.small_runs import Finished


@pytest.fixture
def export(run_tool: Callable[..., Finished]) -> Callable[..., Finished]:
    """Exports a folder that was made from the images as they are."""

    def run(name: str, folder: Path, target: Path, images: Path, *arguments: object) -> Finished:
        contents = {
            path.relative_to(images).with_suffix("").as_posix(): fingerprint_file(path)
            for path in images.rglob("*.*")
        }
        made_from = {i: {"photograph": content} for i, content in contents.items()}
        change_entries(folder, lambda e: {"inputs": e["inputs"] | made_from.get(e["id"], {})})
        chosen = ["--format", name, "--output", target, "--images", images]
        return run_tool("export.py", folder, *chosen, *arguments)

    return run


def noisy_labels(seed: int, height: int, width: int) -> np.ndarray:
    """Returns labels with single pixels, holes, and islands in holes, H×W uint8."""
    few = np.random.default_rng(seed).random((5, height // 3 + 2, width // 3 + 2))
    large = few.repeat(3, 1).repeat(3, 2)[:, :height, :width]
    noise = np.random.default_rng(seed + 1).random((5, height, width))
    return np.array([0, 1, 2, 3, IGNORE], np.uint8)[(large + 0.4 * noise).argmax(0)]


@pytest.fixture
def noisy(
    stage_folder: Callable[..., Path], images: Path
) -> tuple[Path, Path, dict[str, np.ndarray]]:
    """A folder of masks that polygons find difficult, its images, and its labels by id.

    Ids have folders, spaces, and letters of other scripts.
    """
    sizes = {"a": (40, 60), "b/c d": (33, 50), "#ü/日本 1": (1, 7), "%2F": (9, 1), "e": (48, 48)}
    labels = {i: noisy_labels(seed, *size) for seed, (i, size) in enumerate(sizes.items())}
    labels["e"][:] = 0  # an image without any region
    for seed, (image_id, size) in enumerate(sizes.items()):
        path = images / f"{image_id}.png"
        path.parent.mkdir(exist_ok=True)
        path.with_suffix(".jpg").unlink(missing_ok=True)
        Image.fromarray(np.full((*size, 3), 50 * seed, np.uint8)).save(path)
    palette = voc_palette(len(CLASSES) + 1)
    folder = stage_folder("masks", {i: encode_png(m, palette) for i, m in labels.items()}, ".png")
    return folder, images, labels


def without_ignored(labels: np.ndarray) -> np.ndarray:
    """Returns labels with 255 as background."""
    return np.where(labels == IGNORE, 0, labels)
