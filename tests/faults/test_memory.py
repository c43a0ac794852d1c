"""Memory: bounded for any number of images, and for any size that is let in."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
from PIL import Image

from tests.processes import wait_until
from tests.small_runs import draw_photograph

pytestmark = pytest.mark.large

MEGABYTE = 2**20
RISE = 50  # megabytes that thousands of images may cost, after the first 200


class Watch:
    """Measures a process and its children until it ends."""

    def __init__(self, process: int):
        self.samples: list[tuple[float, float]] = []
        self._process = psutil.Process(process)
        threading.Thread(target=self._measure, daemon=True).start()

    def _measure(self) -> None:
        try:
            while True:
                used = self._process.memory_info().rss
                self.samples.append((time.monotonic(), used / MEGABYTE))
                time.sleep(0.02)
        except psutil.NoSuchProcess:
            return

    def most(self, since: float = 0.0) -> float:
        return max(used for moment, used in self.samples if moment >= since)


@pytest.fixture
def small_photographs(tmp_path: Path) -> tuple[Path, int]:
    """A folder with many small images."""
    count = 2000
    root = tmp_path / "small"
    root.mkdir()
    drawn = [draw_photograph(k, 48 + 16 * (k % 2), 64) for k in range(20)]
    for index in range(count):
        image = Image.fromarray(drawn[index % 20])
        image.putpixel((0, 0), (index % 256, index // 256, 0))  # no two files alike
        image.save(root / f"{index:05d}.jpg")
    return root, count


@pytest.mark.soak
def test_thousands_of_images_take_no_more_than_hundreds(
    nursery, options, small_photographs, tmp_path
):
    root, count = small_photographs
    out = tmp_path / "out"
    arguments = [*options, f"dataset.root={root}", "dataset.masks=null", f"output_dir={out}"]

    def done(stage: str) -> int:
        return sum(p.read_bytes().count(b"\n") for p in out.glob(f"all/{stage}/*/entries.jsonl"))

    for stage in ("tags", "cams", "masks"):
        run = nursery.start(*arguments, f"stage={stage}")
        watch = Watch(run.process)
        wait_until(lambda s=stage: done(s) >= 200, poll=0.01)
        settled = time.monotonic()
        at_200 = watch.most()
        assert run.wait() == 0, run.output
        rise = watch.most(settled) - at_200
        assert rise < RISE


@pytest.mark.parametrize(
    ("height", "width"),
    [pytest.param(8_000, 12_000, marks=pytest.mark.soak), (1, 60_000), (20_000, 40)],
)
def test_the_largest_photographs_fit(height, width, nursery, options, tmp_path):
    """96 million pixels; and slivers, of which every row is a patch."""
    root = tmp_path / "large"
    root.mkdir()
    image = np.zeros((height, width, 3), np.uint8)
    image[: height // 2, : width // 2] = 200
    Image.fromarray(image).save(root / "large.png", compress_level=1)
    out = tmp_path / "out"
    arguments = [*options, f"dataset.root={root}", "dataset.masks=null", f"output_dir={out}"]
    arguments.append("stage=[tags,cams,masks]")
    run = nursery.start(*arguments)
    watch = Watch(run.process)
    assert run.wait() == 0, run.output
    with Image.open(out / "all" / "masks" / "latest" / "large.png") as mask:
        assert mask.size == (width, height)
    base = watch.samples[0][1]
    assert watch.most() - base < 2048
