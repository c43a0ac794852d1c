"""The images and masks that a segmenter is trained on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.engine.sample import Images, Sample
from pipeline.engine.scan import available, open_folder
from pipeline.engine.stage import Stage
from pipeline.engine.store import Store
from pipeline.errors import UserError
from pipeline.files.fingerprints import fingerprint, fingerprint_file
from pipeline.masks.mask_files import PROBABILITY
from pipeline.segmenter.pairs import TrainingPair


@dataclass(frozen=True)
class TrainingData:
    """Where the images and masks of a training come from.

    Attributes:
        samples: returns the images.
        pairs: returns them, each with its mask; raises a UserError where there are no masks yet, or
            no probabilities that pixels could be weighted by.
        facts: what names the source in a cache key, where it is not a stage.
        applies: tells whether the data set has such masks.
    """

    samples: Callable[[], Sequence[Sample]]
    pairs: Callable[[], list[TrainingPair]]
    facts: Mapping[str, Any] = field(default_factory=dict)
    applies: Callable[[], bool] = lambda: True


def masks_of_stage(masks: Stage, images: Images, store: Store, weighted: bool) -> TrainingData:
    """Returns the masks of a stage.

    Args:
        masks: the stage.
        images: those of the run.
        store: the output directory.
        weighted: whether the probabilities beside the masks weight their pixels.
    """

    def samples() -> list[Sample]:
        return available(masks, images, store)

    def pairs() -> list[TrainingPair]:
        if weighted and not masks.settings["keep_probability"]:
            raise _no_probabilities()
        folder = open_folder(masks, store).path
        beside = folder / PROBABILITY
        return [
            TrainingPair(
                s.id,
                s.image,
                folder / f"{s.id}.png",
                beside / f"{s.id}.png" if weighted else None,
            )
            for s in samples()
        ]

    return TrainingData(samples, pairs)


def masks_in_folder(
    given: str, samples: Callable[[], Sequence[Sample]], weighted: bool
) -> TrainingData:
    """Returns the masks <id>.png of a folder: ``segmenter.masks``. They have no probabilities."""
    folder = Path(given).expanduser().absolute()

    def pairs() -> list[TrainingPair]:
        if weighted:
            raise _no_probabilities()
        if not folder.is_dir():
            raise UserError(
                f"segmenter.masks={given} is not a folder: give one that holds <id>.png"
            )
        return [TrainingPair(s.id, s.image, folder / f"{s.id}.png") for s in samples()]

    return TrainingData(samples, pairs, facts={"masks": {"from": "files"}})


def ground_truth_masks(samples: Callable[[], Sequence[Sample]]) -> TrainingData:
    """Returns the masks of the data set, for a fully supervised segmenter."""
    return TrainingData(
        samples,
        lambda: [TrainingPair(s.id, s.image, s.mask.file()) for s in samples()],
        facts={"masks": "ground truth", "pixel_weights": None},  # it is certain of every pixel
        applies=lambda: all(s.mask is not None for s in samples()),
    )


def training_data_key(pairs: Sequence[TrainingPair]) -> str:
    """Returns the fingerprint of the contents of all files that a training reads."""
    return fingerprint([[pair.id, *map(_content, pair.files)] for pair in pairs])


def _content(path: Path) -> str | None:
    # Missing files are listed, all of them, before the training begins.
    return fingerprint_file(path) if path.is_file() else None


def _no_probabilities() -> UserError:
    return UserError(
        "segmenter.pixel_weights needs the CRF's probabilities: make the masks with"
        " masks=crf_weighted"
    )
