"""The interface of dense methods, which embed every patch of an image in CLIP's space.

The methods are training-free and differ from CLIP in the last blocks of the image tower alone.
CAMs, tags and label maps are read out of their similarities with names.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType, SimpleNamespace
from typing import TYPE_CHECKING, ClassVar, NamedTuple, TypeAlias

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    import torch

    from pipeline.clip.encoder import BlockHook, ClipEncoder
    from pipeline.clip.second import FrozenSecond
    from pipeline.clip.shared_pass import SharedPass
    from pipeline.dense.picture import Picture
    from pipeline.dense.settings import DenseSettings
    from pipeline.engine.sample import Size


class NameEmbeddings(NamedTuple):
    """The embeddings of names, with which patches are compared.

    Attributes:
        text: C×E embeddings, each of length 1.
        labels: C int64; names of one label are one thing. 0 is the background, if there is one.
        temperature: the factor of the cosine similarities in a softmax over the names.
    """

    text: torch.Tensor
    labels: torch.Tensor
    temperature: float


Passes: TypeAlias = "Iterable[tuple[Sequence[tuple[int, int]], SharedPass]]"
"""The top and left pixel of some windows, and the pass over them."""


class Windowed(NamedTuple):
    """The windows of an image, H×W×3 uint8, RGB, cut out of it at a height and a width."""

    passes: Passes
    size: tuple[int, int]
    image: np.ndarray


class DenseMethod(ABC):
    """Embeds patches by CLIP's own weights; subclasses are registered in the group "dense".

    Attributes:
        options: its settings.
        quirks: those that it declares, as attributes.
        seconds: the second backbones that its settings choose, by their names there.
        learned: the folder of what was learned for it; none if nothing was.
        passes: passes of the backbone over an image.
        joins_windows: whether it joins the windows of an image in its own way.
        takes_best_name_first: whether the best name of a class is taken on the map of windows, and
            not on that of the image's size.
        gives_probabilities: whether joined windows give probabilities of names, not similarities.
    """

    passes: ClassVar[int] = 1
    joins_windows: ClassVar[bool] = False
    takes_best_name_first: ClassVar[bool] = False
    gives_probabilities: ClassVar[bool] = False
    seconds: Mapping[str, FrozenSecond] = MappingProxyType({})
    learned: Path | None = None

    def __init__(self, options: DenseSettings, quirks: SimpleNamespace | None = None):
        self.options, self.quirks = options, quirks or SimpleNamespace()

    def hooks(self, encoder: ClipEncoder) -> Sequence[BlockHook]:
        """Returns the hooks that the method requires, new for each pass."""
        return ()

    @abstractmethod
    def patch_features(self, encoder: ClipEncoder, shared_pass: SharedPass) -> torch.Tensor:
        """Returns the embeddings of patches of :meth:`grid`, B×N×E float32, of any length.

        The shared pass is over B images, with the results of :meth:`hooks`.
        """

    def features_for(
        self, encoder: ClipEncoder, shared_pass: SharedPass, names: NameEmbeddings
    ) -> torch.Tensor:
        """Returns :meth:`patch_features`, or those that depend on what they are compared with."""
        return self.patch_features(encoder, shared_pass)

    def similarities(
        self, encoder: ClipEncoder, shared_pass: SharedPass, names: NameEmbeddings
    ) -> torch.Tensor:
        """Returns the cosine similarities of patches and names, B×N×C float32."""
        from torch.nn.functional import normalize

        return normalize(self.features_for(encoder, shared_pass, names), dim=-1) @ names.text.mT

    def grid(self, shared_pass: SharedPass) -> tuple[int, int]:
        """Returns the grid of the patches that are embedded, which may be finer than CLIP's."""
        return shared_pass.grid

    def multiple(self, patch_size: int) -> int:
        """Returns of how many pixels the sides of a window are multiples, where zeros complete it.

        The ``patch_size`` is CLIP's.
        """
        return patch_size

    def read_picture(
        self, encoder: ClipEncoder, image: np.ndarray, size: Size, file: Path | None, content: str
    ) -> Picture | None:
        """Returns what the method reads of an image besides its pixels; none if that is nothing.

        The image is H×W×3 uint8, RGB, perhaps shrunk from its full ``size``; the ``file`` is of its
        regions, which the method makes without one; the ``content`` is the image's fingerprint.
        """
        return None

    def with_support(
        self, similarities: torch.Tensor, names: NameEmbeddings, picture: Picture
    ) -> torch.Tensor:
        """Returns similarities, C×h×w float32, with what other pictures say of this one."""
        return similarities

    def relabel(self, labels: torch.Tensor, regions: torch.Tensor) -> torch.Tensor:
        """Returns the labels of an image, H×W uint8, corrected by its regions, H×W int64."""
        return labels

    def fit(self, pixels: torch.Tensor, patch_size: int, window: int, stride: int) -> torch.Tensor:
        """Returns pixels, 3×H×W, in the size at which windows (of 0: the whole) are cut out."""
        return pixels

    def after_enlarging(self, similarities: torch.Tensor) -> torch.Tensor:
        """Returns the enlarged similarities of one name, H×W float32, before labels are taken."""
        return similarities

    def similarities_of_windows(
        self, encoder: ClipEncoder, windowed: Windowed, names: NameEmbeddings
    ) -> torch.Tensor:
        """Returns the similarities of the places of an image and C names, C×h×w float32."""
        raise NotImplementedError

    def run_pass(self, encoder: ClipEncoder, pixels: torch.Tensor) -> SharedPass:
        """Runs a pass over pixels, B×3×H×W float32, normalised, with the method's hooks."""
        from pipeline.clip.shared_pass import SharedPass

        return SharedPass.over(encoder, pixels, cam_hooks=self.hooks(encoder))
