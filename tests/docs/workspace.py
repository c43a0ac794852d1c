"""A folder in which the commands of a page can be typed as they stand.

The repository's own folders are there, and small stand-ins for what nobody has at hand:
photographs, VOC, COCO, a CLIP. Commands are changed in nothing but that CLIP, and in how long they
train.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from PIL import Image

from tests import REPOSITORY
from tests.datasets import miniature_coco, miniatures
from tests.small_runs import draw_photograph

PHOTOGRAPHS = ("img_18.jpg", "img_19.png", "holiday/img_17.jpg", "holiday/a cup.jpg")
TINY_TRAINING = (
    "segmenter.pretrained=none",
    "segmenter.iterations=2",
    "segmenter.batch_size=2",
    "segmenter.crop_size=32",
    "segmenter.validation_interval=null",
    "segmenter.test.scales=[1.0]",  # at half their size the pictures are too small for SegFormer
)
TINY_LIGHT = ("++segmenter.overrides.decode_head.channels=16",)
_WEIGHTS = ("clip", "clip.model", "clip.checkpoint", "clip.pretrained")
_LOOKING = ("stage=status", "--help", "--cfg")


def build_workspace(folder: Path) -> Path:
    """Builds the folder and returns it."""
    for name in ("configs", "pipeline", "tools", "tests", "docs", "Makefile"):
        (folder / name).symlink_to(REPOSITORY / name)
    for path in (REPOSITORY / "data").glob("*/*"):
        if path.is_file():  # scenes are rendered here
            linked = folder / path.relative_to(REPOSITORY)
            linked.parent.mkdir(parents=True, exist_ok=True)
            linked.symlink_to(path)
    for index, name in enumerate(PHOTOGRAPHS):
        path = folder / "PHOTOS" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draw_photograph(index, 64, 96 - 16 * (index % 2))).save(path)
    (folder / "MORE_PHOTOS").mkdir()
    Image.fromarray(draw_photograph(9, 70, 90)).save(folder / "MORE_PHOTOS" / "b.jpg")
    Image.fromarray(draw_photograph(8, 64, 96)).save(folder / "photograph.jpg")
    for split in ("train", "val"):
        (folder / "TILES" / split / "images").mkdir(parents=True)
        Image.fromarray(draw_photograph(3, 64, 64)).save(folder / f"TILES/{split}/images/1.jpg")
    miniatures.build_voc2012(folder, augmented=True)
    shutil.move(str(miniatures.build_voc2007(folder / "older") / "VOC2007"), folder / "VOCdevkit")
    miniature_coco.build_coco(folder / "coco_files")
    return folder


def words_of(line: str) -> list[str]:
    """Returns a command line as the shell hands it over, braces, quotes and comments included."""
    script = f"printf '%s\\0' {line}"
    finished = subprocess.run(["bash", "-c", script], capture_output=True, check=True, text=True)
    return finished.stdout.split("\0")[:-1]


def stand_in(arguments: list[str], checkpoint: Path) -> list[str]:
    """Returns the arguments of ``run_stage.py`` with a tiny CLIP and a short training."""
    if any(word in arguments for word in _LOOKING):
        return arguments
    keys = {argument.lstrip("+").partition("=")[0]: argument for argument in arguments}
    rendered = keys.get("dataset", "").startswith("dataset=demo")
    if rendered or not {"dataset", "experiment"} & keys.keys():  # which have a CLIP of their own
        return [*arguments, "dataset.limit=3", "runtime.workers=1", *TINY_TRAINING]
    kept = [a for a in arguments if a.lstrip("+").partition("=")[0] not in _WEIGHTS]
    takes_tags = "tags" in keys or "experiment=clip_es" in keys.get("experiment", "")
    is_light = "segmenter" not in keys and keys.get("dataset") == "dataset=folder"
    return [
        *kept,
        "clip=file",
        f"clip.checkpoint={checkpoint}",
        *(() if takes_tags else ("tags.templates=piaa",)),
        "++tags.min_score=0",
        "runtime.workers=1",
        *TINY_TRAINING,
        *(TINY_LIGHT if is_light else ()),
    ]
