"""The stages ``train`` and ``predict``: a segmenter that learns from masks, and its predictions."""

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.clip.device import device_kind
from pipeline.datasets.vocabulary import Vocabulary
from pipeline.engine.folder import StageFolder
from pipeline.engine.kinds import NETWORK, PREDICTIONS
from pipeline.engine.lineage import LEARNED_FROM
from pipeline.engine.progress import say, track
from pipeline.engine.sample import ImageReader, Sample
from pipeline.engine.stage import Computed, Decoded, OfSplit, Output, PerImage, Stage
from pipeline.errors import ImageError, NoEntry, UserError, tell
from pipeline.files.archives import is_intact
from pipeline.files.atomic import canonical_json, read_json, write_atomically
from pipeline.files.fingerprints import fingerprint_file
from pipeline.files.images import encode_png
from pipeline.files.text import given_path
from pipeline.segmenter.data import TrainingData, TrainingPair, check_pairs, training_data_key
from pipeline.segmenter.distributed import explain_lost_process, join, process_rank
from pipeline.segmenter.settings import PredictionSettings, SegmenterSettings
from pipeline.segmenter.testing import segment_all

if TYPE_CHECKING:
    from pipeline.segmenter.predict import Segmenter

_BEST = "best_*.pth"


@dataclass(frozen=True, kw_only=True, eq=False)
class Training(OfSplit):
    """A segmenter that learns from masks; its folder is mmengine's work directory.

    Attributes:
        seed: of the initial weights, the order of images and their transforms.
        validation: returns images that the network is measured on while it trains.
    """

    name = "segmenter"
    command = "train"
    kind = NETWORK
    algorithm = 2
    decisive = ("name", "backbone", "config", "batch_size", "crop_size", "precision")
    is_below_split = False
    options: SegmenterSettings
    seed: int
    device: str
    vocabulary: Vocabulary
    decode: ImageReader
    data: TrainingData
    validation: Callable[[], Sequence[Sample]] = tuple

    @cached_property
    def pairs(self) -> list[TrainingPair]:
        """The images, each with its mask, which are read once."""
        return self.data.pairs()

    def samples(self) -> Sequence[Sample]:
        """Returns the images that it is trained on."""
        return self.data.samples()

    @property
    def note(self) -> str:
        """The file or folder that its masks are from, where no stage made them."""
        is_given = isinstance(self.data.facts.get("masks"), Mapping)
        return f"pseudo masks of {Path(self.options.masks).name}" if is_given else ""

    def absent(self) -> Mapping[str, NoEntry]:
        """Returns id → why it is left out, of the images that have no mask."""
        return self.data.absent()

    def broken(self) -> Mapping[str, str]:
        """Returns id → reason, of the images that cannot be trained on, or whose masks cannot."""
        if self.options.checkpoint == "best" and not self._is_measured:
            raise UserError(
                "segmenter.checkpoint=best requires segmenter.validation_interval=N and a split"
                " with masks that is not trained on: give both, or segmenter.checkpoint=last"
            )
        return check_pairs(self.pairs, len(self.vocabulary.classes), self.decode)

    def applies(self) -> bool:
        """Tells whether the data set has the masks."""
        return self.data.applies()

    def own_settings(self) -> dict[str, Any]:
        """Returns what the weights depend on: the images and masks, too."""
        from pipeline.segmenter.mmseg import fingerprint_config

        initial: dict[str, Any] = {"pretrained": None}
        if not self.options.starts_from_scratch:
            path = given_path(self.options.pretrained, "segmenter.pretrained")
            content = {"weights": fingerprint_file(path)} if path.is_file() else {}
            initial = {"pretrained": path.name, **content}
        return {
            **self.options.training_facts,
            "config_content": fingerprint_config(self.options.config),
            **initial,
            "seed": self.seed,
            **self.decode.facts,
            "classes": list(self.vocabulary.classes),
            "data": training_data_key(self.pairs),
            **self.data.facts,
        }

    @property
    def expected(self) -> Mapping[str, Any]:
        """The settings that decide how long a training takes."""
        return self.options.training_facts

    def estimate(self, measured: Mapping[str, Any], images: int) -> float | None:
        """Returns how many seconds a training takes, by the manifest of one like it."""
        if not (measured.get("seconds") and measured.get("checkpoint")):
            return None
        iterations = measured["configuration"]["iterations"]
        return measured["seconds"] * self.options.iterations / iterations

    def is_complete(self, folder: StageFolder) -> bool:
        """Tells whether the training came to its end, and its checkpoints are intact."""
        checkpoint = folder.manifest().get("checkpoint")
        found = checkpoint is not None and is_intact(folder.path / checkpoint)
        return found and not self._lacks_best(folder)

    def _lacks_best(self, folder: StageFolder) -> bool:
        """Tells whether the best checkpoint is asked for and missing, and can be made."""
        is_wanted = self.options.checkpoint == "best"
        return is_wanted and not any(map(is_intact, folder.path.glob(_BEST))) and self._is_measured

    @property
    def _is_measured(self) -> bool:
        return bool(self.options.validation_interval and self.validation())

    def refuse_missing(self, folder: StageFolder, reader: Stage) -> None:
        """Raises the UserError of a stage that needs the segmenter, where it is not trained."""
        if self.is_complete(folder):
            return
        checkpoint = folder.manifest().get("checkpoint")
        if checkpoint is not None:
            what = "best checkpoint" if is_intact(folder.path / checkpoint) else checkpoint
            raise UserError(
                f"{what} in {folder.path} is missing or damaged: run stage=train with the same"
                " settings, which makes it again"
            )
        wrong = "no segmenter was trained on these masks"
        if reader.round > self.round:
            wrong = f"round {reader.round} needs the segmenter of round {self.round}"
        raise UserError(f"{wrong}: run stage=train first")

    @explain_lost_process()
    def run(self, folder: StageFolder) -> int:
        """Trains a segmenter, from its last checkpoint on if there is one.

        Every process that torchrun started calls this; only the first one writes to the folder.
        Raises a UserError for masks that cannot be used, a loss that is not finite, or another
        process that ended.
        """
        from pipeline.segmenter import checkpoints, train  # mmsegmentation takes seconds to import

        join(self.device)  # until the first process holds the folder's lock
        writes = process_rank() == 0
        if self.is_complete(folder):
            if writes:
                folder.point_latest()
            return 0
        pairs = [pair for pair in self.pairs if pair.id not in folder.failures]
        began = time.monotonic()
        if writes:
            if "checkpoint" in folder.manifest() and self._lacks_best(folder):
                checkpoints.forget(folder.path)  # its training was not measured
            folder.begin(len(pairs))
            read, ids = self.data.learned_from(), {pair.id for pair in pairs}
            read = {image_id: content for image_id, content in read.items() if image_id in ids}
            write_atomically(folder.path / LEARNED_FROM, canonical_json(read))
        position = 0

        def report(iteration: int, total: int, loss: float) -> None:
            nonlocal position
            advance(iteration - position, note=f"loss {loss:.3f}")
            position = iteration

        def remark(iteration: int) -> None:
            kept = {k: v for k, v in folder.manifest().items() if k in ("computed", "seconds")}
            facts = {"images": len(pairs), "statistics": {"background_until": iteration}}
            folder.write_manifest(complete=False, **kept, **facts)
            tell(f"note: {self.remark(folder, ())}")

        bar = track(f"train {self.options.name}", self.options.iterations)
        with bar if writes else nullcontext() as advance:
            say("loading the network and the first batch")
            checkpoint = train.train(
                self.options,
                pairs,
                self.vocabulary.classes,
                self.vocabulary.palette,
                folder.path,
                self.seed,
                self.device,
                self.decode,
                validation=self.validation(),
                on_iteration=report,
                on_background=remark,
            )
        if self._lacks_best(folder):
            raise UserError(
                "there is no best checkpoint, because all pixels of the validation masks are"
                " ignored: correct them, or take segmenter.checkpoint=last"
            )
        if writes:
            initial = read_json(folder.path / train.INITIAL_WEIGHTS)
            precision = checkpoints.precision_of(self.options.precision, checkpoint)
            traits = f"device={device_kind(self.device)}", f"precision={precision}"
            seconds = folder.manifest().get("seconds", 0) + time.monotonic() - began
            folder.write_manifest(
                complete=True,
                images=len(pairs),
                left_out=len(folder.failures),
                checkpoint=checkpoint.name,
                machines=dict.fromkeys(traits, len(pairs)),
                seconds=round(seconds, 3),
                **{k: v for k, v in folder.manifest().items() if k == "statistics"},
                **({"initial_weights": initial} if initial else {}),
            )
        return len(pairs)

    def remark(self, folder: StageFolder, ids: Collection[str]) -> str:
        """Returns a remark if the network predicted background alone early in its training.

        The training itself has said so already if it was computed now, with ``ids``.
        """
        until = folder.statistics.get("background_until")
        if until is None or ids:
            return ""
        return (
            f"after {until} iterations the network predicted background alone: look at its masks"
            " in the report; if they are sound, raise segmenter.iterations or give"
            " segmenter.loss=balanced"
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class Segmenting(PerImage):
    """A stage that segments images with the network of a training."""

    device: str
    vocabulary: Vocabulary
    checkpoint = "last"  # or "best"

    @cached_property
    def machine(self) -> Sequence[str]:
        """The kind of the device that segments."""
        return [f"device={device_kind(self.device)}"]

    def loaded(self, inputs: Mapping[str, Path]) -> Sequence[Path]:
        """Returns the checkpoint that segments; perhaps there is none yet."""
        from pipeline.segmenter.checkpoints import best_checkpoint, last_checkpoint

        find = best_checkpoint if self.checkpoint == "best" else last_checkpoint
        try:
            return [find(inputs["segmenter"])]
        except UserError:  # of a reader that finds none
            return []

    def load(self, inputs: Mapping[str, Path]) -> "Segmenter":
        """Loads the network."""
        from pipeline.segmenter.predict import Segmenter

        return Segmenter.from_run(inputs["segmenter"], self.device, self.checkpoint)


@dataclass(frozen=True, kw_only=True, eq=False)
class Predictions(Segmenting):
    """The predictions of a segmenter for a split: palette PNGs of image size.

    The results of the steps before the last one are in hidden folders, see :func:`variant_path`.
    """

    name = "predictions"
    command = "predict"
    kind = PREDICTIONS
    algorithm = 3
    decisive = ("test", "segmenter.name")
    options: PredictionSettings

    @property
    def checkpoint(self) -> str:
        """The checkpoint that predicts."""
        return self.options.checkpoint

    def applies(self) -> bool:
        """Tells whether the network exists for the data set."""
        return self.uses["segmenter"].applies()

    def own_settings(self) -> dict[str, Any]:
        """Returns what predictions depend on besides the network."""
        return {**self.reader.facts, **self.options.prediction_facts}

    @property
    def variants(self) -> Sequence[str]:
        """The steps of testing before the last."""
        return self.options.test.steps[:-1]

    @property
    def expected(self) -> Mapping[str, Any]:
        """The settings that decide how long an image takes."""
        network = self.uses["segmenter"].expected
        return {**self.options.prediction_facts, "segmenter": network}

    def compute(self, images: Decoded, model: Callable[[], Any]) -> Computed:
        """Segments images."""
        test = self.options.test
        *before, last = test.steps
        for item, labels in segment_all(images, model(), test, self.reader.threads):
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
