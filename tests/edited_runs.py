"""Five tiny images in two splits that are edited, runs on them that take no time, and fresh runs.

Numbers name contents. A class is a colour; the tagger, the CAMs and the network know colours alone.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import chdir
from copy import deepcopy
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from pathlib import Path
from shutil import rmtree
from typing import Any

import numpy as np
import pytest
from PIL import Image as Picture

from pipeline.configuration.plugins import import_plugins
from pipeline.datasets.lists import format_class_list
from pipeline.errors import UserError
from pipeline.files.fingerprints import fingerprint_file
from pipeline.files.text import join_cell
from pipeline.segmenter import mmseg, predict, train
from pipeline.stages import pipeline
from pipeline.stages.config import Config, compose, read_config

CLASSES = ("red", "green", "blue")
SPLITS = {"train": "abc", "val": "de"}
TO_MASKS = ("tags", "cams", "masks")
EVERY_STAGE = (*TO_MASKS, "train", "predict")
DAMAGED, OF_OTHER_SIZE = -1, -2
"""Contents of photographs and of masks that cannot be used."""

Place = tuple[str, str, str]
"""Stage, split and key of results."""


@dataclass(frozen=True)
class Image:
    """What a user can change of an image."""

    photograph: int | None = None
    mask: int | None = None  # the ground truth
    labels: tuple[int, ...] | None = None  # in dataset.labels
    line: tuple[int, ...] | None = None  # in the list of tags=file
    listed: bool = True  # in the list of its split


@dataclass(frozen=True)
class Options:
    """The settings that are edited. What corrections say is one of them: keys hold it."""

    tags: str = "colour"  # or file
    alpha: float = 0.5
    corrections: tuple[tuple[str, tuple[int, ...]], ...] = ()  # of tags
    drawn: tuple[tuple[str, int], ...] = ()  # corrected masks
    cell_size: int = 4
    rounds: int = 1
    learning_rate: float = 0.01  # names the network
    absent_as_zero: bool = False
    background_betas: tuple[float, ...] = (1.0,)
    labelled: bool = False
    ignore_background: bool = False
    limit: int | None = None
    split: str | None = None


Images = Mapping[str, Image]
Metrics = Mapping[Place, Mapping[str, Any]]


def draw(content: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns a photograph of rectangles, each more or less in its colour, and their labels."""
    rng = np.random.default_rng(content)
    image, labels = rng.integers(0, 70, (24, 32, 3), np.uint8), np.zeros((24, 32), np.uint8)
    for label in rng.permutation(3)[: 1 + content % 3] + 1:
        top, left = rng.integers(0, 12), rng.integers(0, 16)
        labels[top : top + 12, left : left + 14] = label
        image[labels == label, label - 1] = rng.integers(120, 255)
        image[labels == label, label % 3] = rng.integers(0, 160)
    return image, labels


