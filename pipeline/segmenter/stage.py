"""The stages ``train`` and ``predict``: a segmenter that learns from masks, and its predictions."""

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.clip.device import AUTO, device_kind, settle_precision
from pipeline.clip.frozen import FrozenClip
from pipeline.clip.origins.origin import refuse_changed
from pipeline.clip.second import FrozenSecond
from pipeline.datasets.sources import find_licence
from pipeline.datasets.vocabulary import Vocabulary
from pipeline.engine.kinds import NETWORK, PREDICTIONS
from pipeline.engine.progress import say, track
from pipeline.engine.records import LEARNED_FROM
from pipeline.engine.results import Results
from pipeline.engine.sample import ImageReader, Sample
from pipeline.engine.stage import Computed, Decoded, OfSplit, Output, PerImage, Stage
from pipeline.engine.writer import Writer
from pipeline.errors import ImageError, NeedsStage, UserError, tell
from pipeline.files.archives import is_intact
from pipeline.files.atomic import canonical_json, read_json, write_atomically
from pipeline.files.fingerprints import fingerprint, fingerprint_cached, fingerprint_file
from pipeline.files.images import encode_png
from pipeline.files.text import given_path
from pipeline.segmenter.data import TrainingData, TrainingPair, check_pairs, training_data_key
from pipeline.segmenter.distributed import explain_lost_process, join, process_rank
from pipeline.segmenter.multi_scale import segment_all
from pipeline.segmenter.settings import PredictionSettings, SegmenterSettings, TestSettings

if TYPE_CHECKING:
    from pipeline.clip.image_tower import ImageTower
    from pipeline.segmenter.predict import Segmenter

CHOSEN_BY = "chosen_by.json"
"""In the folder of a training that was measured: what :attr:`Training.chosen_by` was."""

_OF_FEATURES = ("precision", "most_patches", "position_fp16")  # of a tower, not of its weights


def load_tower(tower: FrozenClip | FrozenSecond) -> "ImageTower":
    """Reads a frozen tower anew; a UserError if its files changed since the run began."""
    refuse_changed(tower.origin.files(), tower.fingerprint)
    model = tower.origin.load("cpu")
    return getattr(model, "image", model)


def describe_tower(tower: FrozenClip | FrozenSecond) -> tuple[str, str]:
    """Returns the model, weights and given files of a frozen tower, and the licence in words."""
    pretrained, given = getattr(tower, "pretrained", None), tower.checkpoint or ()
    files = [given] if isinstance(given, str) else [path for _, path in given]
    published = pretrained or tower.model
    licence = find_licence(published) if published else "that of the file"
    return ", ".join(filter(None, [tower.model, pretrained, *files])), licence


