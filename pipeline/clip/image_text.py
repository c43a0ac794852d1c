"""Image-text models beside open_clip's, by the names that ``clip.model`` gives.

A model is a file of ``clip/models/`` or of a plug-in. It registers a :class:`Release`, which says
what is published. Nothing here imports PyTorch, which comes with the function that builds a model.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline.clip.dimensions import OPENAI_NORMALISATION, Dimensions, Normalisation
from pipeline.configuration.plugins import import_methods
from pipeline.configuration.registry import MODELS
from pipeline.datasets.vocabulary import Names
from pipeline.errors import UserError

if TYPE_CHECKING:
    import torch

    from pipeline.clip.image_tower import ImageTower


@dataclass(frozen=True, eq=False)
class ImageTextModel:
    """What is asked of an image-text model.

    Attributes:
        image: how pixels become the embeddings of patches.
        embed_names: from the names of C classes, and prompts with one ``{}``, to their embeddings:
            C×E float32 on the device, each of length 1.
    """

    image: ImageTower
    embed_names: Callable[[Names, Sequence[str]], torch.Tensor]


@dataclass(frozen=True, kw_only=True)
class Release:
    """A published image-text model.

    Attributes:
        name: the value of ``clip.model``.
        module: the module that registers it, ``__name__``.
        build: "module:function", which builds an :class:`ImageTextModel`, or the image tower of a
            second backbone, from the release, the file of each part and a device. Like ``about``,
            it raises a KeyError, a ValueError or a RuntimeError if weights are missing or do not
            fit.
        files: the addresses of each part; any one of several will do, and without one it is given.
        optional: the parts that a model may lack.
        dimensions: of the image tower.
        normalisation: of the pixels.
        about: "module:function", which reads dimensions and pretraining off the files, if these
            alone tell them.
        heads: of the image tower's attention.
        text_heads: of the text tower's.
        head_width: channels of each head of the image tower.
        registers: of the image tower; none for as many as the files hold.
        gated: whether the MLPs of the image tower are gated, SwiGLU.
        terms: the page on which to request its files, if they are not public.
        joins_patches: see :class:`~pipeline.clip.image_tower.ImageTower`.
        align_corners: how positions are stretched, where releases of a model differ in that.
        text_clip: what ``describe_architecture`` says of the CLIP whose text tower it takes.
        has_whole_image: whether it embeds whole images, and not patches alone.
        packages: what it requires besides; all are in the extra "backbones".
        what: what error messages say its files should hold, if it has no name.
        kind: of a second backbone: those of one kind can take each other's place.
    """

    name: str
    module: str
    build: str
    files: Mapping[str, Sequence[str]]
    optional: Sequence[str] = ()
    dimensions: Dimensions | None = None
    normalisation: Normalisation = OPENAI_NORMALISATION
    about: str = ""
    heads: int = 12
    text_heads: int = 12
    head_width: int = 64
    registers: int | None = None
    gated: bool = False
    terms: str = ""
    joins_patches: bool = False
    align_corners: bool = False
    text_clip: str = ""
    has_whole_image: bool = True
    packages: Sequence[str] = ()
    what: str = "such a model"
    kind: str = ""


def register_release(release: Release, models: MutableMapping[str, Release] = MODELS) -> None:
    """Makes a model a value of ``clip.model``, or of others; a UserError if its name is taken."""
    if models.setdefault(release.name, release) != release:
        raise UserError(f"there is a model {release.name} already: choose another name")


def releases() -> Mapping[str, Release]:
    """Returns all models by their names; those of the package are imported on the first call."""
    import_methods("pipeline.clip.models")
    return MODELS
