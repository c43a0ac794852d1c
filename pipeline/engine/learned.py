"""Stages that learn, without labels, from all images of a split."""

import time
from abc import abstractmethod
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, NamedTuple

from pipeline.engine.records import holds
from pipeline.engine.results import Results
from pipeline.engine.sample import Images, Sample, contents
from pipeline.engine.scan import available, key_unknown_until
from pipeline.engine.stage import OfSplit, PerImage, Stage
from pipeline.engine.store import Store
from pipeline.engine.writer import Writer
from pipeline.errors import NeedsStage, UserError
from pipeline.files.atomic import canonical_json, read_json, write_atomically
from pipeline.files.fingerprints import fingerprint

PHOTOGRAPHS = "photographs.json"
"""The record of a split as it was learned from: id → fingerprint of each image's content."""


class Change(NamedTuple):
    """How many images of a split something was learned from; how many differ since, by content."""

    known: int
    added: int
    changed: int
    removed: int

    @property
    def is_mostly_new(self) -> bool:
        """Whether it was learned from fewer than half of the images."""
        return self.known < self.added + self.changed

    @property
    def has_lost(self) -> bool:
        """Whether it was learned from content that the split no longer has."""
        return bool(self.changed or self.removed)


@dataclass(frozen=True, kw_only=True, eq=False)
class Learned(OfSplit):
    """Something that is learned from the results of one stage on all images of a split.

    Its key names settings and the split, but no image: it is learned once, and new photographs do
    not change it. It is learned anew, unasked, if the split was replaced (see :class:`Change`).
    Its file is one of the inputs of the results that it is used for, so that these are computed
    again after it was learned anew (see :meth:`PerImage.loaded`).

    Attributes:
        images: the images of the run.
        store: where the results are that it is learned from.
        refit: whether it is learned again when those results, or the images, have changed.
    """

    refit_key: ClassVar[str] = "{}.refit"  # of the command
    images: Images
    store: Store
    refit: bool = False

    @abstractmethod
    def learn(self, ids: Sequence[str], results: Results) -> bytes:
        """Returns what is learned, as the bytes of :attr:`file`, or raises a UserError.

        The ``ids`` of the images are sorted, so that nothing depends on the order of the list; the
        ``results`` are theirs.
        """

    @property
    def source(self) -> PerImage:
        """The stage whose results it is learned from."""
        (source,) = self.before.values()
        return source

    def exists(self, results: Results) -> bool:
        """Tells whether it was learned, and is intact."""
        manifest = results.manifest
        found = manifest.get("complete", False) and manifest.get("files", {})
        return bool(found) and PHOTOGRAPHS in found and holds(results.path, manifest)

    def is_complete(self, results: Results) -> bool:
        """Tells whether it exists and may serve the images as they are.

        With ``refit`` it has to be learned from the results as they are.
        """
        if not self.exists(results):
            return False
        if self.refit:
            return results.manifest.get("inputs") == self._inputs_of(self.samples())
        change = self._change_since(results)
        return not (change.has_lost and change.is_mostly_new)

    def samples(self) -> Sequence[Sample]:
        """Returns the split's images with a result; a UserError if the stage before missed any."""
        if not self.refit and self.is_complete(self.results(self.store)):
            return self.images.of(self.split)
        return available(self.source, self.images, self.store)

    @cached_property
    def photographs(self) -> dict[str, str]:
        """Id → fingerprint of each image's content."""
        return contents(self.images.of(self.split))

    def _change_since(self, results: Results) -> Change:
        """Returns how the split has changed since; images outside the selection stay."""
        before, now = read_json(results.path / PHOTOGRAPHS, {str: str}) or {}, self.photographs
        learned, present = {*before.values()}, {*now.values()}
        new = {image_id for image_id, content in now.items() if content not in learned}
        gone = {image_id for image_id, content in before.items() if content not in present}
        gone -= self.images.known_ids(self.split) - now.keys()
        return Change(len(now) - len(new), *map(len, (new - gone, new & gone, gone - new)))

    def _inputs_of(self, samples: Sequence[Sample]) -> str:
        source = self.source.results(self.store)
        return fingerprint(sorted([s.id, source.result_of(s.id)] for s in samples))

    def run(self, writer: Writer) -> int:
        """Learns; returns the number of images, 0 where nothing was to be done."""
        if self.is_complete(writer.results):
            writer.point_latest()
            return 0
        samples, began = self.samples(), time.monotonic()
        if not samples:
            raise UserError(f"split {self.split} has no image to learn {self.name} from")
        is_there = self.exists(writer.results)
        if not is_there:  # else what was learned before counts until then
            writer.begin(len(samples))
        ids = sorted(sample.id for sample in samples)
        learned = self.learn(ids, self.source.results(self.store))
        files = {self.file: learned, PHOTOGRAPHS: canonical_json(self.photographs).encode()}
        for name, data in files.items():
            write_atomically(writer.path / name, data)
        writer.write_manifest(
            complete=True,
            images=len(ids),
            left_out=len(self.images.of(self.split)) - len(ids),
            inputs=self._inputs_of(samples),
            files={name: fingerprint(data) for name, data in files.items()},
            anew=is_there and not self.refit,
            computed=len(ids),
            seconds=round(time.monotonic() - began, 3),
        )
        return len(ids)

    def remark(self, results: Results, ids: Collection[str]) -> str:
        """Says what it was learned from, if that happened now, else what :meth:`outlook` says."""
        if not ids:
            return self.outlook()
        anew = ", anew, since most of these are new" if results.manifest.get("anew") else ""
        what = f"{len(ids):,} images of split {self.split}"
        return f"{self.name} were learned from {what}, without labels{anew}"

    def outlook(self) -> str:
        """Says how the split has changed since it was learned, and what a run does then; or ""."""
        is_undecided = self.refit or key_unknown_until(self, {})
        if is_undecided or not self.exists(results := self.results(self.store)):
            return ""
        change = self._change_since(results)
        images = f"{change.known:,} of {len(self.photographs):,} images of split {self.split}"
        learned = f"{self.name} were learned from {images}"
        if change.has_lost and change.is_mostly_new:
            return f"{learned}, and from others: they are learned anew"
        if change.has_lost:
            counts = "added: {1:,}, changed: {2:,}, removed: {3:,}".format(*change)
            learned = f"split {self.split} has changed since {self.name} were learned ({counts})"
        remedy = f"{self.refit_key.format(self.command)}=true learns anew"
        return f"{learned}: {remedy}" if change.has_lost or change.is_mostly_new else ""

    def refuse_missing(self, results: Results, reader: Stage) -> None:
        """Raises the UserError of a stage that uses it, where it was not learned."""
        if not self.exists(results):
            wrong = f"no {self.name} were learned from split {self.split}"
            raise NeedsStage(f"{wrong}: run stage={self.command} first", self.command)

    def is_settled(self) -> bool:
        """Tells whether it serves as it is, so that no stage before it need run."""
        is_undecided = self.refit or key_unknown_until(self, {})
        return not is_undecided and self.is_complete(self.results(self.store))
