"""Stages that learn PIAA's prototypes in one pass over unlabelled images.

For each class, the bank has the patches of all images whose zero-shot entropy is least. An image is
looked at once: those of its patches are stored that may be in the bank, as far as the process knows
that computes it. Whatever the bank of all images has is among them, whoever computed which image,
and a run that is killed loses no image that was finished.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, BinaryIO

import numpy as np
import torch

from pipeline.clip.device import to_host
from pipeline.clip.frozen import Resources
from pipeline.clip.method_stage import MethodStage
from pipeline.engine.learned import Learned
from pipeline.engine.records import BATCH
from pipeline.engine.results import Results
from pipeline.engine.sample import ImageReader, Images, Sample
from pipeline.engine.stage import Computed, Decoded, Folders, Item, Output
from pipeline.engine.store import Store, encode_arrays
from pipeline.errors import ImageError
from pipeline.files.fingerprints import fingerprint
from pipeline.tags.piaa import PiaaOptions, batch_of
from pipeline.tags.piaa.patches import PatchEncoder, build_patches
from pipeline.tags.piaa.prototypes import Prototypes, choose_bank, entropy, learn

# What follows the features and entropies. The size of the bank is an input of each image.
_AFTER = {"alpha", "z", "standardise", "bank_size", "rescoring_temperature", "patch_temperature"}
_AFTER |= {"local_factor", "global_factor", "global_share", "reidentify"}


class Candidates:
    """Chooses the patches of images that may be in the bank, by the least entropies that were seen.

    The class embeddings ``text`` are C×E; ``options.bank_size`` is K, see :class:`PiaaOptions`.
    """

    def __init__(self, options: PiaaOptions, encoder: PatchEncoder, text: torch.Tensor):
        self.options, self.encoder, self.text = options, encoder, text
        self._known: dict[int, np.ndarray] = {}

    def stream(
        self, images: Iterable[tuple[Any, np.ndarray]]
    ) -> Iterator[tuple[Any, dict[str, np.ndarray] | ImageError]]:
        """Yields a name and the arrays to store, or none, for each name and image; or why not."""
        for name, patches in self.encoder.stream(images):
            if isinstance(patches, ImageError):
                yield name, patches
                continue
            found = entropy(patches.features, self.text, self.options.temperature)
            entropies, classes = (to_host(each)[0] for each in found)
            chosen = self.choose(entropies, classes)
            arrays = {
                "features": to_host(patches.features)[0][chosen],
                "entropies": entropies[chosen],
                "classes": classes[chosen].astype(np.uint16),
            }
            yield name, arrays if len(chosen) else {}

    def choose(self, entropies: np.ndarray, classes: np.ndarray) -> np.ndarray:
        """Takes in an image's patches, and returns those that may be in the bank, ascending.

        ``entropies`` are H, N float32, and ``classes`` are ŷ, N integers.
        """
        size, chosen = self.options.bank_size, []
        for index in np.unique(classes):
            patches = np.flatnonzero(classes == index)
            known = np.concatenate([self._known.get(index, entropies[:0]), entropies[patches]])
            if len(known) > size:
                known = np.partition(known, size - 1)[:size]
            self._known[index] = known
            # Of equal ones, the bank takes those of the first image.
            chosen.append(patches[entropies[patches] <= known.max()])
        return np.sort(np.concatenate(chosen))


@dataclass(frozen=True, kw_only=True, eq=False)
class SurePatches(MethodStage):
    """The patches of every image that may be in the bank, with their features."""

    name = "patches"
    command = "tags"
    images: Images

    def option_facts(self) -> dict[str, Any]:
        """Returns the settings, but for those of what follows the features, and the split."""
        found = super().option_facts() | {"fit_split": self.split}
        return {name: value for name, value in found.items() if name not in _AFTER}

    def item(self, sample: Sample, folders: Folders) -> Item:
        """Returns an image, whose candidates depend on all other images and on the bank's size."""
        item = super().item(sample, folders)
        others = self.images.batches(self.split)[sample.id]
        batch = [item.inputs.get(BATCH), others, self.options.bank_size]
        return item.reading({BATCH: fingerprint(batch)})

    def load(self, folders: Mapping[str, Path]) -> Candidates:
        """Builds what chooses patches."""
        encoder, text = build_patches(self.options, self.resources)
        return Candidates(self.options, encoder, encoder.encoder.text_for_patches(text))

    def compute(self, images: Decoded, model: Callable[[], Any]) -> Computed:
        """Looks at images."""
        for item, found in model().stream(images):
            if isinstance(found, ImageError):
                yield item, found
                continue
            files = {f"{item.sample.id}.npz": encode_arrays(**found)} if found else {}
            yield item, {self.name: Output(files)}


