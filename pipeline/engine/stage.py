"""The interface of stages; the engine does not depend on tags, CAMs, masks or networks.

A stage has a result for each image, or a single result that is made from all images of a split.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from operator import attrgetter
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from pipeline.configuration.settings import joined
from pipeline.engine.kinds import INTERMEDIATE, Kind
from pipeline.engine.records import PHOTOGRAPH, Inputs
from pipeline.engine.results import Results
from pipeline.engine.sample import ImageReader, Sample, Size
from pipeline.engine.store import Store
from pipeline.engine.writer import Writer
from pipeline.errors import ImageError
from pipeline.files.fingerprints import fingerprint, fingerprint_cached


@dataclass(frozen=True)
class Item:
    """One image for a stage to process.

    Attributes:
        sample: the image.
        inputs: what its result is made from.
        given: what the computation takes from earlier stages, such as the image's tags; or the
            result itself.
        is_manual: whether it is the result, since a person made it.
        computed_with: names the images that it is computed together with, if its result depends on
            them; else "".
        known_to_rider: the inputs of which the stage's rider has a result of the image already.
        size: height and width of the whole image in pixels, once it is decoded.
        regions: its file of regions, if the method reads one.
    """

    sample: Sample
    inputs: Inputs
    given: Any = None
    is_manual: bool = False
    computed_with: str = ""
    known_to_rider: Sequence[Inputs] = ()
    size: Size | None = None
    regions: Path | None = None

    def reading(self, inputs: Inputs, given: Any = None) -> Item:  # noqa: ANN401
        """Returns the item with more that its result is made from."""
        given = self.given if given is None else given
        return replace(self, inputs={**self.inputs, **inputs}, given=given)

    def __getstate__(self) -> dict[str, Any]:
        # Workers need no ground truth: what a result is made from is given.
        return {**self.__dict__, "sample": replace(self.sample, mask=None, labels=None)}


@dataclass(frozen=True)
class Output:
    """The result of one image for one folder.

    Attributes:
        files: name below the folder → bytes, or a function that encodes them.
        values: further values of the image's journal line.
        inputs: what it is made from, if that is not the item's.
    """

    files: Mapping[str, bytes | Callable[[], bytes]] = field(default_factory=dict)
    values: Mapping[str, Any] = field(default_factory=dict)
    inputs: Inputs | None = None


Decoded = Iterator[tuple[Item, np.ndarray]]
"""Images as they arrive, H×W×3 uint8, perhaps shrunk; none for a stage that reads no image."""

Outputs = Mapping[str, Output]
"""By the names of the stages that they belong to: the one that computes, and its rider."""

Computed = Iterator[tuple[Item, Outputs | ImageError]]
"""Items in any order, each with its outputs, or with the reason why it has none."""

_identity = attrgetter("name", "split", "round", "title")

Folders = Mapping[str, Results]
"""Results by the names that a stage gives to those before it, and by its own name."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Stage(ABC):
    """The base of all stages: a name, a key, and the stages that they read.

    Stages of equal name, split, round and title are equal. A stage can be pickled and sent to a
    worker, without its models and without the stages that it reads.

    Attributes:
        split: the split of its images.
        before: the stages whose results of these images it reads, by name.
        uses: the stages whose single result it uses, by name.
        round: the round of training that it belongs to.
        title: tells it from another stage of the same name, split and round.
    """

    split: str
    before: Mapping[str, PerImage] = field(default_factory=dict)
    uses: Mapping[str, OfSplit] = field(default_factory=dict)
    round: int = 1
    title: str = ""

    name: ClassVar[str]
    """The name of its folder, and the word for it in tables."""
    command: ClassVar[str]
    """The word for it in ``stage=``."""
    kind: ClassVar[Kind] = INTERMEDIATE
    """The kind of its results."""
    algorithm: ClassVar[int] = 1
    """Raised when the same settings give another result than before, beyond rounding."""
    is_stage: ClassVar[bool] = True
    """Whether a method that names the class is computed by a stage of its own."""
    is_ground_truth: ClassVar[bool] = False
    """Whether its results are the ground truth, which is not measured."""
    is_below_split: ClassVar[bool] = True
    """Whether its folder lies below that of its split."""

    def __init_subclass__(cls) -> None:
        if cls.kind.stage not in ("", getattr(cls, "name", cls.kind.stage)):
            raise TypeError(f"{cls.__name__} is not a stage {cls.kind.stage}, as its kind says")

    @property
    def needs(self) -> Mapping[str, Stage]:
        """All stages that it reads. Their settings are part of its own."""
        return {**self.before, **self.uses}

    @property
    def chain(self) -> list[Stage]:
        """The stage, and all those that its results are made from."""
        return [self, *(each for need in self.needs.values() for each in need.chain)]

    @property
    def place(self) -> str:
        """The folder in the output directory that its own lies below: that of the split, or ""."""
        return self.split if self.is_below_split else ""

    @property
    def where(self) -> str:
        """The split and the title, as tables show them."""
        return f"{self.split} ({self.title})" if self.title else self.split

    # Its key

    @abstractmethod
    def own_settings(self) -> dict[str, Any]:
        """Returns all that changes a result, except the images and the stages that it reads."""

    @cached_property
    def settings(self) -> dict[str, Any]:
        """All that changes a result, except the images: the stages that it reads included."""
        needs = {name: need.settings for name, need in self.needs.items()}
        return joined({"algorithm": self.algorithm}, self.own_settings(), needs)

    @cached_property
    def key(self) -> str:
        """The name of its folder: a fingerprint of its settings."""
        return fingerprint(self.settings)[:12]

    own_key: ClassVar[str] = ""

    def own_legend(self) -> Mapping[str, Mapping[str, Any]]:
        """Returns its part of the :attr:`legend`, without that of the stages that it reads."""
        return {}

    @property
    def legend(self) -> dict[str, Mapping[str, Any]]:
        """Fingerprint in its settings → file, number of images and date, which no key holds."""
        return {k: v for each in self.chain for k, v in each.own_legend().items()}

    @property
    def about(self) -> dict[str, Any]:
        """What the manifest says of it outside its key.

        That is the word for it in ``stage=``, the legend, and the folders that its results are made
        from: split, stage and key of each, by the names that it gives them.
        """
        needs = {name: (need.place, need.name, need.key) for name, need in self.needs.items()}
        legend = {"legend": found} if (found := self.legend) else {}
        return {"command": self.command, "made_from": needs, **legend}

    def results(self, store: Store) -> Results:
        """Returns the results in its folder, as they are now."""
        return Results(store.root / self.place / self.name / self.key, self.own_key, self.place)

    def writer(self, store: Store) -> Writer:
        """Returns what writes to its folder."""
        return Writer(self.results(store), {**self.about, "configuration": self.settings}, store)

    def unknown_until(self) -> str:
        """Returns what has to happen before the key is known, such as "download"; or ""."""
        return ""

    # What is said of it, before and after its turn

    def check(self) -> None:
        """Refuses settings, and what they name, that cannot be used: by a UserError."""
        return

    @property
    def note(self) -> str:
        """What tables say of its results besides the settings, or ""."""
        return ""

    def remark(self, results: Results, ids: Collection[str]) -> str:
        """Returns a remark on the results of all images, or ""."""
        return ""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Stage) and _identity(self) == _identity(other)

    def __hash__(self) -> int:
        return hash(_identity(self))

    def __getstate__(self) -> dict[str, Any]:
        state = {each.name: getattr(self, each.name) for each in dataclasses.fields(self)}
        return {**state, "before": {}, "uses": {}}


