"""Stages that learn, without labels, from all images of a split."""

import time
from abc import abstractmethod
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import BinaryIO, ClassVar, NamedTuple

from pipeline.engine.records import LEARNED_FROM, PHOTOGRAPH, source_of
from pipeline.engine.results import Results
from pipeline.engine.sample import Images, Sample, content_of
from pipeline.engine.scan import available, key_unknown_until
from pipeline.engine.stage import OfSplit, PerImage, Stage
from pipeline.engine.store import Store
from pipeline.engine.writer import Writer
from pipeline.errors import ImageError, NeedsStage, UserError
from pipeline.files.atomic import canonical_json, read_json, replacing, write_atomically


class Change(NamedTuple):
    """How many images of a split something was learned from; how many differ since.

    They are compared by the content of their photographs, and of files that are read with these.
    """

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
    def learn(self, ids: Sequence[str], results: Results, file: BinaryIO) -> None:
        """Writes what is learned to the :attr:`file`, or raises a UserError.

        The ``ids`` of the images are sorted, so that nothing depends on the order of the list; the
        ``results`` are theirs.
        """

    @property
    def source(self) -> PerImage:
        """The stage whose results it is learned from."""
        (source,) = self.before.values()
        return source

    def check(self) -> None:
        """Refuses, before anything is computed, a split or a folder that does not exist."""
        self.images.of(self.split)

    def exists(self, results: Results) -> bool:
        """Tells whether it was learned, and is intact."""
        written = results.manifest.get("complete", False) and results.manifest.get("files", {})
        return bool(written) and written == self._files_in(results.path)

    def _files_in(self, folder: Path) -> dict[str, str]:
        """Returns the fingerprints of its files, of which unchanged ones are not read again."""
        return {name: content_of(folder / name) for name in (self.file, LEARNED_FROM)}

    def is_complete(self, results: Results) -> bool:
        """Tells whether it exists and may serve the images as they are.

        With ``refit`` it has to be learned from the results as they are.
        """
        if not self.exists(results):
            return False
        if self.refit:
            return self._record_in(results) == self._record(self.samples())
        change = self._change_since(results)
        return not (change.has_lost and change.is_mostly_new)

    def samples(self) -> Sequence[Sample]:
        """Returns the split's images with a result; a UserError if the stage before missed any.

        Of a split that has changed since it was learned, they are those that it was learned from.
        """
        results = self.results(self.store)
        if not self.refit and self.is_complete(results):
            known = {*self._learned_sources(results).values()}
            return [s for s in self.images.of(self.split) if self.sources[s.id] in known]
        return available(self.source, self.images, self.store)

    @cached_property
    def sources(self) -> dict[str, str]:
        """Image id → :func:`~pipeline.engine.records.source_of` what the stage before reads."""
        return {sample.id: self._source_of(sample) for sample in self.images.of(self.split)}

    def _source_of(self, sample: Sample) -> str:
        before = self.source.before.items()
        try:
            folders = {name: need.results(self.store) for name, need in before}
            return source_of(self.source.item(sample, folders).inputs)
        except (ImageError, OSError, ValueError):  # it cannot be learned from
            return source_of({PHOTOGRAPH: content_of(sample.image)})

    def _record(self, samples: Sequence[Sample]) -> dict[str, list[str]]:
        """Returns what :data:`~pipeline.engine.records.LEARNED_FROM` holds."""
        source = self.source.results(self.store)
        found = {image_id: [content, ""] for image_id, content in self.sources.items()}
        return found | {s.id: [self.sources[s.id], source.result_of(s.id)] for s in samples}

    def _record_in(self, results: Results) -> dict[str, list[str]]:
        return read_json(results.path / LEARNED_FROM, {str: [str]}) or {}

    def _learned_sources(self, results: Results) -> dict[str, str]:
        return {image_id: of_image[0] for image_id, of_image in self._record_in(results).items()}

    def _change_since(self, results: Results) -> Change:
        """Returns how the split has changed since; images outside the selection stay."""
        before, now = self._learned_sources(results), self.sources
        learned, present = {*before.values()}, {*now.values()}
        new = {image_id for image_id, content in now.items() if content not in learned}
        gone = {image_id for image_id, content in before.items() if content not in present}
        gone -= self.images.known_ids(self.split) - now.keys()
        return Change(len(now) - len(new), *map(len, (new - gone, new & gone, gone - new)))

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
        with replacing(writer.path / self.file) as file:
            self.learn(ids, self.source.results(self.store), file)
        write_atomically(writer.path / LEARNED_FROM, canonical_json(self._record(samples)))
        writer.write_manifest(
            complete=True,
            images=len(ids),
            left_out=len(self.images.of(self.split)) - len(ids),
            files=self._files_in(writer.path),
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
        return f"{self.name} learned from {what}, without labels{anew}"

    def outlook(self) -> str:
        """Says how the split has changed since it was learned, and what a run does then; or ""."""
        is_undecided = self.refit or key_unknown_until(self, {})
        if is_undecided or not self.exists(results := self.results(self.store)):
            return ""
        change = self._change_since(results)
        images = f"{change.known:,} of {len(self.sources):,} images of split {self.split}"
        learned = f"{self.name} learned from {images}"
        if change.has_lost and change.is_mostly_new:
            return f"{learned}, and from others: learning starts anew"
        if change.has_lost:
            counts = "added: {1:,}, changed: {2:,}, removed: {3:,}".format(*change)
            learned = f"{self.name} learned from split {self.split}, which has changed ({counts})"
        remedy = f"{self.refit_key.format(self.command)}=true learns anew"
        return f"{learned}: {remedy}" if change.has_lost or change.added else ""

    def refuse_missing(self, results: Results, reader: Stage) -> None:
        """Raises the UserError of a stage that uses it, where it was not learned."""
        if not self.exists(results):
            wrong = f"no {self.name} learned from split {self.split}"
            raise NeedsStage(f"{wrong}: run stage={self.command} first", self.command)

    def is_settled(self) -> bool:
        """Tells whether it serves as it is, so that no stage before it need run."""
        is_undecided = self.refit or key_unknown_until(self, {})
        return not is_undecided and self.is_complete(self.results(self.store))
