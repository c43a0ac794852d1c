"""CAMs of dense methods: where CLIP's patches are more like a tag than like anything else.

All methods are compared on an equal footing: the names, backgrounds and templates of CLIP-ES, one
softmax over the tags and the backgrounds, one normalisation, and the affinity if it is asked for.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

import pipeline.dense  # noqa: F401  which registers the methods
from pipeline.cams.gradcam import normalise
from pipeline.cams.pass_method import PassCamOptions, PassCams, text_of
from pipeline.clip.dimensions import Dimensions
from pipeline.clip.encoder import BlockHook
from pipeline.clip.frozen import Resources
from pipeline.clip.shared_pass import SharedPass
from pipeline.dense.method import DENSE_METHODS, DenseMethod, Names
from pipeline.engine.registry import register
from pipeline.engine.settings import setting


@dataclass
class DenseCamOptions(PassCamOptions):
    """What CAMs of every dense method have.

    Attributes:
        temperature: the factor of cosine similarities in the softmax; none takes CLIP's own.
        affinity: whether the class-aware attention-based affinity of CLIP-ES refines the CAMs.
    """

    temperature: float | None = setting(None, above=0)
    affinity: bool = False

    def validate_for(self, clip: Dimensions, prefix: str) -> None:
        """Refuses blocks that a CLIP does not have."""
        super().validate_for(clip, prefix)
        self.hooks(clip)


class DenseCams(PassCams):
    """Computes CAMs from the similarities of a dense method; the options are its settings too."""

    def own_hooks(self) -> Sequence[BlockHook]:
        """Returns the hooks of the method."""
        return self.options.hooks(self.encoder)

    def activation_maps(
        self, shared_pass: SharedPass, text: torch.Tensor, num_tags: int
    ) -> torch.Tensor:
        """Returns the CAM of every tag before the affinity, K×N float32 in [0, 1].

        It is the tag's probability in a softmax over the tags and the backgrounds. To a method that
        reads them, the backgrounds are one thing.
        """
        encoder, options = self.encoder, self.options
        index = torch.arange(1, len(text) + 1, device=text.device)
        labels = index.where(index <= num_tags, 0)
        names = Names(text, labels, options.temperature or encoder.temperature)
        similarities = options.similarities(encoder, shared_pass, names)[0]
        return normalise((names.temperature * similarities).softmax(-1)[:, :num_tags].mT)


def register_dense_cams(
    method: type[DenseMethod], module: str | None = None
) -> type[DenseCamOptions]:
    """Makes a dense method a choice of ``cams=``; returns the dataclass of its settings there.

    Args:
        method: the dense method.
        module: receives the dataclass as an attribute, where a worker's pickle finds it; the module
            of the method unless given.
    """
    module, name = module or method.__module__, f"{method.__name__}CamOptions"

    def build(options: Any, resources: Resources) -> DenseCams:  # noqa: ANN401
        clip, quirks = resources.clip, vars(resources.quirks)
        text = text_of(options, resources)
        return DenseCams(clip.encoder, *text, options, clip.batches, **quirks)

    build.__module__, build.__qualname__ = module, f"{name}.build"
    members = {"__doc__": method.__doc__, "__module__": module, "build": staticmethod(build)}
    options = dataclass(type(name, (method, DenseCamOptions), members))
    register(
        "cams",
        method.name,
        options,
        uses_clip=True,
        quirks=("open_border",),
        shares_pass=True,
        reads=("cam_names", "backgrounds"),
        source=method.source,
        section="Dense methods",
    )(build)
    setattr(sys.modules[module], name, options)
    return options


for _method in DENSE_METHODS.values():
    register_dense_cams(_method, __name__)
