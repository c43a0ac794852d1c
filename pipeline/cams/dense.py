"""CAMs of dense methods: where CLIP's patches are more like a tag than like anything else.

All methods are compared on an equal footing: the names, backgrounds and templates of CLIP-ES, one
softmax over the tags and the backgrounds, one normalisation, and the affinity if it is asked for.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from pipeline.cams.gradcam import normalise
from pipeline.cams.pass_method import PassCams
from pipeline.clip.encoder import BlockHook
from pipeline.clip.shared_pass import SharedPass
from pipeline.dense.method import DenseMethod, NameEmbeddings
from pipeline.engine.records import PHOTOGRAPH
from pipeline.engine.stage import Item


class DenseCams(PassCams):
    """Computes CAMs from the similarities of a dense method; the options are its settings too.

    Attributes:
        learned: the folder of what was learned for the method; none if nothing was.
    """

    learned: Path | None = None

    @cached_property
    def method(self) -> DenseMethod:
        """The dense method."""
        return self.options.dense_method(self.quirks, self.seconds, self.learned)

    def method_hooks(self) -> Sequence[BlockHook]:
        """Returns the hooks of the method."""
        return self.method.hooks(self.encoder)

    def with_picture(self, shared_pass: SharedPass, name: Any, image: np.ndarray) -> SharedPass:  # noqa: ANN401
        """Returns the pass of an image with what the method reads of it besides its pixels."""
        if self.options.shares_pass:
            return shared_pass
        file, size, content = None, image.shape[:2], ""
        if isinstance(name, Item):
            file, size, content = name.regions, name.size, name.inputs[PHOTOGRAPH]
        picture = self.method.read_picture(self.encoder, image, size, file, content)
        found = [picture.at(shared_pass.pixels.shape[-2:])] if picture else ()
        return replace(shared_pass, pictures=found)

    def activation_maps(
        self, shared_pass: SharedPass, text: torch.Tensor, num_tags: int
    ) -> torch.Tensor:
        """Returns the CAM of every tag before the affinity, K×N float32 in [0, 1].

        It is the tag's probability in a softmax over the tags and the backgrounds. To a method that
        reads them, the backgrounds are one thing. Similarities on another grid are averaged over
        CLIP's patches.
        """
        encoder, options = self.encoder, self.options
        index = torch.arange(1, len(text) + 1, device=text.device)
        labels = index.where(index <= num_tags, 0)
        names = NameEmbeddings(text, labels, options.temperature or encoder.temperature)
        similarities = self.method.similarities(encoder, shared_pass, names)
        found = similarities.mT.unflatten(-1, self.method.grid(shared_pass))
        if found.shape[-2:] != shared_pass.grid:
            found = F.adaptive_avg_pool2d(found, shared_pass.grid)
        for picture in shared_pass.pictures:
            found = self.method.with_support(found[0], names, picture)[None]
        similarities = found.flatten(2).mT[0]
        return normalise((names.temperature * similarities).softmax(-1)[:, :num_tags].mT)
