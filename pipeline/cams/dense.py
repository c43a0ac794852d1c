"""CAMs of dense methods: where CLIP's patches are more like a tag than like anything else.

All methods are compared on an equal footing: the names, backgrounds and templates of CLIP-ES, one
softmax over the tags and the backgrounds, one normalisation, and the affinity if it is asked for.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F

from pipeline.cams.gradcam import normalise
from pipeline.cams.pass_method import PassCams
from pipeline.clip.encoder import BlockHook
from pipeline.clip.shared_pass import SharedPass
from pipeline.datasets.regions import read_region_map
from pipeline.dense.method import DenseMethod, NameEmbeddings
from pipeline.dense.windows import resize_nearest


class DenseCams(PassCams):
    """Computes CAMs from the similarities of a dense method; the options are its settings too."""

    @cached_property
    def method(self) -> DenseMethod:
        """The dense method."""
        return self.options.dense_method(self.quirks, self.seconds)

    def method_hooks(self) -> Sequence[BlockHook]:
        """Returns the hooks of the method."""
        return self.method.hooks(self.encoder)

    def with_files(self, shared_pass: SharedPass, name: Any) -> SharedPass:  # noqa: ANN401
        """Returns the pass of an image with the regions of its file, if it has one."""
        if (file := getattr(name, "regions", None)) is None:
            return shared_pass
        numbers = torch.from_numpy(read_region_map(file, name.size))
        seen = resize_nearest(numbers.to(shared_pass.pixels.device), shared_pass.pixels.shape[-2:])
        return replace(shared_pass, regions=seen[None])

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
        similarities = found.flatten(2).mT[0]
        return normalise((names.temperature * similarities).softmax(-1)[:, :num_tags].mT)
