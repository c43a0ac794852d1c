"""Results of the stages of a run, whose settings say more than their manifests do."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any

from pipeline.engine.records import PHOTOGRAPH, Inputs
from pipeline.engine.results import Results
from pipeline.engine.sample import Images, Sample
from pipeline.engine.stage import OfSplit, PerImage, Stage, item_of
from pipeline.engine.store import Store
from pipeline.errors import ImageError, UserError
from pipeline.files.fingerprints import fingerprint_cached


def learned_by(stage: PerImage, store: Store) -> Inputs:
    """Returns the files that a stage loads of what it uses, such as a checkpoint."""
    folders = {name: use.results(store).path for name, use in stage.uses.items()}
    return {name: fingerprint_cached(path) for name, path in stage.loaded(folders).items()}


class RunResults(Results):
    """The results of a stage of the run.

    Its settings also say what of other programs' files is an image's, such as its line in a list.
    """

    def __init__(
        self,
        stage: Stage,
        store: Store,
        images: Images,
        stages: dict[Stage, RunResults] | None = None,
    ):
        """Reads nothing yet; ``stages`` are results that others share, and receives these."""
        found = stage.results(store)
        super().__init__(found.path, found.own_key, found.split)
        self.stage, self._store, self._images = stage, store, images
        self._stages = {} if stages is None else stages
        self._stages[stage] = self

    @cached_property
    def needs(self) -> Mapping[str, Results]:
        """Those before it; the key and the own key tell of what it uses besides."""
        before = {} if isinstance(self.stage, OfSplit) else self.stage.before
        for need in before.values():
            if need not in self._stages:
                RunResults(need, self._store, self._images, self._stages)
        return {name: self._stages[need] for name, need in before.items()}

    @cached_property
    def _samples(self) -> Mapping[str, Sample]:
        return {sample.id: sample for sample in self._images.of(self.split)}

    @cached_property
    def _learned(self) -> Inputs:
        return learned_by(self.stage, self._store)

    def changed(self, entry: Mapping[str, Any]) -> list[str]:
        """Returns the names of what an entry was made from and that is another now."""
        if entry.get("own_key") != self.own_key:
            return ["settings"]
        was, now, names = entry["inputs"], {**self._learned}, {*self._learned}
        sample = self._samples.get(entry["id"])
        try:
            if sample and all(entry["id"] in need.entries for need in self.needs.values()):
                now = item_of(self.stage, sample, self.needs, self._learned).inputs
                names = now.keys() | was.keys()
            elif sample:  # of what was removed, nothing is known
                now[PHOTOGRAPH] = fingerprint_cached(sample.image)
                names.add(PHOTOGRAPH)
        except ImageError:  # such as a line that its list no longer has
            return ["entry"]
        except (UserError, OSError):  # such as a list that is gone
            return []
        return sorted(name for name in names if now.get(name) != was.get(name))
