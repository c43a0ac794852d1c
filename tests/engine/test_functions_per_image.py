"""A count of the functions that one image of ``stage=tags`` enters."""

from __future__ import annotations

import sys
import threading
from collections import Counter
from pathlib import Path
from types import CodeType, FrameType

import pytest
from PIL import Image

from pipeline.stages.config import compose, read_config
from pipeline.stages.pipeline import Pipeline
from tests import REPOSITORY
from tests.small_runs import draw_photograph, folder_options

PACKAGE = REPOSITORY / "pipeline"
OF_TAGCLIP = {"tagclip", "reidentification.py"}
MAX_ENGINE, MAX_FILES = 16, 9


def calls_of_tagging(folder: Path, count: int, checkpoint: Path) -> Counter[CodeType]:
    """Returns how often each function is called when so many photographs are tagged."""
    for index in range(count):
        path = folder / "photographs" / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draw_photograph(index, 64, 96)).save(path)
    options = folder_options(folder / "photographs", checkpoint)
    config = read_config(compose([*options, f"output_dir={folder / 'out'}"]))
    pipeline = Pipeline.open(config)
    calls: Counter[CodeType] = Counter()

    def count_call(frame: FrameType, event: str, argument: object) -> None:
        # A generator enters its frame at every value; what counts is which functions do.
        if event == "call":
            calls[frame.f_code] += 1

    threading.setprofile(count_call)
    sys.setprofile(count_call)
    try:
        (outcome,) = pipeline.run(["tags"])
    finally:
        sys.setprofile(None)
        threading.setprofile(None)
    assert outcome.computed == count
    return calls.copy()  # a thread may still end


@pytest.fixture(scope="module")
def per_image(tmp_path_factory, tiny_checkpoint) -> list[Path]:
    """The functions whose calls grow with every image, as paths below the package."""
    few, many = (
        calls_of_tagging(tmp_path_factory.mktemp(f"tag-{count}"), count, tiny_checkpoint)
        for count in (2, 6)
    )
    entered = []
    for code, calls in many.items():
        path = Path(code.co_filename)
        is_ours = path.is_relative_to(PACKAGE) and not code.co_name.startswith("<")
        if is_ours and calls > few[code]:
            entered.append(path.relative_to(PACKAGE) / code.co_qualname)
    assert entered
    return sorted(entered)


def test_one_image_enters_few_functions(per_image):
    outside = [
        path
        for path in per_image
        if path.parts[0] not in ("clip", "files") and not OF_TAGCLIP & {*path.parts}
    ]
    assert len(outside) <= MAX_ENGINE, "\n".join(map(str, outside))


def test_one_image_enters_few_functions_of_files(per_image):
    files = [path for path in per_image if path.parts[0] == "files"]
    assert 0 < len(files) <= MAX_FILES, "\n".join(map(str, files))