@dataclass(frozen=True, kw_only=True, eq=False)
class LearnedPrototypes(Learned):
    """The bank, from which prototypes are estimated when it is loaded.

    Attributes:
        size: K, the number of its patches for a class, fewer where there are fewer. A bank that was
            learned with a larger one serves as well.
    """

    name = "prototypes"
    command = "tags"
    file = "bank.npz"
    size: int

    def own_settings(self) -> dict[str, Any]:
        """Returns nothing: the bank follows from the patches, which have all settings."""
        return {}

    def is_complete(self, results: Results) -> bool:
        """Tells whether there is a bank that is large enough and may serve the images."""
        if not super().is_complete(results):
            return False
        with np.load(results.path / self.file, allow_pickle=False) as bank:
            return int(bank["size"]) >= self.size

    def learn(self, ids: Sequence[str], results: Results, file: BinaryIO) -> None:
        """Chooses patches of all images; of equal ones, those of the first id."""
        paths = [
            results.path / f"{image_id}.npz"
            for image_id in ids
            if results.entries[image_id].get("files")
        ]
        entropies, classes = ([*_read(paths, name)] for name in ("entropies", "classes"))
        chosen = choose_bank(entropies, classes, self.size)
        # Features are read image by image, since those of all may not fit into memory.
        parts = {"features": _read(paths, "features"), "entropies": entropies, "classes": classes}
        arrays = {
            name: np.concatenate([rows[indices] for rows, indices in zip(images, chosen)])
            for name, images in parts.items()
        }
        np.savez(file, **arrays, size=np.array(self.size))


def _read(paths: Sequence[Path], name: str) -> Any:  # noqa: ANN401
    for path in paths:
        with np.load(path, allow_pickle=False) as stored:
            yield stored[name]


def read_prototypes(
    folder: Path, text: torch.Tensor, options: PiaaOptions, *, empty_class: bool, device: str
) -> Prototypes:
    """Estimates prototypes from the bank of :class:`LearnedPrototypes`, as float32 on a device.

    The class embeddings ``text`` are C×E, of length 1. Of a larger bank, ``bank_size`` is taken.
    For the quirk ``empty_class`` see :func:`pipeline.tags.piaa.prototypes.keep_surest`.

    Raises:
        UserError: too few patches are left.
    """
    with np.load(folder / LearnedPrototypes.file, allow_pickle=False) as bank:
        (rows,) = choose_bank([bank["entropies"]], [bank["classes"]], options.bank_size)
        features = torch.from_numpy(bank["features"][rows])
    temperatures = options.temperature, options.rescoring_temperature
    found = learn(features, text.cpu(), *temperatures, empty_class=empty_class)
    return Prototypes(found.weight.float().to(device), found.bias.float().to(device))


def learn_prototypes(
    *,
    options: PiaaOptions,
    resources: Resources,
    reader: ImageReader,
    store: Store,
    refit: bool,
    **shared: Any,  # noqa: ANN401
) -> LearnedPrototypes:
    """Returns the stage that learns from a split, with the one before it, which looks at images."""
    # Of the quirks, features depend on this one alone.
    quirks = SimpleNamespace(piaa_batch=resources.quirks.piaa_batch)
    patches = SurePatches(
        options=options,
        resources=replace(resources, quirks=quirks),
        reader=reader,
        dependent_batch=batch_of(options, resources.quirks),
        **shared,
    )
    learned = {"before": {"patches": patches}, "store": store, "refit": refit}
    return LearnedPrototypes(**learned, size=options.bank_size, **shared)