@dataclass
class Workspace:
    """A folder with inputs and output directories.

    Attributes:
        images: as they lie there.
        contents: fingerprint of a photograph → its content.
    """

    folder: Path
    images: dict[str, Image] = field(default_factory=dict)
    contents: dict[str, int] = field(default_factory=dict)

    def write(self, images: Images) -> None:
        """Writes photographs, ground truth and lists, as far as they changed."""
        root = self.folder / "VOC2012"
        for name in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
            (root / name).mkdir(parents=True, exist_ok=True)
        for image_id, now in images.items():
            before = self.images.get(image_id, Image())
            photograph, mask = (
                root / f"JPEGImages/{image_id}.jpg",
                root / f"SegmentationClass/{image_id}.png",
            )
            if now.photograph != before.photograph:
                photograph.unlink(missing_ok=True)
                if now.photograph == DAMAGED:
                    photograph.write_bytes(b"no photograph")
                elif now.photograph is not None:
                    Picture.fromarray(draw(now.photograph)[0]).save(photograph, quality=95)
                if now.photograph is not None:
                    self.contents[fingerprint_file(photograph)] = now.photograph
            if now.mask != before.mask:
                mask.unlink(missing_ok=True)
                if now.mask == OF_OTHER_SIZE:
                    Picture.fromarray(np.ones((5, 5), np.uint8)).save(mask)
                elif now.mask is not None:
                    Picture.fromarray(draw(now.mask)[1]).save(mask)
        self.images = dict(images)
        for split, ids in SPLITS.items():
            listed = [f"{i}\n" for i in ids if i in images and images[i].listed]
            (root / f"ImageSets/Segmentation/{split}.txt").write_text("".join(listed))
        for name in ("labels", "line"):
            known = {i: getattr(image, name) for i, image in images.items()}
            known = {i: classes for i, classes in known.items() if classes is not None}
            (root / f"{name}.txt").write_text(format_class_list(known))

    def open(self, options: Options, out: str = "out") -> pipeline.Pipeline:
        """Returns the stages of a run."""
        config, folder = deepcopy(_composed(options.tags)), self.folder
        config.output_dir, config.rounds = str(folder / out), options.rounds
        dataset = config.dataset
        dataset.root = str(folder / "VOC2012")
        dataset.split, dataset.limit = options.split, options.limit
        dataset.ignore_background = options.ignore_background
        dataset.labels = f"{dataset.root}/labels.txt" if options.labelled else None
        if options.tags == "colour":
            config.tags.alpha = options.alpha
        config.tags.absent_as_zero = options.absent_as_zero
        if options.corrections:
            names = {i: join_cell(CLASSES[k] for k in tags) for i, tags in options.corrections}
            rows = [f"{i},{s},{names[i]}" for s, ids in SPLITS.items() for i in ids if i in names]
            (path := folder / "mine.csv").write_text("\n".join(["id,split,classes", *rows]))
            os.utime(path, (1e9, 1e9))  # tables show its date
            config.tags.corrections = str(path)
        if options.drawn:
            rmtree(below := folder / "drawn", ignore_errors=True)
            for image_id, content in options.drawn:
                split = next(s for s, ids in SPLITS.items() if image_id in ids)
                (path := below / split / f"{image_id}.png").parent.mkdir(
                    parents=True, exist_ok=True
                )
                Picture.fromarray(draw(content)[1]).save(path)
                os.utime(path, (1e9, 1e9))
            config.masks.corrections = str(below)
        config.segmenter.learning_rate = options.learning_rate
        config.cams.cell_size = options.cell_size
        config.cams.background_betas = [*options.background_betas]
        return pipeline.Pipeline.open(config)

    def run(self, options: Options, *stages: str, out: str = "out") -> str:
        """Runs stages; returns why a user has to do something, or ""."""
        try:
            with chdir(self.folder):  # tags.path is relative
                for _ in self.open(options, out).run(stages):
                    pass
        except UserError as error:
            return str(error)
        return ""

    def recorded(self, out: str) -> Options:
        """Returns the settings of measurements of the last run."""
        found = json.loads((self.folder / out / "config.yaml").read_text())
        return Options(
            absent_as_zero=found["tags"]["absent_as_zero"],
            background_betas=tuple(found["cams"]["background_betas"]),
            labelled=found["dataset"]["labels"] is not None,
            ignore_background=found["dataset"]["ignore_background"],
        )

    def metrics(self, out: str = "out") -> Metrics:
        """Returns what ``metrics.json`` says of all results."""
        path = self.folder / out / "metrics.json"
        runs = json.loads(path.read_text())["runs"] if path.exists() else ()
        return {(run["stage"], run["split"], run["key"]): run for run in runs}