@dataclass(frozen=True, kw_only=True, eq=False)
class Training(OfSplit):
    """A segmenter that learns from masks; its folder is mmengine's work directory.

    Attributes:
        seed: of the initial weights, the order of images and their transforms.
        source: returns what it is trained on.
        tower: the frozen vision transformer of a decoder; none for other networks, and for timm's.
        fitted: returns the options, whose crops hold whole patches of a vision transformer.
        validation: returns images that the network is measured on while it trains.
    """

    name = "segmenter"
    command = "train"
    kind = NETWORK
    algorithm = 2
    is_below_split = False
    options: SegmenterSettings
    seed: int
    device: str
    vocabulary: Vocabulary
    decode: ImageReader
    source: Callable[[], TrainingData]
    fitted: Callable[[], SegmenterSettings]
    tower: FrozenClip | FrozenSecond | None = None
    validation: Callable[[], Sequence[Sample]] = tuple

    @cached_property
    def data(self) -> TrainingData:
        """The images and masks."""
        return self.source()

    @cached_property
    def pairs(self) -> list[TrainingPair]:
        """The images, each with its mask, which are read once."""
        return self.data.pairs()

    def samples(self) -> Sequence[Sample]:
        """Returns the images that it is trained on."""
        return self.data.samples()

    def broken(self) -> Mapping[str, str]:
        """Returns id → reason, of the images that cannot be trained on, or whose masks cannot."""
        # The masks of later rounds are predictions, on which the earlier training has remarked.
        classes, is_first = len(self.vocabulary.classes), self.round == 1
        return check_pairs(self.pairs, classes, self.decode, needs_class=is_first)

    def own_settings(self) -> dict[str, Any]:
        """Returns what the weights depend on: the images and masks, too."""
        from pipeline.segmenter.mmseg import fingerprint_config

        initial: dict[str, Any] = {"pretrained": None}
        if not self.options.starts_from_scratch:
            path = given_path(self.options.pretrained, "segmenter.pretrained")
            initial["pretrained"] = path.name
            if self.tower is None and path.is_file():
                initial["weights"] = fingerprint_file(path)
        if self.tower is not None:
            facts = self.tower.key_facts().items()
            initial["tower"] = {name: fact for name, fact in facts if name not in _OF_FEATURES}
        return {
            **self.fitted().training_facts,
            "config_content": fingerprint_config(self.options.config),
            **initial,
            "seed": self.seed,
            **self.decode.key_facts,
            "classes": list(self.vocabulary.classes),
            "data": training_data_key(self.pairs),
            **self.data.key_facts,
        }

    def unknown_until(self) -> str:
        """Returns "download" where weights of a frozen tower, which are in the key, are missing."""
        return "download" if self.tower and not self.tower.origin.is_on_disk else ""

    def is_complete(self, results: Results) -> bool:
        """Tells whether the training came to its end, and its checkpoints are intact."""
        checkpoint = results.manifest.get("checkpoint")
        found = checkpoint is not None and is_intact(results.path / checkpoint)
        return not self._lacks_best(results.path) and found

    @cached_property
    def chosen_by(self) -> Mapping[str, Any]:
        """What chooses the best checkpoint; {} where nothing is measured."""
        interval = self.options.validation_interval
        if not interval or not (samples := self.validation()):
            return {}
        read = [value for sample in samples for value in (sample.image, *sample.mask.origin)]
        is_file = [isinstance(value, Path) and value.is_file() for value in read]
        data = [fingerprint_cached(v) if there else str(v) for v, there in zip(read, is_file)]
        return {"validation_interval": interval, "data": fingerprint(data)}

    def _is_chosen_otherwise(self, folder: Path) -> bool:
        return (read_json(folder / CHOSEN_BY) or {}) != self.chosen_by

    def _lacks_best(self, folder: Path) -> bool:
        """Tells whether the best checkpoint is asked for, and missing or chosen otherwise.

        Raises a UserError if nothing can choose it.
        """
        if self.options.checkpoint != "best":
            return False
        if not self.chosen_by:
            raise UserError(
                "segmenter.checkpoint=best requires segmenter.validation_interval=N and a split"
                " with masks that is not trained on: give both, or segmenter.checkpoint=last"
            )
        is_there = any(map(is_intact, folder.glob("best_*.pth")))
        return not is_there or self._is_chosen_otherwise(folder)

    def refuse_missing(self, results: Results, reader: Stage) -> None:
        """Raises the UserError of a stage that needs the segmenter, where it is not trained."""
        if self.is_complete(results):
            return
        checkpoint, folder = results.manifest.get("checkpoint"), results.path
        if checkpoint is not None:
            what, wrong = checkpoint, "is missing or damaged"
            if is_intact(folder / checkpoint):
                what = "best checkpoint"
                if self._is_chosen_otherwise(folder):
                    wrong = "was not chosen by this interval on this split and ground truth"
            wrong = f"{what} in {folder} {wrong}: run stage=train again"
            raise NeedsStage(wrong, self.command)
        wrong = "no segmenter was trained on these masks"
        if reader.round > self.round:
            wrong = f"round {reader.round} needs the segmenter of round {self.round}"
        raise NeedsStage(f"{wrong}: run stage=train first", self.command)

    @explain_lost_process()
    def run(self, writer: Writer) -> int:
        """Trains a segmenter, from its last checkpoint on if there is one.

        Every process of torchrun calls this; only the first one writes to the folder. Raises a
        UserError for unusable masks, a loss that is not finite, or another process that ended.
        """
        from pipeline.segmenter import checkpoints, train  # mmsegmentation takes seconds to import

        join(self.device)  # until the first process holds the folder's lock
        writes = process_rank() == 0
        results, folder = writer.results, writer.path
        if self.is_complete(results):
            if writes:
                writer.point_latest()
            return 0
        pairs = [pair for pair in self.pairs if pair.id not in results.failures]
        began = time.monotonic()
        if writes:
            is_other = self._is_chosen_otherwise(folder)
            if self._lacks_best(folder) and (is_other or "checkpoint" in results.manifest):
                tell("note: trained anew: this validation did not choose the best checkpoint")
                checkpoints.forget(folder)
            if is_other:  # what two chose in turn is the choice of neither
                chosen_by = {} if checkpoints.checkpoints_in(folder) else self.chosen_by
                write_atomically(folder / CHOSEN_BY, canonical_json(chosen_by))
            writer.begin(len(pairs))
            read, ids = self.data.learned_from(), {pair.id for pair in pairs}
            read = {image_id: content for image_id, content in read.items() if image_id in ids}
            write_atomically(folder / LEARNED_FROM, canonical_json(read))
        position = 0

        def report(iteration: int, total: int, loss: float) -> None:
            nonlocal position
            advance(iteration - position, note=f"loss {loss:.3f}")
            position = iteration

        def remark(iteration: int) -> None:
            found = {"statistics": {"background_until": iteration}}
            writer.write_manifest(**{**results.manifest, **found})  # with when it began
            tell(f"note: {self.remark(results, ())}")

        bar = track(f"train {self.options.name}", self.options.iterations)
        with bar if writes else nullcontext() as advance:
            say("loading the network and the first batch")
            task = train.Task(
                settings=self.fitted(),
                pairs=pairs,
                class_names=self.vocabulary.classes,
                palette=self.vocabulary.palette,
                seed=self.seed,
                device=self.device,
                read=self.decode,
                tower=self.tower and partial(load_tower, self.tower),
                about_tower=self.tower and describe_tower(self.tower),
                validation=self.validation(),
            )
            checkpoint = train.train(task, folder, train.Listener(report, remark))
        if self._lacks_best(folder):
            raise UserError(
                "there is no best checkpoint, because all pixels of the validation masks are"
                " ignored: correct them, or take segmenter.checkpoint=last"
            )
        if writes:
            initial = read_json(folder / train.INITIAL_WEIGHTS)
            precision = checkpoints.precision_of(self.options.precision, checkpoint)
            traits = f"device={device_kind(self.device)}", f"precision={precision}"
            seconds = results.manifest.get("seconds", 0) + time.monotonic() - began
            writer.write_manifest(
                complete=True,
                images=len(pairs),
                left_out=len(results.failures),
                checkpoint=checkpoint.name,
                machines=dict.fromkeys(traits, len(pairs)),
                seconds=round(seconds, 3),
                **{k: v for k, v in results.manifest.items() if k == "statistics"},
                **({"initial_weights": initial} if initial else {}),
            )
        return len(pairs)

    def remark(self, results: Results, ids: Collection[str]) -> str:
        """Returns a remark if the network predicted background alone early in its training.

        The training itself has said so already if it was computed now, with ``ids``.
        """
        if (until := results.statistics.get("background_until")) is None or ids:
            return ""
        return (
            f"after {until} iterations the network predicted only background: check its masks"
            " in the report; if they are sound, raise segmenter.iterations"
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class Segmenting(PerImage):
    """A stage that segments images with the network of a training."""

    device: str
    vocabulary: Vocabulary
    test: TestSettings
    checkpoint = "last"  # or "best"

    @cached_property
    def machine(self) -> Sequence[str]:
        """The kind of the device that segments, and what a precision of "auto" is on it."""
        traits, precision = [f"device={device_kind(self.device)}"], self.test.precision
        if precision == AUTO:  # any other is in the key
            traits.append(f"precision={settle_precision(precision, self.device)}")
        return traits

    def loaded(self, folders: Mapping[str, Path]) -> Mapping[str, Path]:
        """Returns the checkpoint that segments; perhaps there is none yet."""
        from pipeline.segmenter.checkpoints import best_checkpoint, last_checkpoint

        find = best_checkpoint if self.checkpoint == "best" else last_checkpoint
        try:
            return {"segmenter": find(folders["segmenter"])}
        except UserError:  # of a reader that finds none
            return {}

    def load(self, folders: Mapping[str, Path]) -> "Segmenter":
        """Loads the network."""
        from pipeline.segmenter.predict import Segmenter

        given = self.device, self.checkpoint, self.test.precision
        return Segmenter.from_run(folders["segmenter"], *given)


@dataclass(frozen=True, kw_only=True, eq=False)
class Predictions(Segmenting):
    """The predictions of a segmenter for a split: palette PNGs of image size.

    The results of the steps before the last one are in hidden folders, see :func:`variant_path`.
    """

    name = "predictions"
    command = "predict"
    kind = PREDICTIONS
    algorithm = 3
    options: PredictionSettings

    @property
    def checkpoint(self) -> str:
        """The checkpoint that predicts."""
        return self.options.checkpoint

    def own_settings(self) -> dict[str, Any]:
        """Returns what predictions depend on besides the network's weights."""
        is_best = self.checkpoint == "best"
        chosen = {"chosen_by": self.uses["segmenter"].chosen_by} if is_best else {}
        return {**self.reader.key_facts, **self.options.prediction_facts, **chosen}

    def load(self, folders: Mapping[str, Path]) -> "Segmenter":
        """Loads the network, and notes if its file names another CRF."""
        segmenter = super().load(folders)
        if segmenter.crf != self.test.crf:
            tell(
                "note: segmenter.test.crf has changed since the network was trained; predict.py and"
                " exported files keep the value of the training"
            )
        return segmenter

    @property
    def variants(self) -> Sequence[str]:
        """The steps of testing before the last."""
        return self.test.steps[:-1]

    def compute(self, images: Decoded, model: Callable[[], Any]) -> Computed:
        """Segments images."""
        *before, last = self.test.steps
        for item, labels in segment_all(images, model(), self.test, self.reader.threads):
            if isinstance(labels, ImageError):
                yield item, labels
                continue
            encode = partial(encode_png, palette=self.vocabulary.palette)
            files = {f"{item.sample.id}.png": partial(encode, labels[last])}
            for step in before:
                files[variant_path(step, item.sample.id)] = partial(encode, labels[step])
            yield item, {self.name: Output(files)}


def variant_path(step: str, image_id: str) -> str:
    """Returns where the prediction of an earlier step lies below the stage's folder."""
    return f".{step}/{image_id}.png"
