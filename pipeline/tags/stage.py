"""The stage ``tags``: which classes every image shows."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Protocol

import numpy as np

from pipeline.clip.shared_pass import AttentionRecorder, SharedPass
from pipeline.datasets.lists import format_class_line, read_class_list
from pipeline.datasets.sample import ImageReader, Sample
from pipeline.engine.folder import ResultFolder, StageFolder
from pipeline.errors import ImageError, UserError
from pipeline.files.fingerprints import fingerprint, fingerprint_file, join_keys
from pipeline.sweep import Images, Todo, Work, by_sample, read_through, sweep
from pipeline.tags.scored import Scored, Scorer
from pipeline.tags.tagclip import choose_tags

ALGORITHM = 1
"""Raised when the same configuration would give another result than before, beyond rounding."""


class Alongside(Protocol):
    """What is computed from the backbone's pass over an image as soon as its tags are known."""

    def listen(self) -> AttentionRecorder:
        """Returns what listens to the attentions of one batch."""

    def compute(self, sample: Sample, seen: SharedPass, tags: Sequence[int]) -> np.ndarray | None:
        """Returns what comes of an image; none where that is there already."""

    def save(
        self, sample: Sample, tags: Sequence[int], size: tuple[int, int], result: np.ndarray
    ) -> None:
        """Stores it; ``size`` is the image's full height and width."""


@dataclass(frozen=True)
class _Tagged:
    """An image's tags and scores, and what was computed alongside."""

    tags: tuple[int, ...]
    scores: dict[str, np.ndarray]
    size: tuple[int, int]
    alongside: np.ndarray | None


def input_key(sample: Sample) -> str:
    """Returns the fingerprint of what an image's scores are made from."""
    return fingerprint_file(sample.image)


def tagging(
    folders: Sequence[ResultFolder],
    *,
    scorer: Callable[[], Scorer],
    read: ImageReader,
    variants: Sequence[str],
    alpha: float,
    min_score: float,
    workers: int,
    most_ahead: int,
    most_unwritten: int,
    alongside: Alongside | None = None,
) -> Work:
    """Returns how a scorer tags images.

    Args:
        folders: the stage's folder, and that of what is computed alongside.
        scorer: builds the scorer; called only when there is something to compute.
        read: decodes the images.
        variants: rows of the ablation to keep as well.
        alpha: α of the threshold of every image.
        min_score: what a tag must exceed in any case.
        workers: threads that decode.
        most_ahead: images that are decoded ahead.
        most_unwritten: results that may wait for the disk.
        alongside: what else is computed from the same pass over an image.
    """
    scorer = cache(scorer)

    def compute(images: list[Todo]) -> Iterator[tuple[Todo, _Tagged | ImageError]]:
        listen = alongside.listen if alongside else None

        def score(images: Images) -> Iterator[tuple[Sample, Scored]]:
            return scorer().stream(images, variants, listen)

        found = by_sample(images, lambda s: read_through(s, read, score, most_ahead, workers))
        for todo, result in found:
            if not isinstance(result, ImageError):
                scored, size = result
                tags = choose_tags(scored.scores["scores"], alpha, min_score)
                extra = alongside and alongside.compute(todo.sample, scored.shared_pass, tags)
                result = _Tagged(tags, scored.scores, size, extra)
            yield todo, result

    def save(todo: Todo, tagged: _Tagged) -> None:
        if tagged.alongside is not None:
            alongside.save(todo.sample, tagged.tags, tagged.size, tagged.alongside)
        record_tags(folders[0], todo.sample, todo.key, tagged.tags, tagged.scores)

    return Work(folders, compute, save, most_unwritten)


def has_scores(folder: StageFolder, variants: Sequence[str]) -> Callable[[Sample, str], bool]:
    """Returns what tells whether an image's scores are there, those of every variant too."""
    wanted = {"scores", *variants}

    def is_done(sample: Sample, key: str) -> bool:
        if not folder.is_done(sample.id, key):
            return False
        return wanted <= folder.entries[sample.id]["scores"].keys()

    return is_done


def run_ground_truth(
    samples: Sequence[Sample],
    folder: StageFolder,
    classes: Sequence[str],
    known: Collection[str] | None = None,
) -> int:
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

    return _run_known(samples, folder, classes, known, labels_of)


def run_file(
    samples: Sequence[Sample],
    folder: StageFolder,
    classes: Sequence[str],
    path: Path,
    known: Collection[str] | None = None,
) -> int:
    """Takes the classes of every image from a list in the format of ``tags.txt``.

    Raises:
        UserError: the file is missing, or names a class that the vocabulary does not have.
    """
    listed = read_class_list(path, "tags.path", {str(k): k for k in range(len(classes))})

    def tags_of(sample: Sample) -> tuple[int, ...]:
        if sample.id not in listed:
            raise ImageError(f"has no line in {path}")
        return listed[sample.id]

    return _run_known(samples, folder, classes, known, tags_of)


def _run_known(
    samples: Sequence[Sample],
    folder: StageFolder,
    classes: Sequence[str],
    known: Collection[str] | None,
    tags_of: Callable[[Sample], tuple[int, ...]],
) -> int:
    def compute(images: list[Todo]) -> Iterator[tuple[Todo, tuple[int, ...]]]:
        for todo in images:
            yield todo, tags_of(todo.sample)

    def save(todo: Todo, tags: tuple[int, ...]) -> None:
        scores = np.zeros(len(classes), np.float32)
        scores[list(tags)] = 1
        record_tags(folder, todo.sample, todo.key, tags, {"scores": scores})

    def known_key(sample: Sample) -> str:
        return join_keys(input_key(sample), fingerprint(tags_of(sample)))

    computed = sweep(samples, Work([folder], compute, save), input_key=known_key)
    finish_tags(samples, folder, classes, known)
    return computed


def read_tags(folder: StageFolder, sample: Sample) -> tuple[int, ...]:
    """Returns the tags of an image that the stage has done.

    Raises:
        ImageError: it has not.
    """
    if sample.id not in folder.entries:
        raise ImageError("has no tags: run stage=tags first")
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


def record_tags(
    folder: ResultFolder,
    sample: Sample,
    key: str,
    tags: Sequence[int],
    scores: Mapping[str, np.ndarray],
) -> None:
    """Stores an image's tags and scores.

    Args:
        folder: the stage's folder, locked.
        sample: the image.
        key: the fingerprint of what they were made from.
        tags: class indices.
        scores: "scores", and the variants by their names → n float32 each.
    """
    encoded = {name: encode_scores(values) for name, values in scores.items()}
    folder.record(sample.id, key, tags=tags, scores=encoded)


def finish_tags(
    samples: Sequence[Sample],
    folder: StageFolder,
    classes: Sequence[str],
    known: Collection[str] | None = None,
) -> None:
    """Closes a pass over a split's images with ``scores.npz`` and ``tags.txt``.

    ``known`` is as for :meth:`pipeline.engine.folder.StageFolder.finish`.
    """
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
    files = {"scores.npz": buffer.getvalue(), "tags.txt": text}
    folder.finish([s.id for s in samples], files, known)