class Fresh:
    """Measures images in fresh folders, each combination of images and settings once."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.known: dict[object, Metrics] = {}

    def metrics(self, options: Options, images: Images, training: Images | None = None) -> Metrics:
        """Returns the figures of all results of some images; {} where a run is refused.

        A network learns from the ``training`` images; without these, masks are the last stage.
        """
        unmeasured = {i: replace(m, mask=None, labels=None) for i, m in (training or {}).items()}
        splits = [s for s, ids in SPLITS.items() if training or not images.keys().isdisjoint(ids)]
        ids = "".join(SPLITS[split] for split in splits)
        corrections = tuple(pair for pair in options.corrections if pair[0] in ids)
        drawn = tuple(pair for pair in options.drawn if pair[0] in ids)
        corrected = {i: Image() for i, _ in corrections + drawn}  # keys hold other images', too
        every = sorted({**corrected, **unmeasured, **images}.items())
        # What is not read, or no image has, changes nothing.
        labelled = options.labelled and any(image.labels is not None for image in images.values())
        ignored = {} if labelled else {"labels": None}
        ignored |= {} if options.tags == "file" else {"line": None}
        every = [(i, replace(image, listed=True, **ignored)) for i, image in every]
        options = replace(options, corrections=corrections, drawn=drawn, labelled=labelled)
        options = replace(options, limit=None)
        options = replace(options, split=splits[0] if len(splits) == 1 else None)
        if training is None:
            options = replace(options, rounds=1)
        given = options, training is None, *every
        if given not in self.known:
            workspace = Workspace(self.folder / str(len(self.known)))
            workspace.write(dict(every))
            stages = TO_MASKS if training is None else EVERY_STAGE
            workspace.run(options, *stages, "evaluate")
            self.known[given] = workspace.metrics()
        return self.known[given]


class ColourNetwork:
    """Stands for a segmenter: a pixel has the label whose mean colour is the nearest."""

    crf = None

    def __init__(self, means: np.ndarray):
        self.means = means

    def views(self, image: np.ndarray, *_: Any) -> list[tuple[bool, np.ndarray]]:
        return [(True, self.probabilities(image))]

    def finite(self, values: np.ndarray) -> np.ndarray:
        return values

    def probabilities(self, image: np.ndarray, *_: Any) -> np.ndarray:
        distances = np.linalg.norm(image[None] - self.means[:, None, None], axis=-1)
        likelihoods = np.exp(-(distances - distances.min(0)) / 40)
        return (likelihoods / likelihoods.sum(0)).astype(np.float32)

    @classmethod
    def from_run(cls, folder: Path, *_: Any) -> ColourNetwork:
        with np.load(folder / "iter_2.pth") as stored:
            return cls(stored["means"])


def train_colours(task: train.Task, folder: Path, _: train.Listener) -> Path:
    """Learns the mean colour of each label."""
    if not task.pairs:
        raise UserError("there is no image to train on")
    means = np.full((len(task.class_names) + 1, 3), 1e4)
    images = np.concatenate([np.asarray(Picture.open(pair.image)) for pair in task.pairs])
    labels = np.concatenate([np.asarray(Picture.open(pair.mask)) for pair in task.pairs])
    for label in range(len(means)):
        if (labels == label).any():
            means[label] = images[labels == label].mean(0)
    with (path := folder / "iter_2.pth").open("wb") as file:
        np.savez(file, means=means)
    return path


def record_as_json(config: Config, command: str) -> str:
    """Returns what is read again of the settings of a run; JSON is YAML, and fast to write."""
    cams, tags = config.cams.background_betas, config.tags.absent_as_zero
    settings = {"cams": {"background_betas": cams}, "tags": {"absent_as_zero": tags}}
    return json.dumps({"dataset": asdict(config.dataset), **settings})


def spare_what_takes_long(patch: pytest.MonkeyPatch) -> None:
    """Leaves out all that does not decide which figures are shown."""
    import_plugins(["tests.plugins.colour_tagger", "tests.plugins.colour_cams"])
    from pipeline.exchange import paired_page
    from pipeline.report.page import page

    patch.setattr(train, "train", train_colours)
    patch.setattr(predict, "Segmenter", ColourNetwork)
    patch.setattr(pipeline, "fetch_weights", lambda *_: None)
    patch.setattr(pipeline, "record", record_as_json)
    patch.setattr(mmseg, "fingerprint_config", cache(mmseg.fingerprint_config))
    patch.setattr(page, "draw_sheet", lambda *_: b"")
    patch.setattr(paired_page, "comparison_page", lambda *_: "")


@cache
def _composed(tags: str) -> Config:
    given = [
        *("dataset=voc2012", "dataset.root=/", f"dataset.classes=[{','.join(CLASSES)}]"),
        *("dataset.cam_names=null", "dataset.backgrounds=[]"),
        *(f"tags={tags}", *["tags.path=VOC2012/line.txt"] * (tags == "file")),
        *("cams=channel", "masks=argmax", "segmenter=demo"),
        *("segmenter.validation_interval=null", "segmenter.precision=fp32"),
        "segmenter.test={scales: [1.0], flip: false, crf: null}",
        *("experiment_name=edits", "runtime.workers=1", "runtime.max_failures=100"),
        "output_dir=/",
    ]
    return read_config(compose(given))
