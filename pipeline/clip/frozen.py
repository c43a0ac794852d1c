"""A frozen CLIP and how a run uses it; loaded on first use, once in a process, as PyTorch is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from itertools import chain
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.clip.compute.fused import choose_attention
from pipeline.clip.device import (
    AUTO,
    BY_HEAD,
    FUSED,
    Batches,
    choose_precision,
    device_kind,
    is_cpu,
    keep_freed_memory,
    settle_precision,
)
from pipeline.clip.dimensions import Dimensions
from pipeline.clip.origins.origin import (
    Checkpoint,
    Origin,
    find_origin,
    fingerprint_files,
    refuse_changed,
)
from pipeline.datasets.vocabulary import Names, Vocabulary
from pipeline.engine.progress import say
from pipeline.engine.store import Store
from pipeline.files.fingerprints import fingerprint

if TYPE_CHECKING:
    import torch

    from pipeline.clip.compute.kept import KeptFeatures
    from pipeline.clip.encoder import ClipEncoder
    from pipeline.clip.image_text import ImageTextModel
    from pipeline.clip.second import FrozenSecond


@dataclass(frozen=True)
class FrozenClip:
    """A CLIP whose weights never change; can be pickled, and loads nothing until it is used.

    Attributes:
        model: as in :class:`~pipeline.clip.settings.ClipSettings`, like the next two.
        device: torch's name of the device.
        precision: "fp32", "bf16", "fp16" or "auto", of the image tower.
        max_patches: larger images are shrunk to this number of patches.
        position_fp16: whether the interpolated position embedding is rounded to float16.
        batches: how much is computed together.
        root: the output directory, which keeps text embeddings; none keeps them nowhere.
        attention: "auto", "fused" or "by_head". The process that computes decides what "auto" is.
        kept: what was found in images and names, for further calls; none keeps nothing.
    """

    model: str | None
    pretrained: str | None
    checkpoint: Checkpoint
    device: str
    precision: str
    max_patches: int
    position_fp16: bool
    batches: Batches = field(compare=False)  # on which the loaded model does not depend
    root: Path | None = field(default=None, compare=False)
    attention: str = AUTO
    kept: KeptFeatures | None = None

    def __post_init__(self) -> None:
        if self.attention == FUSED:
            choose_attention(FUSED, self.device)  # which refuses it before anything is computed

    @cached_property
    def origin(self) -> Origin:
        """Where its files come from."""
        return find_origin(self.model, self.pretrained, self.checkpoint)

    @cached_property
    def fingerprint(self) -> str:
        """The fingerprint of its files, which are read once in a run; workers are given it."""
        return fingerprint_files(self.origin.files())

    @cached_property
    def dimensions(self) -> Dimensions | None:
        """Those of the image tower, see :class:`~pipeline.clip.origins.origin.Origin`."""
        return self.origin.dimensions

    def key_facts(self) -> dict[str, Any]:
        """Returns all that its features of an image and names depend on, for a cache key."""
        pretraining, source = self.origin.pretraining, self.origin.source
        return {
            **({"model_source": source} if source else {}),
            "mean": list(pretraining.normalisation.mean),
            "std": list(pretraining.normalisation.std),
            "quick_gelu": pretraining.quick_gelu,
            "model": self.model,
            "weights": self.fingerprint,
            "precision": self.precision,
            "most_patches": self.max_patches,
            "position_fp16": self.position_fp16,
        }

    @property
    def machine(self) -> list[str]:
        """The traits of this machine by which features differ from others, by rounding alone."""
        traits = [f"device={device_kind(self.device)}"]
        if is_cpu(self.device):
            traits.append(f"attention={FUSED if self.encoder.attend.kernel else BY_HEAD}")
        if self.precision == AUTO:  # any other is in the key
            traits.append(f"precision={settle_precision(self.precision, self.device)}")
        return traits

    @property
    def encoder(self) -> ClipEncoder:
        """The image tower."""
        return _encoder(self, self.fingerprint)

    def embed(self, names: Names, backgrounds: tuple[str, ...], templates: str) -> torch.Tensor:
        """Returns the text embeddings of classes, then of backgrounds: C×E on the device.

        ``templates`` is the name of a set, see :func:`pipeline.clip.text.prompts_of`.
        """
        from pipeline.clip.text import prompts_of

        every, weights = (*names, *zip(backgrounds)), self.fingerprint
        return self._embed(every, prompts_of(templates), weights, templates, *chain(*names))

    def embed_sentences(self, sentences: Sequence[str]) -> torch.Tensor:
        """Returns the text embeddings of sentences as they are, S×E on the device."""
        return self._embed(tuple(zip(sentences)), ("{}",), self.fingerprint)

    def _embed(self, every: Names, prompts: Sequence[str], *about: str) -> torch.Tensor:
        import torch

        from pipeline.clip.text import TEXT_ALGORITHM

        def embed(places: Sequence[int]) -> torch.Tensor:
            names = [every[place] for place in places]
            model = _model(replace(self, kept=None), self.fingerprint)
            return model.embed_names(names, prompts)

        if self.kept is not None:
            return self.kept.rows([(names, *prompts) for names in every], embed)

        def make() -> np.ndarray:
            return embed(range(len(every))).cpu().numpy()

        origin = self.origin
        tower = (self.fingerprint, self.model, origin.pretraining.quick_gelu, origin.source)
        key = fingerprint(TEXT_ALGORITHM, *tower, every, prompts)
        array = make() if self.root is None else Store(self.root).array(key, make, *about)
        # A copy in memory of torch's own: the last digits of products depend on how their factors
        # are aligned, and NumPy's are aligned in various ways.
        return torch.from_numpy(array).clone().to(self.device)


# The fingerprint of the files tells apart two states of them.


@lru_cache(maxsize=1)
def _model(clip: FrozenClip, weights: str) -> ImageTextModel:
    refuse_changed(clip.origin.files(), weights)
    if clip.root and is_cpu(clip.device):  # else the process is another's
        keep_freed_memory()
    say(f"loading {clip.model or 'CLIP'}")
    return clip.origin.load(clip.device)


@lru_cache(maxsize=1)
def _encoder(clip: FrozenClip, weights: str) -> ClipEncoder:
    from pipeline.clip.encoder import ClipEncoder

    return ClipEncoder(
        _model(replace(clip, kept=None), weights).image,
        position_fp16=clip.position_fp16,
        precision=choose_precision(clip.precision, clip.device),
        max_patches=clip.max_patches,
        kernel=choose_attention(clip.attention, clip.device),
        kept=clip.kept,
    )


@dataclass(frozen=True)
class Resources:
    """The resources that a method is built from, besides its settings.

    Attributes:
        vocabulary: the class names, and what CLIP reads for them.
        device: torch's name of the device.
        clip: the frozen CLIP; none unless the method declares ``uses_clip``.
        quirks: the quirks of the released code that the method declares, as attributes.
        seconds: the second backbones that its settings choose, by their names there.
    """

    vocabulary: Vocabulary
    device: str
    clip: FrozenClip | None
    quirks: SimpleNamespace
    seconds: Mapping[str, FrozenSecond] = field(default_factory=dict)

    @property
    def num_classes(self) -> int:
        """The number of classes."""
        return len(self.vocabulary.classes)
