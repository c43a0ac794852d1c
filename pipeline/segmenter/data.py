"""The images and masks that a segmenter is trained on, and checks of both."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.engine.pool import prefetch
from pipeline.engine.records import photograph_and_result
from pipeline.engine.sample import ImageReader, Images, Sample
from pipeline.engine.scan import available
from pipeline.engine.stage import Stage
from pipeline.engine.store import Store
from pipeline.errors import ImageError, UserError
from pipeline.files.fingerprints import fingerprint, fingerprint_cached, fingerprint_file
from pipeline.files.label_images import IGNORE, read_labels


@dataclass(frozen=True)
class TrainingPair:
    """An image with the mask that it is trained on.

    Attributes:
        id: unique name of the image.
        image: any file that ``pipeline.files.images.decode_image`` reads.
        mask: indexed or grey PNG of the image's size; 0 background, k+1 class k, 255 ignore.
        repeats: how often an epoch shows it.
    """

    id: str
    image: Path
    mask: Path
    repeats: int = 1


@dataclass(frozen=True)
class TrainingData:
    """The sources of the images and masks of a training.

    Attributes:
        samples: returns the images.
        pairs: returns them, each with its mask; raises a UserError where there are no masks yet.
        key_facts: what a cache key holds of the source beside a stage.
        learned_from: returns image id → the photograph and the result that are read of a stage, see
            :func:`pipeline.engine.records.photograph_and_result`.
    """

    samples: Callable[[], Sequence[Sample]]
    pairs: Callable[[], list[TrainingPair]]
    key_facts: Mapping[str, Any] = field(default_factory=dict)
    learned_from: Callable[[], Mapping[str, list[str]]] = dict


def masks_of_stage(
    masks: Stage, images: Images, store: Store, repeats: Mapping[str, int] = {}
) -> TrainingData:
    """Returns the masks of a stage on one split; ``repeats`` is image id → its number an epoch."""
    samples = partial(available, masks, images, store)

    def pairs() -> list[TrainingPair]:
        folder = masks.results(store).path
        masks_of = ((s, folder / f"{s.id}.png", repeats.get(s.id, 1)) for s in samples())
        return [TrainingPair(s.id, s.image, path, repeats=n) for s, path, n in masks_of]

    def read() -> Mapping[str, list[str]]:
        entries = masks.results(store).entries
        return {sample.id: photograph_and_result(entries[sample.id]) for sample in samples()}

    facts = {"repeat_corrected": max(repeats.values())} if repeats else {}
    return TrainingData(samples, pairs, facts, learned_from=read)


def training_data_key(pairs: Sequence[TrainingPair]) -> str:
    """Returns the fingerprint of the contents of all files that a training reads."""

    def contents(pair: TrainingPair) -> list[str | None]:
        read = [(pair.image, fingerprint_cached), (pair.mask, fingerprint_file)]
        # Missing files are listed, all of them, before the training begins.
        return [content(path) if path.is_file() else None for path, content in read]

    return fingerprint([[pair.id, *contents(pair)] for pair in pairs])


def check_pairs(
    pairs: Sequence[TrainingPair],
    num_classes: int,
    decode: ImageReader = ImageReader(),  # noqa: B008
    needs_class: bool = True,
) -> dict[str, str]:
    """Returns id → what would end or spoil a training, by decoding images and masks.

    Of n classes without the background, labels 0 to n and 255 are allowed. The limit of pixels of
    ``decode`` holds for masks, too. Raises a UserError if no mask shows a class and one is needed.
    """
    shown: set[int] = set()

    def check(pair: TrainingPair) -> str:
        problems, size = [], None
        try:
            _, size = decode(Sample(pair.id, pair.image))
        except ImageError as error:
            problems += [f"image {pair.image} {error if pair.image.exists() else 'is missing'}"]
        try:
            labels = read_labels(pair.mask, max_pixels=decode.max_pixels)
        except (UserError, FileNotFoundError) as error:
            reason = error if pair.mask.exists() else f"{pair.mask} is missing"
            return "; ".join([*problems, f"mask {reason}"])
        if size is not None and labels.shape != size:
            (rows, columns), (height, width) = labels.shape, size
            problems += [f"mask is {columns}×{rows}, its image {width}×{height} pixels"]
        shown.update(found := np.unique(labels).tolist())
        if wrong := [k for k in found if num_classes < k != IGNORE]:
            problems += [f"mask has labels {wrong} outside 0 to {num_classes} and 255"]
        return "; ".join(problems)

    checked = prefetch(pairs, check, decode.threads, 2 * decode.threads)
    refused = {pair.id: problems for pair, problems in checked if problems}
    if needs_class and shown and not shown - {0, IGNORE}:
        raise UserError(
            "no mask shows a class, so a network would learn only the background: check the masks,"
            " and the tags that they are made from"
        )
    return refused
