"""The stages ``train`` and ``predict``: a segmenter that learns from masks, and what it sees."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.datasets.sample import ImageReader, Sample
from pipeline.datasets.vocabulary import Vocabulary
from pipeline.engine.folder import ResultFolder, StageFolder
from pipeline.engine.progress import track
from pipeline.engine.settings import check, to_settings
from pipeline.errors import ImageError, UserError
from pipeline.files.atomic import read_json, write_atomically
from pipeline.files.fingerprints import fingerprint, fingerprint_file
from pipeline.files.images import encode_png
from pipeline.segmenter.distributed import process_rank
from pipeline.segmenter.pairs import TrainingPair, check_pairs
from pipeline.segmenter.settings import SegmenterSettings
from pipeline.segmenter.testing import Labels, Testing, segment_all
from pipeline.sweep import Todo, Work, by_sample, read_through

if TYPE_CHECKING:
    from pipeline.segmenter.predict import Segmenter

ALGORITHM = 2
"""Raised when the same network would give other predictions than before."""

CHOICES = ("last", "best")
"""Which checkpoint predicts: the last, or the best on a split with ground truth."""

PROBLEMS = "problems.txt"
"""Lists what keeps masks from being trained on, where a message would be too long."""

_PROBLEMS_SHOWN = 20
_MOST_AHEAD = 4  # photographs that are decoded ahead of the network


def training_data_key(pairs: Sequence[TrainingPair]) -> str:
    """Returns the fingerprint of all files that a training reads."""
    return fingerprint([[pair.id, *map(_content, pair.files)] for pair in pairs])


def _content(path: Path) -> str | None:
    # A missing file is listed with all others that are, before the training begins.
    return fingerprint_file(path) if path.is_file() else None


def run_train(
    pairs: Sequence[TrainingPair],
    folder: StageFolder,
    vocabulary: Vocabulary,
    *,
    settings: Mapping[str, Any],
    seed: int,
    device: str,
    validation: Sequence[Sample] = (),
) -> int:
    """Trains a segmenter, from its last checkpoint on if there is one.

    Every process that torchrun started calls this; the first alone writes to the folder.

    Args:
        pairs: the images of the training split and their masks.
        folder: the segmenter's folder, locked by the first process; mmengine's work directory.
        vocabulary: class names and palette.
        settings: the configuration of the segmenter.
        seed: of the initial weights, the order of images and their transforms.
        device: "cpu" or "cuda…".
        validation: images that it is measured on as it trains.

    Returns:
        The number of images that it was trained on; 0 when it was trained before.

    Raises:
        UserError: masks that do not fit, or a loss that is not finite.
    """
    # mmsegmentation takes seconds to import, so only a stage that needs it does.
    from pipeline.segmenter import train

    writes = process_rank() == 0
    if is_trained(folder):
        if writes:
            folder.point_latest()
        return 0
    if not pairs:
        raise UserError("there is no image to train on: run stage=masks first")
    own = dict(settings)
    read = ImageReader(apply_exif=own.pop("apply_exif"), longest_side=own.pop("longest_side"))
    chosen = to_settings(SegmenterSettings, own)
    check(chosen, "segmenter")
    problems = check_pairs(pairs, len(vocabulary.classes), apply_exif=read.apply_exif)
    if problems:
        shown = "; ".join(problems[:_PROBLEMS_SHOWN])
        if len(problems) > _PROBLEMS_SHOWN:
            write_atomically(folder.path / PROBLEMS, "".join(f"{line}\n" for line in problems))
            shown += f"; all of them are listed in {folder.path / PROBLEMS}"
        raise UserError(
            f"{len(problems)} masks cannot be trained on: mend them, or run stage=masks again. They"
            f" are: {shown}"
        )
    began = time.monotonic()
    if writes:
        folder.begin(len(pairs))
    with ExitStack() as shown:
        on_iteration = None
        if writes:
            advance = shown.enter_context(
                track(f"train {settings['name']}", settings["iterations"])
            )
            on_iteration = _report_to(advance)
        checkpoint = train.train(
            chosen,
            pairs,
            vocabulary.classes,
            vocabulary.palette,
            folder.path,
            seed,
            device,
            read,
            validation=validation,
            on_iteration=on_iteration,
        )
    if writes:
        initial = read_json(folder.path / train.INITIAL_WEIGHTS)
        folder.write_manifest(
            complete=True,
            images=len(pairs),
            checkpoint=checkpoint.name,
            seconds=round(folder.manifest().get("seconds", 0) + time.monotonic() - began, 3),
            **({"initial_weights": initial} if initial else {}),
        )
    return len(pairs)


def _report_to(advance: Callable[..., None]) -> Callable[[int, int, float], None]:
    """Returns what tells a progress bar of the iterations of a training."""
    position = 0

    def on_iteration(iteration: int, total: int, loss: float) -> None:
        nonlocal position
        advance(iteration - position, note=f"loss {loss:.3f}")
        position = iteration

    return on_iteration


def is_trained(folder: StageFolder) -> bool:
    """Tells whether a segmenter's training came to its end."""
    checkpoint = folder.manifest().get("checkpoint")
    return checkpoint is not None and (folder.path / checkpoint).is_file()


def input_key(sample: Sample) -> str:
    """Returns the fingerprint of what an image's prediction is made from."""
    return fingerprint_file(sample.image)


def predicting(
    folder: ResultFolder,
    trained: Path,
    palette: Sequence[tuple[int, int, int]],
    *,
    read: ImageReader,
    device: str,
    testing: Testing,
    checkpoint: str,
    workers: int,
) -> Work:
    """Returns how a trained segmenter segments images, into palette PNGs of image size.

    Args:
        folder: the stage's folder. It receives the prediction of every image, and those of the
            steps before it in hidden folders beside it, see :func:`variant_path`.
        trained: the segmenter's folder.
        palette: n+1 colours.
        read: decodes the images.
        device: "cpu" or "cuda…".
        testing: how images are segmented.
        checkpoint: "last", or the "best" on a split with ground truth.
        workers: processes for the CRF.
    """

    @cache
    def build() -> Segmenter:
        from pipeline.segmenter.predict import Segmenter

        return Segmenter.from_run(trained, device, checkpoint)

    def compute(images: list[Todo]) -> Iterator[tuple[Todo, Labels | ImageError]]:
        def segment(samples: Iterator[Sample]) -> Iterator[tuple[Sample, Labels | ImageError]]:
            found = read_through(samples, read, lambda images: images, _MOST_AHEAD)
            return segment_all(found, build, testing, workers)

        return by_sample(images, segment)

    def save(todo: Todo, labels: Labels) -> None:
        *before, last = testing.steps
        image_id = todo.sample.id
        files = {f"{image_id}.png": encode_png(labels[last], palette)}
        for step in before:
            files[variant_path(step, image_id)] = encode_png(labels[step], palette)
        folder.write(image_id, todo.key, files)

    return Work([folder], compute, save)


def variant_path(step: str, image_id: str) -> str:
    """Returns where the prediction of an earlier step lies below the stage's folder."""
    return f".{step}/{image_id}.png"
