"""What is learned is never older than a file that it was learned from, without a word."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.configuration.registry import imported, methods
from pipeline.engine.learned import Learned
from pipeline.engine.stage import OfSplit
from pipeline.errors import UserError
from pipeline.segmenter.stage import Training
from pipeline.stages.config import compose, read_config
from pipeline.stages.pipeline import Pipeline, requested_stages
from tests.files_opened import files_opened
from tests.small_runs import TINY_SEGMENTER, draw_photograph, folder_options, replaced
from tests.tiny_second import dino_file

REGIONS = ["cams=corrclip", "cams.second.model=null", "cams.bank.short_side=32"]
REGIONS += ["cams.bank.window=32", "cams.bank.stride=32", "cams.bank.neighbours=2"]
FILES = ["cams.second.checkpoint={}/dino.pth", "cams.bank.root={}/pictures"]
TRAINED = ["stage=[masks,train]", "masks=file", "masks.path={}/masks"]
SHORT = ["segmenter.iterations=2", "segmenter.batch_size=2", "segmenter.crop_size=32"]
LEARNED = [
    ("prototypes", ["stage=tags", "tags=piaa", "tags.min_score=0", "tags.bank_size=4"]),
    ("statistics", ["stage=tags", "tags=tagclip", "tags.standardise=[class]"]),
    ("bank", ["stage=[tags,cams]", *REGIONS, *FILES, "cams.bank.regions={}/regions"]),
    ("bank", ["stage=[tags,cams]", *REGIONS, *FILES, "cams.regions={}/both"]),
    ("segmenter", [*TRAINED, *TINY_SEGMENTER, "segmenter.pretrained=none"]),
    ("segmenter", [*TRAINED, *SHORT, "segmenter=frozen_clip"]),
]


@pytest.fixture
def given(tmp_path: Path, tiny_checkpoint: Path) -> Path:
    """A folder with all that something can be learned from."""
    for folder in ("photographs", "masks", "pictures", "regions", "both"):
        (tmp_path / folder).mkdir()
    labels = np.repeat(np.uint8([[1, 2]]), 24, 1).repeat(40, 0)
    for name in ("0", "1", "2"):
        for folder, seed in (("photographs", "0"), ("pictures", "1")):
            photograph = draw_photograph(int(seed + name), 40, 48)
            Image.fromarray(photograph).save(tmp_path / folder / f"{seed}{name}.png")
        for file in (f"masks/0{name}", f"regions/1{name}", f"both/0{name}", f"both/1{name}"):
            Image.fromarray(labels).save(tmp_path / f"{file}.png")
    (tmp_path / "dino.pth").write_bytes(Path(dino_file()).read_bytes())
    (tmp_path / "clip.safetensors").write_bytes(tiny_checkpoint.read_bytes())
    return tmp_path


@pytest.fixture
def opened(given: Path) -> Callable[..., Pipeline]:
    def opened(*options: str) -> Pipeline:
        shared = folder_options(given / "photographs", given / "clip.safetensors")
        shared = replaced(shared, "dataset.classes=[cat,cup]", f"output_dir={given / 'out'}")
        options = [option.replace("{}", str(given)) for option in options]
        return Pipeline.open(read_config(compose(replaced(shared, *options))))

    return opened


def outlook(pipeline: Pipeline, name: str) -> object:
    """Returns the key of what is learned, and what a dry run says of it; or why it cannot."""
    commands = requested_stages(pipeline.builder.config)
    try:
        rows = [row for row in pipeline.plan(commands) if row.stage == name]
        (stage,) = {s for each in pipeline.stages(commands) for s in each.chain if s.name == name}
        return stage.key, [(row.to_compute, row.note) for row in rows]
    except UserError as error:
        return str(error)


def edit(path: Path) -> None:
    """Changes what a file says: another pixel, or another weight."""
    if path.suffix == ".png":
        pixels = np.array(Image.open(path))
        pixels[:20] = pixels[:20][::-1, ::-1] if pixels.ndim == 3 else 3 - pixels[:20]
        Image.fromarray(pixels).save(path)
    else:
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        path.write_bytes(content)


def every_learner() -> Iterator[type[OfSplit]]:
    """Yields the classes of the package whose result is learned from several images."""
    found = [Training, *Learned.__subclasses__()]
    yield from (each for each in found if each.__module__.startswith("pipeline."))


def test_every_class_that_learns_is_tried():
    for group in ("tags", "cams"):
        for method in methods(group):
            _ = method.learns and imported(method.learns)
    assert {each.name for each in every_learner()} == {name for name, _ in LEARNED}


@pytest.mark.parametrize(("name", "options"), LEARNED)
def test_each_file_that_was_read_is_in_the_key_or_the_record(name, options, opened, given):
    with files_opened() as paths:
        pipeline = opened(*options)
        list(pipeline.run(requested_stages(pipeline.builder.config)))
    read = {path for path in paths if path.is_file() and path.is_relative_to(given)}
    read = sorted(path for path in read if not path.is_relative_to(given / "out"))
    # Those of images that the bank only serves are no concern of what is learned.
    read = [path for path in read if name != "bank" or not path.name.startswith("0")]
    assert len(read) >= 4
    before = outlook(opened(*options), name)
    for path in read:
        content = path.read_bytes()
        edit(path)
        assert outlook(opened(*options), name) != before, path
        path.write_bytes(content)
    assert outlook(opened(*options), name) == before
