"""The demo data set: scenes that are rendered on first use and kept as PNG files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from joblib import Parallel, delayed

from pipeline.datasets.sample import Dataset, Sample
from pipeline.datasets.scenes import load_recipe, render_scene
from pipeline.files import write_atomically
from pipeline.images import encode_png
from pipeline.progress import track
from pipeline.vocabulary import build_vocabulary, voc_palette


def load_demo(settings: Mapping, workers: int = 1) -> Dataset:
    """Returns the demo's splits, rendering what is not there yet.

    Labels and masks are known since the scenes are drawn; the pipeline uses them for measuring
    only. A picture is rendered when its file is missing, so an interrupted rendering goes on.

    Args:
        settings: ``root`` (where the PNG files are kept), ``limit`` (of each split, if any) and
            the vocabulary.
        workers: processes that render.
    """
    vocabulary = build_vocabulary(settings)
    root = Path(settings["root"]).expanduser().absolute() / f"v{load_recipe()['version']}"
    splits, missing = {}, []
    for split, count in load_recipe()["splits"].items():
        samples = []
        for index in range(min(count, settings.get("limit") or count)):
            folder, name = root / split, f"{index:05d}"
            facts = _read_facts(folder / f"{name}.json")
            if facts is None:
                missing.append((folder, split, index))
            samples.append((name, folder / f"{name}.png", folder / f"{name}.mask.png"))
        splits[split] = samples
    if missing:
        rendered = Parallel(workers, return_as="generator_unordered")(
            delayed(_render_to_files)(*job) for job in missing
        )
        with track("render the demo's scenes", len(missing)) as advance:
            for _ in rendered:
                advance()
    return Dataset(
        vocabulary,
        {
            split: [
                Sample(name, image, mask, _read_facts(image.with_suffix(".json")))
                for name, image, mask in samples
            ]
            for split, samples in splits.items()
        },
        "train",
    )


def _render_to_files(folder: Path, split: str, index: int) -> None:
    """Writes picture, mask and labels; the labels last, since they say that the rest is there."""
    scene = render_scene(split, index)
    palette = voc_palette(256)
    write_atomically(folder / f"{index:05d}.png", encode_png(scene.image))
    write_atomically(folder / f"{index:05d}.mask.png", encode_png(scene.mask, palette))
    labels = [int(v) - 1 for v in np.unique(scene.mask) if v]
    facts = {"labels": labels, "ground": scene.ground}
    write_atomically(folder / f"{index:05d}.json", json.dumps(facts))


def _read_facts(path: Path) -> tuple[int, ...] | None:
    """Returns the labels of a rendered scene, or none when it is not there."""
    if not path.is_file():
        return None
    return tuple(json.loads(path.read_text())["labels"])
