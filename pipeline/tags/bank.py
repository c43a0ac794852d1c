"""From unlabelled images to prototypes: the stages that PIAA learns in.

Two stages look at images. The first stores the entropy and the class of every patch. Among the
patches of all images the bank has those of least entropy for each class, and the second stage
stores their features. So nothing is lost with a run that is killed, and it makes no difference who
computes which image.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipeline.clip.method_stage import MethodStage
from pipeline.engine.folder import StageFolder
from pipeline.engine.learned import Learned
from pipeline.engine.reading import Name
from pipeline.engine.sample import Sample
from pipeline.engine.stage import Computed, Folders, Item, Output
from pipeline.engine.together import Together
from pipeline.errors import ImageError
from pipeline.files.arrays import encode_arrays
from pipeline.files.atomic import canonical_json
from pipeline.files.fingerprints import fingerprint, join_keys
from pipeline.tags.prototypes import Prototypes, choose_bank, entropy, learn
from pipeline.tags.settings import batch_of

_OF_PATCHES = ("encoder", "templates", "with_backgrounds", "crop", "temperature")
"""The settings that the entropies and the features of patches depend on."""


@dataclass(frozen=True, kw_only=True, eq=False)
class _PatchStage(MethodStage):
    """A stage that looks at the patches of images.

    Attributes:
        build: builds, from the settings and the resources of the method, what yields a name and
            :class:`~pipeline.tags.piaa.Patches` for each name and image, and the class embeddings.
    """

    command = "tags"
    decisive = ("method", "clip", "encoder", "crop")
    build: Callable[..., tuple[Any, torch.Tensor]]

    def option_facts(self) -> dict[str, Any]:
        """Returns the settings that features depend on, and the split."""
        options = super().option_facts()
        return {"fit_split": self.split, **{name: options[name] for name in _OF_PATCHES}}

    def load(self, inputs: dict[str, Path]) -> tuple[Any, torch.Tensor]:
        """Builds what gives features, and what they are compared with."""
        return self.build(self.options, self.resources)

    def _seen(
        self, items: Sequence[Item], model: Callable[[], Any]
    ) -> Iterator[tuple[Item, torch.Tensor | ImageError]]:
        """Yields images with the features of their patches, N×E, or why there are none."""

        def see(images: Iterator[tuple[Name, np.ndarray]]) -> Iterator[tuple[Name, Any]]:
            return model()[0].stream(images)

        for item, result in self.reading.through(items, see, self.chosen):
            yield item, result if isinstance(result, ImageError) else result[0].features


@dataclass(frozen=True, kw_only=True, eq=False)
class PatchEntropies(_PatchStage):
    """The entropy and the zero-shot class of every patch of every image."""

    name = "patches"

    def compute(self, items: Sequence[Item], model: Callable[[], Any]) -> Computed:
        """Classifies patches."""
        for item, features in self._seen(items, model):
            if isinstance(features, ImageError):
                yield item, features
                continue
            unsure, classes = entropy(features, model()[1], self.options.temperature)
            arrays = {"entropies": unsure, "classes": classes}
            stored = {k: a.cpu().numpy().astype(_TYPES[k]).tobytes() for k, a in arrays.items()}
            facts = {k: base64.b64encode(data).decode() for k, data in stored.items()}
            yield item, [Output(facts=facts)]


_TYPES = {"entropies": "<f4", "classes": "<u2"}


def _read(entry: dict[str, Any], name: str) -> np.ndarray:
    return np.frombuffer(base64.b64decode(entry[name]), _TYPES[name])


@dataclass(frozen=True, kw_only=True, eq=False)
class Bank(Learned):
    """Which patches of which images have the least entropy, ``bank_size`` for each class."""

    name = "bank"
    command = "tags"
    file = "bank.json"
    size: int

    def own_settings(self) -> dict[str, Any]:
        """Returns what the choice depends on besides the entropies."""
        return {"bank_size": self.size}

    def learn(self, ids: Sequence[str], folder: StageFolder) -> bytes:
        """Chooses patches of all images; of equal ones, those of the first id."""
        entries = [folder.entries[image_id] for image_id in ids]
        chosen = choose_bank(*([_read(e, name) for e in entries] for name in _TYPES), self.size)
        return canonical_json({i: c.tolist() for i, c in zip(ids, chosen) if len(c)}).encode()

    def remark(self, folder: StageFolder, ids: Sequence[str]) -> str:
        """Says nothing: the prototypes do."""
        return ""


def patches_of(folder: StageFolder, image_id: str) -> list[int]:
    """Returns an image's patches in a bank, ascending; perhaps none."""
    path = folder.path / Bank.file
    return _chosen(path, path.stat().st_mtime_ns).get(image_id, [])


