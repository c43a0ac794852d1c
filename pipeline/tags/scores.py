"""The files of the stage ``tags``: scores in ``scores.npz``, tags in ``tags.txt`` and beside it."""

import base64
import csv
import io
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from pipeline.datasets.corrections import join_names
from pipeline.datasets.lists import format_class_list
from pipeline.engine.folder import StageFolder
from pipeline.engine.sample import Sample
from pipeline.engine.stage import Output
from pipeline.engine.store import encode_arrays
from pipeline.errors import ImageError


def decode_scores(rows: Mapping[str, str], name: str = "scores") -> np.ndarray:
    """Returns a row of an entry, n float32, exactly as :func:`tags_output` was given it."""
    return np.frombuffer(base64.b64decode(rows[name] or rows["scores"]), "<f4")


def tags_output(
    tags: Sequence[int], scores: Mapping[str, np.ndarray], **found: Sequence[int]
) -> Output:
    """Returns what is stored: n float32 for "scores" and each variant, "" where it equals these.

    For ``found`` see :meth:`~pipeline.datasets.corrections.Corrections.apply`.
    """
    encoded = {
        name: base64.b64encode(np.asarray(values, "<f4").tobytes()).decode()
        for name, values in scores.items()
    }
    same = [n for n, row in encoded.items() if row == encoded["scores"] and n != "scores"]
    rows = {**encoded, **dict.fromkeys(same, "")}
    return Output(facts={"tags": list(tags), "scores": rows, **found})


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
    folder: StageFolder, done: Sequence[Sample], classes: Sequence[str]
) -> Mapping[str, bytes]:
    """Returns the files that sum up the images ``done``.

    ``scores.npz`` and ``tags.txt`` are for programs, ``tags.csv`` and ``classes.txt`` for people.
    """
    entries, ids = folder.entries, [sample.id for sample in done]
    text = format_class_list({image_id: entries[image_id]["tags"] for image_id in ids})
    arrays = {"ids": np.array(ids, str), "classes": np.array(classes, str)}
    for name in sorted(entries[ids[0]]["scores"]) if ids else ():
        if (scores := read_scores(folder, ids, name)) is not None:
            arrays[name] = scores
    texts = {
        "tags.txt": text,
        "tags.csv": _table(folder, done, classes),
        "classes.txt": "".join(f"{name}\n" for name in classes),
    }
    encoded = {name: text.encode("utf-8", "surrogateescape") for name, text in texts.items()}
    return {"scores.npz": encode_arrays(**arrays), **encoded}


def _table(folder: StageFolder, done: Sequence[Sample], classes: Sequence[str]) -> str:
    """Returns the photographs with the names and scores of their tags, as CSV."""
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(["path", "id", "classes", "scores", "corrected"])
    for sample in done:
        entry = folder.entries[sample.id]
        names, scores = [classes[k] for k in entry["tags"]], decode_scores(entry["scores"])
        values = ";".join(f"{scores[k]:.3f}" for k in entry["tags"])
        is_corrected = "yes" if "found" in entry else ""
        writer.writerow([sample.image, sample.id, join_names(names), values, is_corrected])
    return text.getvalue()


def count_tags(
    folder: StageFolder, done: Sequence[Sample], classes: Sequence[str]
) -> Mapping[str, Any]:
    """Returns how many images have tags, corrected tags, and each class."""
    entries = [folder.entries[sample.id] for sample in done]
    images = Counter(k for entry in entries for k in entry["tags"])
    return {
        "tagged": sum(bool(entry["tags"]) for entry in entries),
        "corrected": sum("found" in entry for entry in entries),
        "photographs": len({folder.photograph_of(sample.id) for sample in done}),
        "classes": {name: images[k] for k, name in enumerate(classes)},
    }


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
