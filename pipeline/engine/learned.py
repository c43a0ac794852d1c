"""What is learned, without labels, from all images of a split, and then serves every image."""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import ClassVar, TypeVar

from pipeline.engine.folder import StageFolder
from pipeline.engine.result_folder import holds
from pipeline.engine.review import Review
from pipeline.engine.sample import Images, Sample
from pipeline.engine.scan import available, key_unknown_until, open_folder
from pipeline.engine.stage import Stage, Whole
from pipeline.engine.store import Store
from pipeline.errors import UserError
from pipeline.files.atomic import write_atomically
from pipeline.files.fingerprints import fingerprint

Step = TypeVar("Step", bound=Stage | Review)


@dataclass(frozen=True, kw_only=True, eq=False)
class Learned(Whole):
    """Something that is learned from the results of one stage on all images of a split.

    Its key names settings and the split, but no image: it is learned once, and new photographs do
    not change it. Stages that use it hold the fingerprint of its file in their recipe (see
    :meth:`Stage.loaded`), so that their results are computed again after it was learned anew.

    Attributes:
        images: the images of the run.
        store: where the results are that it is learned from.
        refit: whether it is learned again when those results, or the images, have changed.
    """

    known_by_content = True
    file: ClassVar[str]
    """The name of the file that holds it."""
    images: Images
    store: Store
    refit: bool = False

    @property
    def shown(self) -> str:
        """The word for it in tables and messages."""
        return self.name

    @abstractmethod
    def learn(self, ids: Sequence[str], folder: StageFolder) -> bytes:
        """Returns what is learned, as the bytes of :attr:`file`.

        Args:
            ids: the images, sorted, so that nothing depends on the order of the list.
            folder: the results of these images.

        Raises:
            UserError: it cannot be learned from them.
        """

    @property
    def source(self) -> Stage:
        """The stage whose results it is learned from."""
        return next(need for need in self.needs.values() if not isinstance(need, Whole))

    def exists(self, folder: StageFolder) -> bool:
        """Tells whether it was learned, and is intact."""
        manifest = folder.manifest()
        found = manifest.get("complete", False) and manifest.get("files")
        return bool(found) and holds(folder.path, manifest)

    def is_complete(self, folder: StageFolder) -> bool:
        """Tells whether it exists and, with ``refit``, was learned from the results as they are."""
        if not self.exists(folder) or not self.refit:
            return self.exists(folder)
        return folder.manifest().get("input") == self._input(self.samples())

    def samples(self) -> Sequence[Sample]:
        """Returns the images of the split, those without a result left out.

        Raises:
            UserError: the stage before it did not process all of them.
        """
        if not self.refit and self.exists(open_folder(self, self.store)):
            return self.images.of(self.of_split)
        return available(self.source, self.images, self.store)

    def _input(self, samples: Sequence[Sample]) -> str:
        source = open_folder(self.source, self.store)
        return fingerprint(sorted([s.id, source.output_key(s.id)] for s in samples))

    def run(self, folder: StageFolder) -> int:
        """Learns; returns the number of images, 0 where nothing was to be done."""
        if self.is_complete(folder):
            folder.point_latest()
            return 0
        samples, began = self.samples(), time.monotonic()
        if not samples:
            raise UserError(f"split {self.of_split} has no image to learn {self.name} from")
        if not self.exists(folder):  # else what was learned before counts until then
            folder.begin(len(samples))
        ids = sorted(sample.id for sample in samples)
        data = self.learn(ids, open_folder(self.source, self.store))
        write_atomically(folder.path / self.file, data)
        folder.write_manifest(
            complete=True,
            images=len(ids),
            left_out=len(self.images.of(self.of_split)) - len(ids),
            input=self._input(samples),
            files={self.file: fingerprint(data)},
            computed=len(ids),
            seconds=round(time.monotonic() - began, 3),
        )
        return len(ids)

    def remark(self, folder: StageFolder, ids: Collection[str]) -> str:
        """Says what it was learned from: of new ``ids``, or if the split has changed since."""
        manifest, split = folder.manifest(), self.of_split
        count = manifest.get("images", 0)
        learned = f"{self.name} were learned from {count} images of split {split}"
        now = len(self.images.of(split))
        if not ids and now != count + manifest.get("left_out", 0):
            refit = f"{self.command}.refit=true"
            return f"{learned}, which has {now} now: {refit} learns from these"
        return f"{learned}, without labels" if ids else ""

    def refuse_missing(self, folder: StageFolder, reader: Stage) -> None:
        """Raises the UserError of a stage that uses it, where it was not learned."""
        if not self.exists(folder):
            raise UserError(
                f"no {self.name} were learned from split {self.of_split}: run"
                f" stage={self.command} first"
            )


def with_needs(steps: Sequence[Step], store: Store) -> list[Step | Stage]:
    """Returns steps, each after those stages of its own command that it needs.

    What is only needed to learn something that was learned already is not among them.
    """
    found: dict[str, Step | Stage] = {}

    def visit(stage: Stage) -> None:
        if stage.label in found:
            return
        if not (isinstance(stage, Learned) and _is_settled(stage, store)):
            for need in stage.needs.values():
                if need.command == stage.command:
                    visit(need)
        found[stage.label] = stage

    for number, step in enumerate(steps):
        if isinstance(step, Stage):
            visit(step)
        else:
            found[f"review {number}"] = step
    return [*found.values()]


def _is_settled(stage: Learned, store: Store) -> bool:
    if stage.refit or key_unknown_until(stage, {}):
        return False
    return stage.exists(open_folder(stage, store))
