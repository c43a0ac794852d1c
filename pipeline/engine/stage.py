"""What a stage is. The engine knows nothing else about tags, CAMs, masks or networks."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from pipeline.engine.folder import StageFolder, key_of
from pipeline.engine.kinds import INTERMEDIATE, Kind
from pipeline.engine.sample import Sample
from pipeline.engine.settings import joined
from pipeline.errors import ImageError
from pipeline.files.fingerprints import fingerprint, fingerprint_image


@dataclass(frozen=True)
class Item:
    """One image for a stage to process.

    Attributes:
        sample: the image.
        input: the fingerprint of the content that its result is made from.
        given: what the computation takes from earlier stages, such as the image's tags.
        together: the images that it is looked at together with, itself among them; see
            :class:`~pipeline.engine.together.Together`. Empty where it does not depend on others.
    """

    sample: Sample
    input: str
    given: Any = None
    together: tuple[Sample, ...] = ()

    def __getstate__(self) -> dict[str, Any]:
        # Workers need no ground truth, from which no result is made.
        sample = dataclasses.replace(self.sample, mask=None, labels=None)
        return {**self.__dict__, "sample": sample}


@dataclass(frozen=True)
class Output:
    """The result of one image for one folder.

    Attributes:
        files: name below the folder → bytes, or a function that encodes them.
        facts: further entries of the image's journal line.
        input: the fingerprint of its input, if it is not the item's.
    """

    files: Mapping[str, bytes | Callable[[], bytes]] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)
    input: str | None = None


Outputs = Sequence[Output | None]
"""One output for each of :attr:`Stage.outputs`; none where the folder has the result already."""

Computed = Iterator[tuple[Item, Outputs | ImageError]]
"""Items in any order, each with its outputs, or with the reason why it has none."""

Folders = Mapping[str, StageFolder]
"""Open folders by the names of their stages."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Stage(ABC):
    """One stage on one split, which is one folder.

    A stage can be pickled and sent to a worker, without its models and without ``needs``.

    Attributes:
        split: the split; "" for a stage that belongs to no split.
        needs: the stages whose results it reads, by name. Their settings are part of its own.
        round: the round of training that it belongs to.
        title: tells it from another stage of the same name, split and round.
        accompanies: the stage that it is compared with, if it is there for comparison alone.
            ``latest`` never points to it, and its folder is kept as long as that stage's.
    """

    split: str
    needs: Mapping[str, Stage] = field(default_factory=dict)
    round: int = 1
    title: str = ""
    accompanies: Stage | None = None

    name: ClassVar[str]
    """The name of its folder."""
    command: ClassVar[str]
    """The word for it in ``stage=``."""
    kind: ClassVar[Kind] = INTERMEDIATE
    """What its results are."""
    variants: ClassVar[Sequence[str]] = ()
    """The names of further results that it stores of each image."""
    algorithm: ClassVar[int] = 1
    """Raised when the same settings give another result than before, beyond rounding."""
    decisive: ClassVar[Collection[str]] = ()
    """The settings that decide how long an image takes."""
    in_processes: ClassVar[bool] = False
    """Whether processes of this machine compute it where no other workers are configured."""
    thresholds: ClassVar[Collection[str]] = ()
    """Settings that are applied to computed results, and cost no computation when they change."""
    note: ClassVar[str] = ""
    """What a table says of it beside a figure, if it is out of the ordinary."""

    @property
    def label(self) -> str:
        """Identifies the stage among those of a run."""
        return f"{self.split}/{self.name}, round {self.round}, {self.title}"

    @property
    def where(self) -> str:
        """The split and the title, as tables show them."""
        return f"{self.split} ({self.title})" if self.title else self.split

    @property
    def shown(self) -> str:
        """The word for it in tables and messages."""
        return self.name

    @property
    def is_first(self) -> bool:
        """Whether no stage runs on its images before, so that it reports files that are none."""
        return not self.needs

    @abstractmethod
    def own_settings(self) -> dict[str, Any]:
        """Returns all that changes a result, except the images and the stages before."""

    @cached_property
    def settings(self) -> dict[str, Any]:
        """All that changes a result, except the images: the stages before included."""
        before = {name: need.settings for name, need in self.needs.items()}
        return joined({"algorithm": self.algorithm}, self.own_settings(), before)

    @cached_property
    def key(self) -> str:
        """The name of its folder: a fingerprint of its settings."""
        return key_of(self.settings)

    @cached_property
    def recipe(self) -> str:
        """The fingerprint of how a result is computed from its input.

        Results of equal recipe and equal input are equal, whatever the stages before were.
        """
        own = {k: v for k, v in self.own_settings().items() if k not in self.thresholds}
        wholes = {n: need for n, need in self.needs.items() if isinstance(need, Whole)}
        whole = {n: need.settings for n, need in wholes.items() if not need.known_by_content}
        return fingerprint([self.name, self.algorithm, own, whole])

    def unknown_until(self) -> str:
        """Returns what has to happen before the key is known, such as "download"; or ""."""
        return ""

    @property
    def expected(self) -> Mapping[str, Any]:
        """The settings that are known before the key is, for an estimate of the time."""
        return {}

    def estimate(self, measured: Mapping[str, Any], images: int) -> float | None:
        """Returns how many seconds images take, by the manifest of a run like it; or none."""
        last = measured.get("last") or {}
        facts = last if last.get("computed") else measured
        # Results that came from another stage's pass took no time of their own.
        own = facts.get("computed", 0) - facts.get("shared", 0)
        return facts.get("seconds", 0) / own * images if own else None

    # Its folders

    @property
    def parts(self) -> Sequence[Stage]:
        """Stages without a turn of their own; they are complete when this one is."""
        return ()

    @property
    def serves(self) -> Sequence[Stage]:
        """Stages with a turn of their own whose results also come from this one's pass."""
        return ()

    @property
    def outputs(self) -> list[Stage]:
        """All stages that it computes results for, itself first."""
        return [self, *self.parts, *self.serves]

    # The work

    def check(self) -> None:
        """Refuses settings, and what they name, that cannot be used: by a UserError."""
        return

    def applies(self) -> bool:
        """Tells whether there is something to do, as far as the data set decides that."""
        return True

    def item(self, sample: Sample, folders: Folders) -> Item:
        """Returns an image with the fingerprint of what its result is made from.

        The ``folders`` are those of :attr:`needs` and of :attr:`outputs`.

        Raises:
            ImageError: the image cannot have a result.
        """
        return Item(sample, fingerprint_image(sample.image))

    def covers(self, entry: Mapping[str, Any]) -> bool:
        """Tells whether a journal entry holds everything that is asked for."""
        return True

    def prepare(self, item: Item, folders: Folders) -> Item:
        """Returns an item that has to be computed with what only the computation takes."""
        return item

    def adapt(self, entry: Mapping[str, Any]) -> dict[str, Any]:
        """Returns an entry of the same recipe and input with this stage's thresholds applied."""
        return dict(entry)

    def loaded(self, inputs: Mapping[str, Path]) -> Sequence[Path]:
        """Returns the files of a :class:`Whole` that :meth:`load` reads, as far as they exist."""
        return ()

    def load(self, inputs: Mapping[str, Path]) -> Any:  # noqa: ANN401
        """Loads the models in the process that computes; ``inputs`` are the folders of needs."""
        return None

    def compute(self, items: Sequence[Item], model: Callable[[], Any]) -> Computed:
        """Computes results, in batches as it likes; ``model`` loads on its first call.

        It is never called of a :class:`Whole` or of a part of another stage.
        """
        raise NotImplementedError(f"{type(self).__name__} computes no image")

    @property
    def shard_size(self) -> int:
        """The number of images that a worker is given at a time, unless it is configured."""
        return 4

    def summary(self, folder: StageFolder, done: Sequence[str]) -> Mapping[str, bytes]:
        """Returns files that sum up the results of the images ``done``."""
        return {}

    def remark(self, folder: StageFolder, ids: Collection[str]) -> str:
        """Returns what the user should know of the results of images as a whole, or ""."""
        return ""

    def __getstate__(self) -> dict[str, Any]:
        state = {each.name: getattr(self, each.name) for each in dataclasses.fields(self)}
        return {**state, "needs": {}, "accompanies": None}


