"""One configuration's project: its data set, its folders, and its models when they are needed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from pipeline import keys
from pipeline.cams import from_files
from pipeline.datasets import load_dataset
from pipeline.datasets.sample import Sample, choose_splits
from pipeline.engine.store import StageFolder, Store
from pipeline.errors import UserError
from pipeline.files.fingerprints import fingerprint_file, remember_in
from pipeline.masks.stage import PROBABILITY
from pipeline.method import Method
from pipeline.segmenter.pairs import TrainingPair
from pipeline.segmenter.stage import CHOICES, is_trained, training_data_key
from pipeline.shards import Workforce
from pipeline.sweep import sweep


class Project:
    """What a configuration stands for; the stages work on it.

    Attributes:
        round: of training, from 1; see :mod:`pipeline.rounds`.
    """

    round = 1

    def __init__(self, config: Mapping[str, Any]):
        """Loads the data set; models are loaded when a stage has something to compute.

        Args:
            config: the whole configuration, as plain dictionaries.

        Raises:
            UserError: whatever in it cannot be used.
        """
        self.config = config
        settings, runtime = config["dataset"], config["runtime"]
        root = Path(config["output_dir"]).expanduser().absolute()
        self.store = Store(root, wait=runtime["wait"])
        remember_in(root, write=not config.get("dry_run"))  # a dry run writes nothing
        if runtime["threads"]:
            torch.set_num_threads(runtime["threads"])
        workers = runtime["workers"] or torch.multiprocessing.cpu_count()
        self.dataset = load_dataset(settings, workers)
        self.vocabulary = self.dataset.vocabulary
        self.method = Method(config, self.vocabulary, self.store)
        self.reader, self.testing = self.method.reader, self.method.testing
        self.device = self.method.device
        offered = settings.get("default_splits") or self.dataset.splits
        wanted = settings["split"] or [s for s in offered if s in self.dataset.splits]
        self.splits = choose_splits(wanted, list(self.dataset.splits))
        if config["segmenter"]["checkpoint"] not in CHOICES:
            chosen = config["segmenter"]["checkpoint"]
            raise UserError(f"segmenter.checkpoint={chosen} is unknown: give last or best")
        self.workforce = Workforce(config["executor"], workers)

    def samples(self, split: str) -> list[Sample]:
        """Returns the images of a split, up to ``dataset.limit``.

        Raises:
            UserError: the data set does not have the split.
        """
        choose_splits(split, list(self.dataset.splits))
        return self.dataset.splits[split][: self.config["dataset"]["limit"]]

    def known_ids(self, split: str) -> set[str]:
        """Returns the ids of all images of a split, and of the files that cannot be samples."""
        rejected = self.dataset.rejected.get(split, [])
        return {*(s.id for s in self.dataset.splits[split]), *(name for name, _ in rejected)}

    @property
    def has_ceiling(self) -> bool:
        """Whether a segmenter is also trained on the ground truth, for comparison."""
        if not self.config["segmenter"]["ceiling"]:
            return False
        return all(s.mask is not None for s in self.samples(self.dataset.train_split))

    @property
    def validation_samples(self) -> list[Sample]:
        """What a segmenter is measured on while it trains: a split of this run with masks."""
        # Splits are read from disk when they are first asked for, which only this may need.
        if self.config["segmenter"]["validation_interval"]:
            for split in self.splits:
                if split == self.dataset.train_split:
                    continue
                if known := [s for s in self.samples(split) if s.mask is not None]:
                    return known
        return []

    def do(
        self,
        verb: str,
        samples: Sequence[Sample],
        folders: Sequence[StageFolder],
        *inputs: Path,
        input_key: Callable[[Sample], str],
        given: Callable[[Sample], Any] = lambda sample: None,
        is_done: Callable[[Sample, str], bool] | None = None,
    ) -> int:
        """Has images done by one of the method's functions, here or by workers.

        Args:
            verb: the function of :class:`pipeline.method.Method`.
            samples: the images.
            folders: receive the results, locked; the stage's own is the first.
            *inputs: folders that the function is given besides.
            input_key: see :func:`pipeline.sweep.sweep`.
            given: see there.
            is_done: see there.

        Returns:
            The number of images that were computed.
        """
        return sweep(
            samples,
            getattr(self.method, verb)(*folders, *inputs),
            input_key=input_key,
            given=given,
            is_done=is_done,
            do=self.workforce.doing(self.method, self.store, verb, folders, *inputs),
        )

    # Where results lie

    @cached_property
    def _tags_configuration(self) -> dict[str, Any]:
        uses_clip = self.config["tags"]["method"] in keys.USES_CLIP
        weights = fingerprint_file(self.method.checkpoint) if uses_clip else ""
        return keys.tags_configuration(self.config, self.vocabulary, weights)

    @cached_property
    def _cams_configuration(self) -> dict[str, Any]:
        given = from_files.is_chosen(self.config)
        weights = "" if given else fingerprint_file(self.method.checkpoint)
        tags = {} if given else self._tags_configuration
        return keys.cams_configuration(self.config, self.vocabulary, weights, tags)

    @cached_property
    def _masks_configuration(self) -> dict[str, Any]:
        return keys.masks_configuration(self.config, self._cams_configuration)

    def tags_folder(self, split: str) -> StageFolder:
        """Returns the folder of a split's tags, as it is now."""
        return self.store.folder(split, "tags", self._tags_configuration)

    def cams_folder(self, split: str) -> StageFolder:
        """Returns the folder of a split's maps, as it is now."""
        return self.store.folder(split, "cams", self._cams_configuration)

    def masks_folder(self, split: str) -> StageFolder:
        """Returns the folder of a split's masks, as it is now."""
        return self.store.folder(split, "masks", self._masks_configuration)

    @property
    def _own_masks(self) -> Path | None:
        """The folder of masks that the stage did not make, where there is one.

        Raises:
            UserError: it does not exist.
        """
        chosen = self.config["segmenter"]["masks"]
        if chosen is None:
            return None
        folder = Path(chosen).expanduser().absolute()
        if not folder.is_dir():
            raise UserError(f"segmenter.masks={chosen} is no folder: give one that holds <id>.png")
        return folder

    def training_data(self, ceiling: bool) -> tuple[list[Sample], list[TrainingPair]]:
        """Returns the images to train on, and each with its mask.

        Raises:
            UserError: there are no masks yet, or no probabilities where pixels are to be weighted.
        """
        split = self.dataset.train_split
        if ceiling:
            samples = self.samples(split)
            return samples, [TrainingPair(s.id, s.image, s.mask.file()) for s in samples]
        if self._own_masks is not None:
            samples, folder = self.samples(split), self._own_masks
            return samples, [TrainingPair(s.id, s.image, folder / f"{s.id}.png") for s in samples]
        folder = self.masks_folder(split)
        samples = self.available(split, "masks")
        weights = self.config["segmenter"]["pixel_weights"]
        if weights not in (None, "crf"):
            raise UserError(f"segmenter.pixel_weights={weights} is unknown: give crf or null")
        weighted = weights is not None
        if weighted and not self.config["masks"].get("keep_probability"):
            raise UserError(
                "segmenter.pixel_weights needs the CRF's probabilities: make the masks with"
                " masks=crf_weighted"
            )
        return samples, [
            TrainingPair(
                s.id,
                s.image,
                folder.path / f"{s.id}.png",
                folder.path / PROBABILITY / f"{s.id}.png" if weighted else None,
            )
            for s in samples
        ]

    def segmenter_folder(self, ceiling: bool = False) -> StageFolder:
        """Returns the folder of the segmenter that these masks lead to.

        Raises:
            UserError: there are no masks yet.
        """
        data = training_data_key(self.training_data(ceiling)[1])
        if ceiling:
            masks = None
        else:
            masks = self._masks_configuration if self._own_masks is None else {"from": "files"}
        configuration = keys.segmenter_configuration(self.config, self.vocabulary, masks, data)
        return self.store.folder("", "segmenter", configuration, becomes_latest=not ceiling)

    def predictions_folder(self, split: str, ceiling: bool = False) -> StageFolder:
        """Returns the folder of a split's predictions, as it is now."""
        segmenter = self.segmenter_folder(ceiling).configuration
        configuration = keys.predictions_configuration(self.config, segmenter)
        return self.store.folder(split, "predictions", configuration, becomes_latest=not ceiling)

    def find_trained(self, ceiling: bool = False) -> StageFolder | None:
        """Returns the folder of the segmenter, or none where it is not trained yet."""
        try:
            folder = self.segmenter_folder(ceiling)
        except UserError:
            return None
        return folder if is_trained(folder) else None

    def available(self, split: str, stage: str) -> list[Sample]:
        """Returns the images of a split for which a stage has results, for the stage after it.

        Those that the stage, or one before it, had to leave out are not among them.

        Args:
            split: the split.
            stage: "tags", "cams" or "masks".

        Raises:
            UserError: the stage was not run, or not on all of the images as they are now.
        """
        samples = self.samples(split)
        left_out: set[str] = set()
        for name, find in self._folders.items():
            folder = find(split)
            left_out |= folder.failures.keys()
            if name == stage:
                break
        expected = [s for s in samples if s.id not in left_out]
        there = [s for s in expected if folder.is_of_image(s.id, fingerprint_file(s.image))]
        if not there and expected:
            raise UserError(f"no {stage} for split {split}: run stage={stage} first")
        damaged = [s for s in there if not folder.is_whole(s.id)]
        if len(there) < len(expected) or damaged:
            missing = f"{len(expected) - len(there)} of {len(samples)} missing"
            missing += f", {len(damaged)} damaged" if damaged else ""
            raise UserError(
                f"{stage} for split {split} are incomplete ({missing}): run stage={stage} first"
            )
        return there

    @property
    def _folders(self) -> dict[str, Callable[[str], StageFolder]]:
        folders = {"cams": self.cams_folder, "masks": self.masks_folder}
        # Where maps are given, there need be no tags.
        given = from_files.is_chosen(self.config)
        return folders if given else {"tags": self.tags_folder, **folders}