@dataclass(frozen=True, kw_only=True, eq=False)
class PerImage(Stage):
    """A stage with a result for each image of a split.

    Attributes:
        reader: reads the images.
        rider: a stage with a turn of its own whose results also come from this one's pass.
    """

    reader: ImageReader
    rider: PerImage | None = None

    reads_images: ClassVar[bool] = True
    """Whether it looks at images; else it is given items alone."""
    takes_any_image: ClassVar[bool] = False
    """Whether its model takes any image, not only those that a file or a list names."""

    @property
    def thresholds(self) -> Collection[str]:
        """Settings that are applied to computed results, and cost no computation to change."""
        return ()

    @property
    def variants(self) -> Sequence[str]:
        """The names of further results that it stores of each image."""
        return ()

    @cached_property
    def own_key(self) -> str:
        """The fingerprint of how a result is computed from its inputs.

        Results of equal own keys and equal inputs are equal, whatever the stages before were.
        """
        settings = {k: v for k, v in self.own_settings().items() if k not in self.thresholds}
        return fingerprint([self.name, self.algorithm, settings])

    def item(self, sample: Sample, folders: Folders) -> Item:
        """Returns an image with what its result is made from, such as its photograph.

        A stage that reads more adds it to what this returns, by :meth:`Item.reading`; results of
        the stages before it, whose ``folders`` are given, by their names. Raises an ImageError if
        the image cannot have a result.
        """
        return Item(sample, {PHOTOGRAPH: fingerprint_cached(sample.image)})

    manual_ids: ClassVar[Collection[str]] = ()
    """The images whose results a person made."""

    def manual(self, sample: Sample, folders: Folders) -> Item:
        """Returns one of these images with its result."""
        raise NotImplementedError

    def draw(self, item: Item) -> Outputs | ImageError:
        """Returns what is stored of a result that :meth:`manual` gives, or why nothing is."""
        raise NotImplementedError

    def adapt(self, entry: Mapping[str, Any]) -> Mapping[str, Any] | None:
        """Returns an entry of the same own key and inputs with this stage's thresholds applied.

        Returns none where the entry lacks something that is asked for.
        """
        return entry

    def loaded(self, folders: Mapping[str, Path]) -> Mapping[str, Path]:
        """Returns the files of :attr:`uses` that :meth:`load` reads, as far as they exist."""
        files = {name: folders[name] / use.file for name, use in self.uses.items()}
        return {name: path for name, path in files.items() if path.is_file()}

    def unusable(self, items: Sequence[Item]) -> Mapping[str, str]:
        """Returns id → reason, of the items that cannot have a result, by reading what is given."""
        return {}

    @property
    def batch_size(self) -> int | None:
        """Images that its model takes at a time.

        None where a model is bound to one core: processes of this machine then share the images.
        """
        return 1

    @cached_property
    def machine(self) -> Sequence[str]:
        """The traits of the machine that computes, such as "device=cpu", which are in no key."""
        return ()

    def load(self, folders: Mapping[str, Path]) -> Any:  # noqa: ANN401
        """Loads the model where it computes, such as a tagger; ``folders`` are those of needs."""
        return None

    @property
    def chosen(self) -> str:
        """The choice in the configuration that computes it, such as "tags=tagclip"."""
        return f"stage={self.command}"

    @abstractmethod
    def compute(self, images: Decoded, model: Callable[[], Any]) -> Computed:
        """Computes results, in batches as it likes; ``model`` loads on its first call."""

    def summary(self, results: Results, done: Sequence[Sample]) -> Mapping[str, bytes]:
        """Returns files that sum up the results of the images ``done``."""
        return {}

    def statistics(self, writer: Writer, done: Sequence[Sample]) -> Mapping[str, Any]:
        """Returns what the manifest says of the results of the images ``done``, for remarks."""
        return {}


