"""Training of a segmenter on the images and masks of a caller's program, by the stage ``train``."""

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.api.configuration import check_texts, compose_folder, configure
from pipeline.api.labelling import Labelling
from pipeline.datasets.vocabulary import build_vocabulary
from pipeline.engine.run import Run
from pipeline.engine.sample import Dataset, Images, Sample
from pipeline.engine.store import Store
from pipeline.engine.workers import Executor
from pipeline.errors import UserError, shown
from pipeline.files.atomic import write_atomically
from pipeline.files.fingerprints import fingerprint
from pipeline.files.images import AnyImage, encode_png, to_image
from pipeline.files.label_images import refuse_brush_masks
from pipeline.segmenter.data import TrainingData, TrainingPair
from pipeline.segmenter.predict import Segmenter
from pipeline.stages.builder import Builder

AnyMask = str | os.PathLike[str] | np.ndarray | Labelling


def train(
    images: Iterable[AnyImage],
    masks: Iterable[AnyMask],
    names: Sequence[str] | str,
    *,
    output: str | os.PathLike[str] = "outputs/trained",
    segmenter: str | None = None,
    iterations: int | None = None,
    overrides: Sequence[str] = (),
) -> Segmenter:
    """Trains a segmenter, as ``stage=train`` does with ``dataset=folder``.

    The same call again goes on where it stopped, or returns what is finished. mmengine seeds the
    generators of Python, NumPy and PyTorch.

    Args:
        images: as :class:`pipeline.Labeller` takes them.
        masks: of each image, in its size: the path of a palette or grey PNG, an H×W uint8 array (0
            background, k+1 class k, 255 ignored), or a labelling.
        names: the n class names, or the path of a file with them.
        output: the folder of networks, and of images and masks that are not files.
        segmenter: a choice of ``segmenter=``; none takes that of ``dataset=folder``.
        iterations: as ``segmenter.iterations``.
        overrides: further settings as the command line takes them.

    Raises:
        UserError: whatever in it cannot be used.
    """
    chosen = [] if segmenter is None else [f"segmenter={segmenter}"]
    check_texts("overrides", overrides)
    composed = compose_folder([*chosen, *overrides])
    config = configure(names, {"segmenter.iterations": iterations}, composed)
    for name, each in {"images": images, "masks": masks}.items():
        if not isinstance(each, Iterable) or isinstance(each, str):
            raise UserError(f"{name}={shown(each)} is not a list: give one, with one of each image")
    if not isinstance(output, str | os.PathLike):
        raise UserError(f"output={shown(output)} is not a folder: give its path")
    images, masks, store = list(images), list(masks), Store(Path(output).absolute())
    if len(images) != len(masks):
        raise UserError(f"{len(masks)} masks for {len(images)} images: give one for each image")
    pairs = []
    for place, (image, mask) in enumerate(zip(images, masks)):
        name, inputs = f"images[{place}]", store.root / "inputs"
        try:
            files = _file(image, to_image, inputs), _file(mask, _to_labels, inputs)
        except UserError as error:
            raise UserError(f"{name}: {error}") from error
        pairs.append(TrainingPair(name, *files))
    vocabulary = build_vocabulary(config.dataset)
    for mask in masks:
        if isinstance(mask, Labelling) and tuple(mask.classes) != tuple(vocabulary.classes):
            raise UserError("a labelling has other classes than names: give those of its labeller")
    refuse_brush_masks((pair.mask for pair in pairs), "masks", "write its class, which is 1")
    samples = [Sample(pair.id, pair.image) for pair in pairs]
    split = Images(Dataset(vocabulary, {"train": samples}, "train"))
    builder = Builder(config, vocabulary, split, store=store)
    data = TrainingData(lambda: samples, lambda: pairs, {"masks": {"from": "files"}})
    on_masks = builder.training(builder.per_split("train")["masks"], 1)
    training = replace(on_masks, before={}, source=lambda: data)
    if training.unknown_until() and (broken := training.broken()):  # look before the download
        raise UserError(": ".join(next(iter(broken.items()))))
    with Run(split, store, Executor(config.executor, builder.workers), max_failures=0) as run:
        (outcome,) = run.compute([training])
    return Segmenter.from_run(outcome.path, builder.device, config.segmenter.checkpoint)


def _file(given: object, decode: Callable[[Any], np.ndarray], folder: Path) -> Path:
    """Returns the file of an image or a mask, which is written unless it is one."""
    if isinstance(given, str | os.PathLike):
        return Path(given)
    pixels = decode(given)
    path = folder / f"{fingerprint(pixels.tobytes(), pixels.shape)}.png"
    if not path.exists():
        write_atomically(path, encode_png(pixels))
    return path


def _to_labels(mask: object) -> np.ndarray:
    labels = mask.mask if isinstance(mask, Labelling) else mask
    what: object = type(mask)
    if isinstance(labels, np.ndarray):
        if labels.ndim == 2 and labels.dtype == np.uint8:
            return labels
        what = f"{labels.dtype} of shape {labels.shape}"
    raise UserError(f"its mask is {shown(what)}: give a path, H×W uint8, or a labelling")
