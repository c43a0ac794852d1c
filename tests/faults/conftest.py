"""Images, and runs on them that can be killed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from tests.conftest import draw_photograph
from tests.faults.runs import TINY_SEGMENTER, Nursery

IMAGES = 24


@pytest.fixture(scope="session")
def nursery(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nursery]:
    """Starts runs."""
    nursery = Nursery(tmp_path_factory.mktemp("nursery"))
    yield nursery
    nursery.close()


@pytest.fixture(scope="session")
def many_photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with images of three sizes."""
    root = tmp_path_factory.mktemp("photographs")
    for index in range(IMAGES):
        image = draw_photograph(100 + index, 64, 64 + 16 * (index % 3))
        Image.fromarray(image).save(root / f"n{index:02d}.png")
    return root


@pytest.fixture(scope="session")
def options(many_photographs: Path, tiny_checkpoint: Path) -> list[str]:
    """What every run on these images needs, but for ``output_dir``."""
    return [
        "dataset=folder",
        f"dataset.root={many_photographs}",
        "dataset.classes=[cat,person,rocket,cup]",
        "clip=file",
        f"clip.checkpoint={tiny_checkpoint}",
        "tags.min_score=0",
        "tags.votes=2",
        "tags.templates=photo",
        "runtime.workers=1",
        "runtime.threads=1",
        *TINY_SEGMENTER,
    ]


@pytest.fixture(scope="session")
def undisturbed(
    nursery: Nursery, options: list[str], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """What all stages write when nothing happens to them."""
    folder = tmp_path_factory.mktemp("undisturbed")
    nursery.run(*options, f"output_dir={folder}")
    return folder
