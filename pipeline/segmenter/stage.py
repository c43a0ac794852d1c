"""The stages ``train`` and ``predict``: a segmenter that learns from masks, and what it sees."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.datasets.sample import ImageReader, Sample
from pipeline.errors import ImageError, UserError
from pipeline.fingerprints import fingerprint, fingerprint_file
from pipeline.images import encode_png
from pipeline.masks.labels import resized_argmax
from pipeline.progress import track
from pipeline.store import StageFolder
from pipeline.sweep import read_through, sweep
from pipeline.vocabulary import Vocabulary

if TYPE_CHECKING:
    from pipeline.segmenter.predict import Segmenter

_PROBLEMS_SHOWN = 5


_MOST_AHEAD = 4  # photographs that are decoded ahead of the network


def training_data_key(samples: Sequence[Sample], masks: Mapping[str, Path]) -> str:
    """Returns the fingerprint of all images and masks that a training reads."""
    return fingerprint(
        [[s.id, fingerprint_file(s.image), fingerprint_file(masks[s.id])] for s in samples]
    )


def run_train(
    samples: Sequence[Sample],
    masks: Mapping[str, Path],
    folder: StageFolder,
    vocabulary: Vocabulary,
    *,
    settings: Mapping[str, Any],
    seed: int,
    device: str,
) -> int:
    """Trains a segmenter, from its last checkpoint on if there is one.

    Args:
        samples: the images of the training split that have masks.
        masks: image id → mask file.
        folder: the segmenter's folder, locked; mmengine's work directory.
        vocabulary: class names and palette.
        settings: the configuration of the segmenter.
        seed: of the initial weights, the order of images and their transforms.
        device: "cpu" or "cuda…".

    Returns:
        The number of images that it was trained on; 0 when it was trained before.

    Raises:
        UserError: masks that do not fit, or a loss that is not finite.
    """
    # mmsegmentation takes seconds to import, so only a stage that needs it does.
    from pipeline.segmenter import train

    if is_trained(folder):
        folder.point_latest()
        return 0
    if not samples:
        raise UserError("there is no image to train on: run stage=masks first")
    pairs = [train.TrainingPair(s.id, s.image, masks[s.id]) for s in samples]
    problems = train.check_pairs(
        pairs, len(vocabulary.classes), apply_exif=bool(settings.get("apply_exif"))
    )
    if problems:
        shown = "; ".join(problems[:_PROBLEMS_SHOWN])
        more = len(problems) - _PROBLEMS_SHOWN
        raise UserError(
            f"{len(problems)} masks cannot be trained on: {shown}"
            + (f"; and {more} more" if more > 0 else "")
        )
    began = time.monotonic()
    with track(f"train {settings['name']}", settings["iterations"]) as advance:
        position = 0

        def on_iteration(iteration: int, total: int, loss: float) -> None:
            nonlocal position
            advance(iteration - position, note=f"loss {loss:.3f}")
            position = iteration

        checkpoint = train.train(
            settings,
            pairs,
            vocabulary.classes,
            vocabulary.palette,
            folder.path,
            seed,
            device,
            on_iteration=on_iteration,
        )
    folder.write_manifest(
        images=len(pairs),
        checkpoint=checkpoint.name,
        seconds=round(folder.manifest().get("seconds", 0) + time.monotonic() - began, 3),
    )
    return len(pairs)


def is_trained(folder: StageFolder) -> bool:
    """Tells whether a segmenter's training came to its end."""
    checkpoint = folder.manifest().get("checkpoint")
    return checkpoint is not None and (folder.path / checkpoint).is_file()


def input_key(sample: Sample) -> str:
    """Returns the fingerprint of what an image's prediction is made from."""
    return fingerprint_file(sample.image)


def run_predict(
    samples: Sequence[Sample],
    folder: StageFolder,
    trained: StageFolder,
    palette: Sequence[tuple[int, int, int]],
    *,
    read: ImageReader,
    device: str,
) -> int:
    """Segments images with a trained segmenter and stores palette PNGs of image size.

    Args:
        samples: the images of a split.
        folder: the stage's folder, locked.
        trained: the segmenter's folder.
        palette: n+1 colours.
        read: decodes the images.
        device: "cpu" or "cuda…".

    Returns:
        The number of images that were computed.
    """

    def compute(todo: list[Sample]) -> Iterator[tuple[Sample, np.ndarray | ImageError]]:
        from pipeline.segmenter.predict import Segmenter

        segmenter = None
        for sample, found in read_through(todo, read, lambda images: images, _MOST_AHEAD):
            if not isinstance(found, ImageError):
                segmenter = segmenter or Segmenter.from_run(trained.path, device)
                found = segment_at_size(segmenter, *found)
            yield sample, found

    computed = sweep(
        samples,
        folder,
        input_key=input_key,
        compute=compute,
        save=lambda sample, key, labels: folder.write(
            sample.id, key, {f"{sample.id}.png": encode_png(labels, palette)}
        ),
    )
    folder.finish([s.id for s in samples])
    return computed


def segment_at_size(segmenter: Segmenter, image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Segments an image, perhaps shrunk, and returns labels of its full size, H×W uint8."""
    channels, _ = resized_argmax(segmenter.logits(image), *size)
    return channels.astype(np.uint8)