@lru_cache(maxsize=1)
def _chosen(path: Path, changed: int) -> dict[str, list[int]]:
    return json.loads(path.read_bytes())


@dataclass(frozen=True, kw_only=True, eq=False)
class BankFeatures(_PatchStage):
    """The features of the patches in the bank; of other images nothing is computed or stored."""

    name = "features"

    def item(self, sample: Sample, folders: Folders) -> Item:
        """Returns an image with its patches in the bank."""
        chosen = patches_of(folders["bank"], sample.id)
        item = super().item(sample, folders)
        return replace(item, input=join_keys(item.input, fingerprint(chosen)), given=chosen)

    def compute(self, items: Sequence[Item], model: Callable[[], Any]) -> Computed:
        """Looks at images once more."""
        yield from ((item, [Output()]) for item in items if not item.given)
        for item, features in self._seen([item for item in items if item.given], model):
            if isinstance(features, ImageError):
                yield item, features
                continue
            chosen = encode_arrays(features=features[item.given].cpu().numpy())
            yield item, [Output({f"{item.sample.id}.npz": chosen})]


@dataclass(frozen=True, kw_only=True, eq=False)
class LearnedPrototypes(Learned):
    """The prototypes of the classes."""

    name = "prototypes"
    command = "tags"
    file = "prototypes.npz"
    options: Any
    resources: Any
    build: Callable[..., tuple[Any, torch.Tensor]]

    def own_settings(self) -> dict[str, Any]:
        """Returns what the prototypes depend on besides the features."""
        temperature = self.options.rescoring_temperature
        quirk = {"empty_class": self.resources.quirks.empty_class}
        return {"rescoring_temperature": temperature, **quirk}

    def learn(self, ids: Sequence[str], folder: StageFolder) -> bytes:
        """Estimates the prototypes twice; see :func:`pipeline.tags.prototypes.learn`."""
        features = []
        for image_id in ids:
            if folder.entries[image_id].get("files"):
                with np.load(folder.path / f"{image_id}.npz", allow_pickle=False) as stored:
                    features.append(torch.from_numpy(stored["features"]))
        _, text = self.build(self.options, self.resources)
        found = learn(
            torch.cat(features),
            text.cpu(),
            self.options.temperature,
            self.options.rescoring_temperature,
            empty_class=self.resources.quirks.empty_class,
        )
        arrays = {"weight": found.weight, "bias": found.bias}
        return encode_arrays(**{name: each.float().numpy() for name, each in arrays.items()})


def read_prototypes(folder: Path, device: str) -> Prototypes:
    """Reads what :class:`LearnedPrototypes` wrote, as float32 on a device."""
    with np.load(folder / LearnedPrototypes.file, allow_pickle=False) as stored:
        return Prototypes(*(torch.from_numpy(stored[k]).to(device) for k in ("weight", "bias")))


def learn_prototypes(
    build: Callable[..., tuple[Any, torch.Tensor]],
    *,
    split: str,
    of_split: str,
    refit: bool,
    method: Any,  # noqa: ANN401
    options: Any,  # noqa: ANN401
    resources: Any,  # noqa: ANN401
    reading: Any,  # noqa: ANN401
    **place: Any,
) -> LearnedPrototypes:
    """Returns the stage that learns the prototypes from a split, which needs all others here."""
    size = batch_of(options, resources.quirks)
    own = {"method": method, "options": options, "resources": resources, "reading": reading}
    own["together"] = Together(place["images"], split, size) if size else None
    whole = {"split": split, "of_split": of_split, **place}
    patches = PatchEntropies(split=split, build=build, **own)
    # The bank is asked for only while there are no prototypes, or with refit.
    bank = Bank(needs={"patches": patches}, size=options.bank_size, refit=True, **whole)
    features = BankFeatures(split=split, needs={"bank": bank}, build=build, **own)
    learned = {"options": options, "resources": resources, "build": build, "refit": refit}
    return LearnedPrototypes(needs={"features": features}, **learned, **whole)