def item_of(stage: PerImage, sample: Sample, folders: Folders, learned: Inputs) -> Item:
    """Returns what a run works on; ``learned`` are the files that the stage loads."""
    find = stage.manual if sample.id in stage.manual_ids else stage.item
    item = find(sample, folders)
    return item.reading(learned) if learned else item


@dataclass(frozen=True, kw_only=True, eq=False)
class OfSplit(Stage):
    """A stage with one result that is made from all images of a split, such as a trained network.

    What it will be is known only when the stages that it reads have finished. The settings of a
    training hold a fingerprint of the images; those of a
    :class:`~pipeline.engine.learned.Learned` do not.
    """

    file: ClassVar[str]
    """The name of the file that holds the result, for stages that use it."""

    @abstractmethod
    def samples(self) -> Sequence[Sample]:
        """Returns the images that it is made from; a UserError if a stage before it missed any."""

    def broken(self) -> Mapping[str, str]:
        """Returns id → reason, of the samples that it cannot be made from, by reading all."""
        return {}

    @abstractmethod
    def is_complete(self, results: Results) -> bool:
        """Tells whether the result exists, and need not be made anew."""

    @abstractmethod
    def run(self, writer: Writer) -> int:
        """Makes the result, or goes on with it; returns from how many images, 0 if it existed."""

    @abstractmethod
    def refuse_missing(self, results: Results, reader: Stage) -> None:
        """Raises the UserError of a stage that uses the result, where that does not exist."""
