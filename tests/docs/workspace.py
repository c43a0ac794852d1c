"""A folder in which the commands of a page can be typed as they stand.

The repository's own folders are there, and small stand-ins for what nobody has at hand:
photographs, VOC, COCO, masks, a CLIP. A command that chooses what to run gets that CLIP in place of
its own, and limits of images and training; one without such a choice is typed as it stands.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from tests import REPOSITORY
from tests.datasets import miniature_coco, miniatures
from tests.small_runs import draw_photograph

PHOTOGRAPHS = ("img_18.jpg", "img_19.png", "holiday/img_17.jpg", "holiday/a cup.jpg")
TINY_TRAINING = (
    "segmenter.iterations=2",
    "segmenter.batch_size=2",
    "segmenter.crop_size=32",
    "segmenter.validation_interval=null",
    "segmenter.test.scales=[1.0]",  # at half their size the pictures are too small for SegFormer
)
SCRATCH = "segmenter.pretrained=none"
TINY_LIGHT = ("++segmenter.overrides.decode_head.channels=16",)
_WEIGHTS = ("clip", "clip.model", "clip.checkpoint", "clip.pretrained")
_LOOKING = ("help", "stage=status", "--help", "--cfg")


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
    (folder / "names.txt").write_text("cat\nperson\ncup\n")
    (folder / "MORE_PHOTOS").mkdir()
    Image.fromarray(draw_photograph(9, 70, 90)).save(folder / "MORE_PHOTOS" / "b.jpg")
    Image.fromarray(draw_photograph(8, 64, 96)).save(folder / "photograph.jpg")
    for split in ("train", "val"):
        (folder / "TILES" / split / "images").mkdir(parents=True)
        Image.fromarray(draw_photograph(3, 64, 64)).save(folder / f"TILES/{split}/images/1.jpg")
    miniatures.build_voc2012(folder, augmented=True)
    shutil.move(str(miniatures.build_voc2007(folder / "older") / "VOC2007"), folder / "VOCdevkit")
    miniature_coco.build_coco(folder / "coco_files")
    miniatures.build_sbd(folder)
    voc = folder / "VOCdevkit" / "VOC2012"
    miniatures.write_list(voc / "ImageSets" / "Segmentation" / "test.txt", ["2008_000015"])
    for name in ("MASKS", "SAM"):
        (folder / name).symlink_to(voc / "SegmentationClass")
    (folder / "CAMS").mkdir()
    for index, name in enumerate(miniatures.VOC2012_LISTS["train"]):
        cams = np.full((1, *miniatures.size_of(index)), 0.5)
        np.savez(folder / "CAMS" / f"{name}.npz", keys=np.array([3]), cams=cams)
    (folder / "scores.csv").write_text("id,class,score\nimg_18,cat,0.9\nimg_19,cup,0.8\n")
    return folder


def words_of(line: str) -> list[str]:
    """Returns a command line as the shell hands it over, braces, quotes and comments included."""
    return words_of_each([line])[0]


def words_of_each(lines: Sequence[str]) -> list[list[str]]:
    """Does what :func:`words_of` does, in one shell."""
    script = "".join(f"printf '%s\\0' {line}\nprintf '\\1'\n" for line in lines)
    finished = subprocess.run(["bash", "-c", script], capture_output=True, check=True, text=True)
    return [words.split("\0")[:-1] for words in finished.stdout.split("\1")[:-1]]


def stand_in(arguments: list[str], checkpoint: Path) -> list[str]:
    """Returns the arguments of ``run_stage.py`` with a tiny CLIP and a short training.

    Those without a setting, and those that run nothing, stay as they are.
    """
    keys = {a.lstrip("+").partition("=")[0]: a for a in arguments if "=" in a}
    if not keys or any(word in arguments for word in _LOOKING):
        return arguments
    given = [*arguments, "runtime.workers=1", *TINY_TRAINING]
    if keys.get("dataset", "dataset=demo").startswith("dataset=demo") and "experiment" not in keys:
        return [*given, "dataset.limit=3"]  # with a CLIP of their own, from scratch or frozen
    has_clip = bool({"clip", "experiment"} & keys.keys())
    is_default = "segmenter" not in keys and keys.get("dataset") == "dataset=folder"
    if is_default:
        given += TINY_LIGHT
    if not (is_default and has_clip):  # then the network is that CLIP, frozen
        given.append(SCRATCH)
    if has_clip:
        given = [a for a in given if a.lstrip("+").partition("=")[0] not in _WEIGHTS]
        given += ["clip=file", f"clip.checkpoint={checkpoint}"]
        if not {"tags", "tags.min_score"} & keys.keys():
            given += ["tags.min_score=0"]  # random weights are sure of nothing
    return given
