"""Images, and runs on them that can be killed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.faults.runs import SHORT_TRAINING, Nursery
from tests.small_runs import draw_photograph, folder_options

IMAGES = 24


@pytest.fixture(scope="session")
def nursery(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nursery]:
    """Starts runs."""
    nursery = Nursery(tmp_path_factory.mktemp("nursery"))
    yield nursery
    nursery.close()


@pytest.fixture(scope="session")
def many_photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with images of three sizes; beside it, their masks."""
    root = tmp_path_factory.mktemp("photographs")
    masks = root.with_name(f"{root.name}-masks")
    masks.mkdir()
    for index in range(IMAGES):
        image = draw_photograph(100 + index, 64, 64 + 16 * (index % 3))
        Image.fromarray(image).save(root / f"n{index:02d}.png")
        labels = np.zeros(image.shape[:2], np.uint8)
        labels[10:40, 20:50] = 1 + index % 4
        Image.fromarray(labels).save(masks / f"n{index:02d}.png")
    return root


@pytest.fixture(scope="session")
def options(many_photographs: Path, tiny_checkpoint: Path) -> list[str]:
    """What every run on these images needs, but for ``output_dir``."""
    return [
        *folder_options(many_photographs, tiny_checkpoint),
        f"dataset.masks={many_photographs}-masks",
        "runtime.threads=1",
        *SHORT_TRAINING,
    ]


@pytest.fixture(scope="session")
def undisturbed(
    nursery: Nursery, options: list[str], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """What all stages write when nothing happens to them."""
    folder = tmp_path_factory.mktemp("undisturbed")
    nursery.run(*options, f"output_dir={folder}")
    return folder
