"""What a file of annotations costs to read: ``python -m tools.benchmark.annotations``.

A made-up file, with as many images and instances as COCO's training images have, is read twice,
each time in a process of its own: the second one reads the index that the first one wrote. It takes
600 MB in the folder of temporary files.
"""

from __future__ import annotations

import json
import multiprocessing
import random
import resource
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from pipeline.datasets.annotation_index import read_index
from pipeline.report.markdown import Table

IMAGES, INSTANCES, CATEGORIES = 118_000, 860_000, 80


def write_file(path: Path, images: int = IMAGES, instances: int = INSTANCES) -> None:
    """Writes a data set in COCO's format, whose instances are polygons of 10 to 60 corners."""
    rng = random.Random(0)
    with path.open("w", encoding="utf-8") as file:
        file.write('{"images": [')
        for k in range(images):
            about = {"id": k, "file_name": f"{k:012d}.jpg", "height": 480, "width": 640}
            file.write(", " * (k > 0) + json.dumps(about))
        file.write('], "annotations": [')
        for k in range(instances):
            polygon = [round(rng.uniform(0, 480), 2) for _ in range(2 * rng.randint(10, 60))]
            about = {"id": k, "image_id": rng.randrange(images), "iscrowd": 0}
            about |= {"category_id": rng.randint(1, CATEGORIES), "segmentation": [polygon]}
            file.write(", " * (k > 0) + json.dumps(about))
        names = [{"id": k + 1, "name": f"class {k}"} for k in range(CATEGORIES)]
        file.write(f'], "categories": {json.dumps(names)}}}')


def measure(path: Path, cache: Path) -> tuple[int, float, float]:
    """Reads a file or its index; returns the number of images, CPU seconds, and the peak in MB."""
    start = time.process_time()
    rows = read_index(path, cache).rows
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000  # kB, on Linux
    return len(rows), time.process_time() - start, peak


def main() -> None:
    """Prints a table."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        write_file(folder / "annotations.json")
        rows = []
        for reading in ("first", "second"):
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                arguments = (folder / "annotations.json", folder / "index")
                images, seconds, peak = pool.apply(measure, arguments)
            rows.append([reading, f"{images:,}", f"{seconds:.1f}", f"{peak:.0f}"])
        header = ["reading", "images", "CPU seconds", "peak memory (MB)"]
        print(Table(header, rows, ["reading"]).text)


if __name__ == "__main__":
    main()
