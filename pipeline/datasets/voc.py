"""PASCAL VOC 2012 in the layout of the devkit, read as it is."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pipeline.datasets.folder import existing_root
from pipeline.datasets.sample import Dataset, Sample
from pipeline.errors import UserError
from pipeline.vocabulary import build_vocabulary

_HOW_TO = "data/README.md says how to lay it out"


def load_voc(settings: Mapping) -> Dataset:
    """Reads the splits of ``ImageSets/Segmentation`` from a VOC folder.

    Args:
        settings: ``root`` (the folder that holds ``JPEGImages``, or one above it), ``splits``
            (split name → name of the list), ``mask_folders`` (tried in order for every image) and
            the vocabulary.

    Raises:
        UserError: the layout is not as expected; says what was looked for and what was found.
    """
    vocabulary = build_vocabulary(settings)
    root = _devkit_root(existing_root(settings))
    folders = [root / name for name in settings["mask_folders"] if (root / name).is_dir()]
    splits = {split: _read_split(root, name, folders) for split, name in settings["splits"].items()}
    present = {split: samples for split, samples in splits.items() if samples is not None}
    if not present:
        wanted = ", ".join(f"{name}.txt" for name in settings["splits"].values())
        there = sorted(p.name for p in (root / "ImageSets" / "Segmentation").glob("*.txt"))
        raise UserError(
            f"{root}/ImageSets/Segmentation holds none of {wanted}"
            f" (found: {', '.join(there) or 'nothing'}): {_HOW_TO}"
        )
    return Dataset(vocabulary, present, settings["train_split"])


def _devkit_root(root: Path) -> Path:
    for candidate in (root, root / "VOC2012", root / "VOCdevkit" / "VOC2012"):
        if (candidate / "JPEGImages").is_dir():
            return candidate
    there = ", ".join(sorted(p.name for p in root.iterdir())[:8]) or "nothing"
    raise UserError(f"dataset.root={root} holds no JPEGImages (found: {there}): {_HOW_TO}")


def _read_split(root: Path, name: str, mask_folders: list[Path]) -> list[Sample] | None:
    path = root / "ImageSets" / "Segmentation" / f"{name}.txt"
    if not path.is_file():
        return None
    samples = []
    # Some copies of train_aug list "/JPEGImages/x.jpg /SegmentationClassAug/x.png".
    for line in path.read_text(encoding="utf-8-sig").splitlines():
        if not line.strip():
            continue
        image_id = Path(line.split()[0]).stem
        masks = (folder / f"{image_id}.png" for folder in mask_folders)
        mask = next((m for m in masks if m.is_file()), None)
        samples.append(Sample(image_id, root / "JPEGImages" / f"{image_id}.jpg", mask))
    return samples
