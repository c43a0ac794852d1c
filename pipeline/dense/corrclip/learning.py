"""Stages that learn CorrCLIPv2's memory bank in one pass over unlabelled pictures."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, BinaryIO

import numpy as np
import torch
import torch.nn.functional as F

from pipeline.clip.frozen import Resources
from pipeline.clip.method_stage import MethodStage
from pipeline.configuration.settings import joined, key_facts
from pipeline.dense.corrclip import ROOT, CorrClipSettings
from pipeline.dense.picture import means_of_regions
from pipeline.dense.settings import SHARED
from pipeline.dense.windows import Windows, prepare, similarity_map, with_scaled_positions
from pipeline.engine.learned import Learned
from pipeline.engine.records import PHOTOGRAPH
from pipeline.engine.results import Results
from pipeline.engine.sample import ImageReader, Size
from pipeline.engine.stage import Computed, Decoded, Output
from pipeline.engine.store import Store, encode_arrays
from pipeline.errors import ImageError, UserError
from pipeline.files.text import full_name, given_path

_LONGEST_SIDE = 2048  # of a picture, in pixels, as CLIP sees it
_AFTER = {*SHARED, "correct", "bank"}


class RegionEncoder:
    """Describes the regions of pictures, by the second backbone and by CLIP."""

    def __init__(self, options: CorrClipSettings, resources: Resources):
        """Prepares the image tower; ``resources`` have the quirk ``position_scale``."""
        clip, bank, seconds = resources.clip, options.bank, resources.seconds
        is_scaled = resources.quirks.position_scale
        self._encoder = with_scaled_positions(clip.encoder) if is_scaled else clip.encoder
        self._batch_size, self._short_side = clip.batches.images, bank.short_side
        self._windows = Windows(bank.window, bank.stride, "pad")
        self._method = self._values = options.dense_method(seconds=seconds)
        if "bank.second" in seconds:
            other = {"second": seconds["bank.second"]}
            self._values = replace(options, whole_picture=False).dense_method(seconds=other)

    @torch.no_grad()
    def __call__(self, image: np.ndarray, size: Size, file: Path | None) -> dict[str, np.ndarray]:
        """Returns what is stored of a picture, h×w×3 uint8, RGB, of a full ``size``.

        These are "keys", R×C float16, the means of the second backbone's features of pixels, each
        of length 1; and "values", R×E float16, CLIP's mean, of length 1. Pixels in no region are
        left out. The ``file`` holds the regions; without one, they are superpixels.
        """
        encoder = self._encoder
        picture = self._method.read_picture(encoder, image, size, file, "")
        pixels = prepare(encoder, image, self._windows, (self._short_side, _LONGEST_SIDE))
        seen = picture.at(pixels.shape[-2:])
        given = pixels, None, self._windows, self._batch_size, seen
        features = similarity_map(self._values, encoder, *given)
        known, keys, _ = means_of_regions(picture.features, picture.regions, unit=True)
        _, values, _ = means_of_regions(features, picture.regions)
        found = {"keys": keys[known > 0], "values": F.normalize(values[known > 0], dim=-1)}
        return {name: each.half().cpu().numpy() for name, each in found.items()}


@dataclass(frozen=True, kw_only=True, eq=False)
class RegionVectors(MethodStage):
    """What is stored in the bank of the regions of every picture."""

    name = "region_vectors"
    command: str
    thresholds = ("folders",)  # since the contents of their files are inputs

    @property
    def region_key(self) -> str:
        """The setting that names the folder of regions: that of the images, by default."""
        return "cams.bank.regions" if self.options.bank.regions else "cams.regions"

    def own_settings(self) -> dict[str, Any]:
        """Returns what vectors depend on: of the settings, those before names are compared.

        Folders count by their full paths: those of equal last names are two banks.
        """
        found = {name: v for name, v in self.option_facts().items() if name not in _AFTER}
        bank = key_facts(self.options.bank, ("neighbours", "share", "own"))
        root = self.options.bank.root and given_path(self.options.bank.root, ROOT)
        more = {"bank": bank, "clip": self.resources.clip.key_facts()}
        folders = root, self.region_folder
        more["folders"] = [each and full_name(each) for each in folders]
        given = found, more, vars(self.resources.quirks), self.reader.key_facts
        return joined(self.options.method.key_facts, *given)

    def load(self, folders: Mapping[str, Path]) -> RegionEncoder:
        """Builds what describes regions."""
        return RegionEncoder(self.options, self.resources)

    def compute(self, images: Decoded, model: Callable[[], Any]) -> Computed:
        """Describes the regions of pictures."""
        for item, image in images:
            try:
                found = model()(image, item.size, item.regions)
            except ImageError as error:
                yield item, error
                continue
            count = len(found["keys"])
            files = {f"{item.sample.id}.npz": encode_arrays(**found)} if count else {}
            yield item, {self.name: Output(files, {"regions": count})}


@dataclass(frozen=True, kw_only=True, eq=False)
class LearnedBank(Learned):
    """The regions of all pictures, with what tells the picture of each."""

    name = "bank"
    command: str
    file = "bank.npz"
    refit_key = "cams.bank.refit"

    def own_settings(self) -> dict[str, Any]:
        """Returns nothing: the bank follows from the vectors, which have all settings."""
        return {}

    def learn(self, ids: Sequence[str], results: Results, file: BinaryIO) -> None:
        """Joins the regions of pictures, in the order of their ids; it needs the bank's size."""
        entries = [results.entries[image_id] for image_id in ids]
        entries = [entry for entry in entries if entry["regions"]]
        if not entries:
            raise UserError(f"no picture of split {self.split} has a region: give others")
        counts, arrays = [entry["regions"] for entry in entries], dict[str, np.ndarray]()
        for entry, end in zip(entries, np.cumsum(counts)):
            with np.load(results.path / f"{entry['id']}.npz", allow_pickle=False) as stored:
                for name, rows in stored.items():
                    if name not in arrays:
                        arrays[name] = np.empty((sum(counts), rows.shape[1]), rows.dtype)
                    arrays[name][end - len(rows) : end] = rows
        pictures = np.repeat(np.arange(len(entries), dtype=np.int32), counts)
        contents = np.array([entry["inputs"][PHOTOGRAPH] for entry in entries])
        np.savez(file, **arrays, pictures=pictures, contents=contents)


def learn_bank(
    *,
    options: CorrClipSettings,
    resources: Resources,
    reader: ImageReader,
    store: Store,
    refit: bool,
    **shared: Any,  # noqa: ANN401
) -> LearnedBank:
    """Returns the stage that learns from a split, with the one before it, which looks at pictures.

    Both are of a split of images, and have the command of the stage that the bank is learned for.
    """
    scaled = getattr(resources.quirks, "position_scale", False)  # of label maps alone
    vectors = RegionVectors(
        options=replace(options, regions=options.bank.regions or options.regions),
        resources=replace(resources, quirks=SimpleNamespace(position_scale=scaled)),
        reader=reader,
        **shared,
    )
    return LearnedBank(before={"region_vectors": vectors}, store=store, refit=refit, **shared)
