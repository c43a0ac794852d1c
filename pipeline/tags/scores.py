"""The files of the stage ``tags``: scores in ``scores.npz``, tags in ``tags.txt``."""

import base64
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from pipeline.datasets.lists import format_class_list
from pipeline.engine.folder import StageFolder
from pipeline.engine.sample import Sample
from pipeline.engine.stage import Output
from pipeline.engine.store import encode_arrays
from pipeline.errors import ImageError


def decode_scores(rows: Mapping[str, str], name: str = "scores") -> np.ndarray:
    """Returns a row of an entry, n float32, exactly as :func:`tags_output` was given it."""
    return np.frombuffer(base64.b64decode(rows[name] or rows["scores"]), "<f4")


def tags_output(tags: Sequence[int], scores: Mapping[str, np.ndarray]) -> Output:
    """Returns what is stored: n float32 for "scores" and each variant, "" where it equals these."""
    encoded = {
        name: base64.b64encode(np.asarray(values, "<f4").tobytes()).decode()
        for name, values in scores.items()
    }
    same = [n for n, row in encoded.items() if row == encoded["scores"] and n != "scores"]
    return Output(facts={"tags": list(tags), "scores": {**encoded, **dict.fromkeys(same, "")}})


def read_tags(folder: StageFolder, sample: Sample) -> tuple[int, ...]:
    """Returns the tags of an image that the stage has processed.

    Raises:
        ImageError: it has not.
    """
    if sample.id not in folder.entries:
        raise ImageError("has no tags: run stage=tags first")
    return tuple(folder.entries[sample.id]["tags"])


def read_scores(
    folder: StageFolder, image_ids: Iterable[str], variant: str = "scores"
) -> np.ndarray | None:
    """Returns N×n float32 scores of images, or none where a variant was not computed."""
    entries = folder.entries
    rows = [entries[image_id]["scores"] for image_id in image_ids]
    is_there = all(variant in row for row in rows)
    return np.array([decode_scores(row, variant) for row in rows]) if is_there else None


def summarise(
    folder: StageFolder, done: Sequence[str], classes: Sequence[str]
) -> Mapping[str, bytes]:
    """Returns ``scores.npz`` and ``tags.txt`` of the images ``done``."""
    entries = folder.entries
    text = format_class_list({image_id: entries[image_id]["tags"] for image_id in done})
    arrays = {"ids": np.array(done, str), "classes": np.array(classes, str)}
    for name in sorted(entries[done[0]]["scores"]) if done else ():
        if (scores := read_scores(folder, done, name)) is not None:
            arrays[name] = scores
    encoded = text.encode("utf-8", "surrogateescape")
    return {"scores.npz": encode_arrays(**arrays), "tags.txt": encoded}


def remark_on_tags(folder: StageFolder, ids: Iterable[str], classes: Sequence[str]) -> str:
    """Returns a sentence if no image has a tag, or if several images all have the same; or ""."""
    entries = folder.entries
    tags = [tuple(entries[i]["tags"]) for i in ids if i in entries]
    if len(set(tags)) != 1 or len(tags) == 1 and tags[0]:
        return ""
    split = f"of split {folder.split}"
    if not tags[0]:
        return f"no image {split} has a tag: check dataset.classes, and the settings below tags"
    names = ", ".join(classes[k] for k in tags[0])
    have = f"all {len(tags)} images {split} have the same tags ({names})"
    return f"{have}: check dataset.classes before a segmenter is trained on them"
