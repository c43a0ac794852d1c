"""Tags and scores: in entries of the journal, and summed up in ``scores.npz`` and ``tags.txt``."""

import base64
import csv
import io
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from pipeline.datasets.lists import format_class_list
from pipeline.engine.results import Results
from pipeline.engine.sample import Sample
from pipeline.engine.stage import Output
from pipeline.engine.store import encode_arrays
from pipeline.errors import ImageError
from pipeline.files.text import join_cell


def decode_scores(rows: Mapping[str, str], name: str = "scores") -> np.ndarray:
    """Returns a row of an entry, n float32, exactly as :func:`tags_output` was given it."""
    return np.frombuffer(base64.b64decode(rows[name] or rows["scores"]), "<f4")


def tags_output(
    tags: Sequence[int], scores: Mapping[str, np.ndarray], **found: Sequence[int]
) -> Output:
    """Returns what is stored: n float32 for "scores" and each variant, "" where it equals these.

    For ``found`` see :meth:`~pipeline.datasets.corrected.Corrections.apply`.
    """
    encoded = {
        name: base64.b64encode(np.asarray(values, "<f4").tobytes()).decode()
        for name, values in scores.items()
    }
    same = [n for n, row in encoded.items() if row == encoded["scores"] and n != "scores"]
    rows = {**encoded, **dict.fromkeys(same, "")}
    return Output(values={"tags": list(tags), "scores": rows, **found})


def read_tags(results: Results, sample: Sample) -> tuple[int, ...]:
    """Returns the tags of an image; raises an ImageError unless the stage has processed it."""
    if sample.id not in results.entries:
        raise ImageError("has no tags: run stage=tags first")
    return tuple(results.entries[sample.id]["tags"])


def read_scores(
    results: Results, image_ids: Iterable[str], variant: str = "scores"
) -> np.ndarray | None:
    """Returns N×n float32 scores of images, or none where a variant was not computed."""
    rows = [results.entries[image_id]["scores"] for image_id in image_ids]
    if not all(variant in row for row in rows):
        return None
    packed = b"".join(base64.b64decode(row[variant] or row["scores"]) for row in rows)
    return np.frombuffer(packed, "<f4").reshape(len(rows), len(packed) // 4 // max(1, len(rows)))


def summarise(
    results: Results, done: Sequence[Sample], classes: Sequence[str]
) -> Mapping[str, bytes]:
    """Returns the files that sum up the images ``done``.

    ``scores.npz`` and ``tags.txt`` are for programs, ``tags.csv`` and ``classes.txt`` for people.
    """
    entries, ids = results.entries, [sample.id for sample in done]
    text = format_class_list({image_id: entries[image_id]["tags"] for image_id in ids})
    arrays = {"ids": np.array(ids, str), "classes": np.array(classes, str)}
    for name in sorted(entries[ids[0]]["scores"]) if ids else ():
        if (scores := read_scores(results, ids, name)) is not None:
            arrays[name] = scores
    texts = {
        "tags.txt": text,
        "tags.csv": _table(results, done, classes),
        "classes.txt": "".join(f"{name}\n" for name in classes),
    }
    encoded = {name: text.encode("utf-8", "surrogateescape") for name, text in texts.items()}
    return {"scores.npz": encode_arrays(**arrays), **encoded}


def _table(results: Results, done: Sequence[Sample], classes: Sequence[str]) -> str:
    """Returns the photographs with the names and scores of their tags, as CSV."""
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(["path", "id", "classes", "scores", "corrected"])
    names, entries = [join_cell([name]) for name in classes], results.entries
    for sample, scores in zip(done, read_scores(results, (sample.id for sample in done))):
        entry = entries[sample.id]
        tags, values = (
            ";".join(row[k] for k in entry["tags"]) for row in (names, [f"{s:.3f}" for s in scores])
        )
        is_corrected = "yes" if "found" in entry else ""
        writer.writerow([sample.image, sample.id, tags, values, is_corrected])
    return text.getvalue()
