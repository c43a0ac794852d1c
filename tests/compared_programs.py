"""What :mod:`tests.same_results` runs beside ``tools/run_stage.py``, with the code of either tree.

python tests/compared_programs.py PROGRAM KEY=VALUE...
"""

from __future__ import annotations

import csv
import os
import sys
from collections.abc import Callable, Sequence
from itertools import count
from pathlib import Path

import numpy as np
from PIL import Image


def interrupted(arguments: Sequence[str]) -> None:
    """Runs stages until a training begins its fourth step, and then has Ctrl-C pressed."""
    from mmengine.optim import OptimWrapper

    from pipeline.commands.run_stage import run

    update, steps = OptimWrapper.update_params, count(1)

    def update_or_stop(wrapper: OptimWrapper, *given: object, **named: object) -> None:
        if next(steps) > 3:
            raise KeyboardInterrupt
        update(wrapper, *given, **named)

    OptimWrapper.update_params = update_or_stop
    try:
        run(arguments)
    except KeyboardInterrupt:
        return
    sys.exit("the training ended before")


def labelled(arguments: Sequence[str]) -> None:
    """Stores what a labeller returns of several scenes in one call."""
    from pipeline import Labeller

    given = dict(word.split("=", 1) for word in arguments)
    scenes, masks = find_scenes(Path(given["dataset.root"]))
    labeller = Labeller(["disc", "square", "triangle", "star"], clip="demo", batch_size=2)
    tensors = labeller.cams(scenes, as_tensors=True)
    masks = labeller.mask(scenes, [[0], [1, 2], [3], []])
    for scene, found, cams, mask in zip(scenes, labeller(scenes), tensors, masks, strict=True):
        arrays = {"scores": found.scores, "tags": found.tags, "cams": found.cams}
        arrays |= {"mask": found.mask, "tensors": cams.numpy(), "given_tags": mask}
        (out := Path(given["output_dir"])).mkdir(parents=True, exist_ok=True)
        np.savez(out / f"labelled-{scene.stem}.npz", **arrays)


PROGRAMS: dict[str, Callable[[Sequence[str]], None]] = {
    "interrupted": interrupted,
    "labelled": labelled,
}


def find_scenes(root: Path) -> tuple[list[Path], list[Path]]:
    """Returns the first four scenes of the split val, and their masks."""
    masks = sorted(root.rglob("val/*.mask.png"))[:4]
    return [mask.with_name(mask.name.replace(".mask", "")) for mask in masks], masks


def write_inputs(root: Path, folder: Path) -> None:
    """Writes tags, CAMs, masks, regions and corrections of four scenes as other programs do."""
    scenes, masks = find_scenes(root)
    ids = [scene.stem for scene in scenes]
    for name in ("cams", "masks", "regions"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    (folder / "tags.txt").write_text("".join(f"{i} {k} {k + 3}\n" for k, i in enumerate(ids)))
    for number, (image_id, path) in enumerate(zip(ids, masks)):
        labels = np.asarray(Image.open(path))
        rows, columns = np.indices(labels.shape)
        regions = (rows // 16 * 16 + columns // 16).astype(np.uint8)
        Image.fromarray(regions).save(folder / "regions" / f"{image_id}.png")
        cam = (columns / labels.shape[1])[None].astype(np.float32)
        np.savez(folder / "cams" / f"{image_id}.npz", keys=np.array([number]), cams=cam)
        # Up to 5340bebc, cams=file read these instead.
        np.save(folder / "cams" / f"{image_id}.npy", {"keys": np.array([number]), "cam": cam})
    for image_id, path in [*zip(ids, masks)][:2]:
        (folder / "masks" / f"{image_id}.png").write_bytes(path.read_bytes())
    with (folder / "tags.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["id", "split", "classes"], [ids[2], "val", "disc"]])
    for path in folder.rglob("*"):  # whose dates manifests tell
        os.utime(path, (1e9, 1e9))


if __name__ == "__main__":
    PROGRAMS[sys.argv[1]](sys.argv[2:])
