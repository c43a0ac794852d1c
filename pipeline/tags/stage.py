"""The stage ``tags``: which classes every image shows."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
from joblib import Parallel, delayed

from pipeline.datasets.lists import format_class_line, read_class_list
from pipeline.datasets.sample import ImageReader, Sample
from pipeline.errors import ImageError, UserError
from pipeline.fingerprints import fingerprint, fingerprint_file, join_keys
from pipeline.store import StageFolder
from pipeline.sweep import sweep
from pipeline.tags.tagclip import choose_tags

ALGORITHM = 1
"""Raised when the same configuration would give another result than before."""

Scorer = Callable[[list[np.ndarray], Sequence[str]], list[dict[str, np.ndarray]]]
"""Scores decoded images: "scores" and the named variants, each n float32."""


def input_key(sample: Sample) -> str:
    """Returns the fingerprint of what an image's scores are made from."""
    return fingerprint_file(sample.image)


def run(
    samples: Sequence[Sample],
    folder: StageFolder,
    classes: Sequence[str],
    *,
    scorer: Callable[[], Scorer],
    read: ImageReader,
    variants: Sequence[str],
    alpha: float,
    min_score: float,
    chunk_size: int,
    workers: int,
) -> int:
    """Tags images with a scorer and writes ``scores.npz`` and ``tags.txt``.

    Args:
        samples: the images of a split.
        folder: the stage's folder, locked.
        classes: the n class names.
        scorer: builds the scorer; called only when there is something to compute.
        read: decodes the images.
        variants: rows of the ablation to keep as well.
        alpha: α of the threshold of every image.
        min_score: what a tag must exceed in any case.
        chunk_size: images between two writes, which is what a kill can cost.
        workers: threads that decode.

    Returns:
        The number of images that were computed.
    """

    def compute(todo: list[Sample]) -> Iterator[tuple[Sample, dict | ImageError]]:
        score = None
        for start in range(0, len(todo), chunk_size):
            chunk = todo[start : start + chunk_size]
            images = Parallel(workers, prefer="threads")(delayed(_try)(read, s) for s in chunk)
            good = [i for i in images if not isinstance(i, ImageError)]
            # The model is loaded for images that can be read, not to find out that none can.
            score = score or (scorer() if good else None)
            scores = iter(score(good, variants) if good else ())
            for sample, image in zip(chunk, images):
                yield sample, image if isinstance(image, ImageError) else next(scores)

    def save(sample: Sample, key: str, scores: dict[str, np.ndarray]) -> None:
        tags = choose_tags(scores["scores"], alpha, min_score)
        encoded = {name: encode_scores(values) for name, values in scores.items()}
        folder.record(sample.id, key, tags=tags, scores=encoded)

    def is_done(sample: Sample, key: str) -> bool:
        wanted = {"scores", *variants}
        return (
            folder.is_done(sample.id, key) and wanted <= folder.entries[sample.id]["scores"].keys()
        )

    computed = sweep(
        samples,
        folder,
        input_key=input_key,
        compute=compute,
        save=save,
        is_done=is_done,
    )
    _finish(samples, folder, classes)
    return computed


def run_ground_truth(samples: Sequence[Sample], folder: StageFolder, classes: Sequence[str]) -> int:
    """Takes the classes of every image from the data set's labels.

    Raises:
        UserError: an image has no ground truth.
    """

    def labels_of(sample: Sample) -> tuple[int, ...]:
        try:
            return sample.ground_truth_labels
        except UserError as error:
            if not sample.has_ground_truth:
                raise
            raise ImageError(str(error)) from error

    return _run_known(samples, folder, classes, labels_of)


def run_file(
    samples: Sequence[Sample], folder: StageFolder, classes: Sequence[str], path: Path
) -> int:
    """Takes the classes of every image from a list in the format of ``tags.txt``.

    Raises:
        UserError: the file is missing, or names a class that the vocabulary does not have.
    """
    known = read_class_list(path, "tags.path", {str(k): k for k in range(len(classes))})

    def tags_of(sample: Sample) -> tuple[int, ...]:
        if sample.id not in known:
            raise ImageError(f"has no line in {path}")
        return known[sample.id]

    return _run_known(samples, folder, classes, tags_of)


def _run_known(
    samples: Sequence[Sample],
    folder: StageFolder,
    classes: Sequence[str],
    tags_of: Callable[[Sample], tuple[int, ...]],
) -> int:
    def compute(todo: list[Sample]) -> Iterator[tuple[Sample, tuple[int, ...]]]:
        for sample in todo:
            yield sample, tags_of(sample)

    def save(sample: Sample, key: str, tags: tuple[int, ...]) -> None:
        scores = np.zeros(len(classes), np.float32)
        scores[list(tags)] = 1
        folder.record(sample.id, key, tags=tags, scores={"scores": encode_scores(scores)})

    def known_key(sample: Sample) -> str:
        return join_keys(input_key(sample), fingerprint(tags_of(sample)))

    computed = sweep(samples, folder, input_key=known_key, compute=compute, save=save)
    _finish(samples, folder, classes)
    return computed


def read_tags(folder: StageFolder, sample: Sample) -> tuple[int, ...]:
    """Returns the tags of an image that the stage has done."""
    return tuple(folder.entries[sample.id]["tags"])


def read_scores(
    folder: StageFolder, image_ids: Iterable[str], variant: str = "scores"
) -> np.ndarray | None:
    """Returns N×n float32 scores of done images, or none where a variant was not computed."""
    rows = [folder.entries[i]["scores"].get(variant) for i in image_ids]
    return None if None in rows else np.array([decode_scores(row) for row in rows])


def encode_scores(scores: np.ndarray) -> str:
    """Writes float32 scores, exactly, as text."""
    return base64.b64encode(np.asarray(scores, "<f4").tobytes()).decode()


def decode_scores(text: str) -> np.ndarray:
    """Reads what :func:`encode_scores` wrote."""
    return np.frombuffer(base64.b64decode(text), "<f4")


def _try(read: ImageReader, sample: Sample) -> np.ndarray | ImageError:
    try:
        return read(sample)[0]
    except ImageError as error:
        return error


def _finish(samples: Sequence[Sample], folder: StageFolder, classes: Sequence[str]) -> None:
    done = [s.id for s in samples if s.id in folder.entries]
    lines = [format_class_line(i, folder.entries[i]["tags"]) + "\n" for i in done]
    arrays = {"ids": np.array(done, str), "classes": np.array(classes, str)}
    for name in sorted(folder.entries[done[0]]["scores"]) if done else ():
        scores = read_scores(folder, done, name)
        if scores is not None:
            arrays[name] = scores
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    text = "".join(lines).encode("utf-8", "surrogateescape")
    folder.finish([s.id for s in samples], {"scores.npz": buffer.getvalue(), "tags.txt": text})