@dataclass(frozen=True, kw_only=True, eq=False)
class Whole(Stage):
    """A stage with one result that is made from all images together, such as a trained network.

    What it will be is known only when the stages before it have finished. The settings of a
    training hold a fingerprint of the images; those of a
    :class:`~pipeline.engine.learned.Learned` do not.

    Attributes:
        of_split: the split of the images.
    """

    known_by_content: ClassVar[bool] = False
    """Whether its file says all that results depend on, whatever its settings were."""
    split: str = ""
    of_split: str

    @property
    def shown(self) -> str:
        """The word for it in tables and messages."""
        return self.command

    @property
    def where(self) -> str:
        """The split of the images and the title, as tables show them."""
        return f"{self.of_split} ({self.title})" if self.title else self.of_split

    @abstractmethod
    def samples(self) -> Sequence[Sample]:
        """Returns the images that the result is made from.

        Raises:
            UserError: a stage before it did not process all of them.
        """

    @abstractmethod
    def is_complete(self, folder: StageFolder) -> bool:
        """Tells whether the result exists."""

    @abstractmethod
    def run(self, folder: StageFolder) -> int:
        """Computes the result, resuming an interrupted run.

        Returns the number of images that it was computed from, 0 where it existed.
        """

    @abstractmethod
    def refuse_missing(self, folder: StageFolder, reader: Stage) -> None:
        """Raises the UserError of a stage that reads the result, where that does not exist."""
