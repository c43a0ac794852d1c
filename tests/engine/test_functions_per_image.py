"""Counts of the functions that ``stage=tags`` enters: of one image, and of a whole run."""

from __future__ import annotations

import sys
import threading
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import CodeType, FrameType

import pytest
from PIL import Image

from pipeline.commands.run_stage import run
from pipeline.stages.config import compose, read_config
from pipeline.stages.pipeline import Pipeline
from tests import REPOSITORY
from tests.processes import run_python
from tests.small_runs import draw_photograph, folder_options

PACKAGE = REPOSITORY / "pipeline"
OF_TAGCLIP = {"tagclip", "reidentification.py"}
MAX_ENGINE, MAX_FILES = 16, 9
MAX_FUNCTIONS, MAX_MODULES = 383, 70


def calls_of_tagging(folder: Path, count: int, checkpoint: Path) -> Counter[CodeType]:
    """Returns how often each function is called when so many photographs are tagged."""
    for index in range(count):
        path = folder / "photographs" / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draw_photograph(index, 64, 96)).save(path)
    options = folder_options(folder / "photographs", checkpoint)
    config = read_config(compose([*options, f"output_dir={folder / 'out'}"]))
    pipeline = Pipeline.open(config)
    with counting() as calls:
        (outcome,) = pipeline.run(["tags"])
    assert outcome.computed == count
    return calls.copy()  # a thread may still end


@contextmanager
def counting() -> Iterator[Counter[CodeType]]:
    """Counts how often each function is called while the block runs."""
    calls: Counter[CodeType] = Counter()

    def count_call(frame: FrameType, event: str, argument: object) -> None:
        # A generator enters its frame at every value; what counts is which functions do.
        if event == "call":
            calls[frame.f_code] += 1

    threading.setprofile(count_call)
    sys.setprofile(count_call)
    try:
        yield calls
    finally:
        sys.setprofile(None)
        threading.setprofile(None)


def places(codes: Iterable[CodeType]) -> set[Path]:
    """Returns the functions of the package as paths below it."""
    ours = (code for code in codes if not code.co_name.startswith("<"))
    found = ((Path(code.co_filename), code.co_qualname) for code in ours)
    return {path.relative_to(PACKAGE) / n for path, n in found if path.is_relative_to(PACKAGE)}


@pytest.fixture(scope="module")
def per_image(tmp_path_factory, tiny_checkpoint) -> list[Path]:
    """The functions whose calls grow with every image, as paths below the package."""
    few, many = (
        calls_of_tagging(tmp_path_factory.mktemp(f"tag-{count}"), count, tiny_checkpoint)
        for count in (2, 6)
    )
    entered = places(code for code, calls in many.items() if calls > few[code])
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


def trace(folder: str, checkpoint: str) -> None:
    """Prints the functions that a run of tags enters once everything is imported."""
    photographs = Path(folder) / "photographs"
    photographs.mkdir()
    Image.fromarray(draw_photograph(0, 64, 96)).save(photographs / "0.png")
    # By head on every processor: the kernel has functions of its own.
    words = [*folder_options(photographs, checkpoint), "stage=tags", "runtime.attention=by_head"]
    run([*words, f"output_dir={folder}/imports"])
    with counting() as calls:
        run([*words, f"output_dir={folder}/out"])
    print("\n", *map("traced {}\n".format, sorted(places(calls.copy()))), sep="")


def test_a_run_of_tags_enters_few_functions_in_few_modules(tmp_path, tiny_checkpoint):
    """From the command line to the bytes, in a process that has done nothing else."""
    program = f"import sys; from {__name__} import trace; trace(*sys.argv[1:])"
    traced = run_python("-c", program, tmp_path, tiny_checkpoint)
    assert traced.returncode == 0, traced.stderr
    lines = [line for line in traced.stdout.splitlines() if line.startswith("traced ")]
    entered = [Path(line.removeprefix("traced ")) for line in lines]
    assert 0 < len(entered) <= MAX_FUNCTIONS, "\n".join(lines)
    assert len({path.parent for path in entered}) <= MAX_MODULES
