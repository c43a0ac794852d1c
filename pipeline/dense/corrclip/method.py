"""CorrCLIP: patches attend to their region, as far as it is alike (Zhang et al., ICCV 2025)."""

from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from scipy.sparse.csgraph import connected_components

from pipeline.clip.attention import one_by_one
from pipeline.clip.dimensions import block_window
from pipeline.clip.encoder import BlockHook, ClipEncoder
from pipeline.clip.second_encoder import unit
from pipeline.clip.shared_pass import SharedPass
from pipeline.datasets.regions import superpixels
from pipeline.dense.hooks import EveryToken
from pipeline.dense.method import NameEmbeddings
from pipeline.dense.on_second_grid import OnSecondGrid
from pipeline.dense.windows import resize_nearest


class CorrClip(OnSecondGrid):
    """CorrCLIP: regions, and a second backbone, decide which patches attend to each other.

    Three branches are added: the values of block L, those of the mean over earlier blocks, and a
    token of each region. The first two have neither a residual connection nor an MLP.
    """

    reads_regions = True

    def hooks(self, encoder: ClipEncoder) -> list[BlockHook]:
        """Returns the hook that keeps all tokens."""
        block_window("spatial_blocks", self.options.spatial_blocks, encoder.depth)
        return [EveryToken()]

    def regions(self, image: np.ndarray) -> np.ndarray:
        """Returns the superpixels of an image, H×W×3 uint8, in place of regions: H×W int64."""
        return superpixels(image, self.options.slic)

    def patch_features(
        self, encoder: ClipEncoder, shared_pass: SharedPass, names: NameEmbeddings | None = None
    ) -> torch.Tensor:
        """Returns the embeddings of patches of the second backbone's grid, B×M×E float32."""
        query, key, _ = self.second.projections(shared_pass.pixels, encoder.normalisation)
        regions, every = self.regions_of(encoder, shared_pass), shared_pass.for_cams[0]
        found = map(self.attention, unit(query + key), regions)
        attention, numbers = map(torch.stack, zip(*found))
        blocks = block_window("spatial_blocks", self.options.spatial_blocks, encoder.depth)
        # What enters a block left the one before.
        branches = (every[:, -1], 1.0), (every[:, list(blocks)].mean(1), self.options.spatial)
        block, embedded = encoder.last_block, 0.0
        for tokens, weight in branches:
            fine = self.fine_values(encoder, shared_pass, block.project(block.ln_1(tokens))[2])
            added = one_by_one(partial(self.attended, encoder), attention, fine)
            embedded = embedded + weight * encoder.embed(added)
        coarse, size = resize_nearest(numbers, shared_pass.grid), shared_pass.pixels.shape[-2:]
        semantic = [self._semantic(encoder, *each, size) for each in zip(every, coarse)]
        fine = resize_nearest(torch.stack(semantic), numbers.shape[1:]).flatten(2).mT
        return embedded + self.options.semantic * fine

    def attention(
        self, alike: torch.Tensor, regions: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns the attention between patches of an image, M×M, and their joined regions, h×w.

        Args:
            alike: features of the second backbone, M×C float32, each of length 1.
            regions: the number of each patch's, h×w int64; the lowest are in no region.
        """
        similarity, apart = alike @ alike.mT, int(regions.min())
        numbers = merged(regions.flatten(), alike, apart, self.options.merge)
        is_apart = numbers == apart
        allowed = (numbers[:, None] == numbers) & ~is_apart
        allowed |= (is_apart[:, None] | is_apart) & (similarity > similarity.mean())
        logits = (self.options.sharpness * similarity).masked_fill(~allowed, float("-inf"))
        return logits.softmax(-1), numbers.view_as(regions)

    def _semantic(
        self, encoder: ClipEncoder, every: torch.Tensor, numbers: torch.Tensor, size: torch.Size
    ) -> torch.Tensor:
        """Embeds the token of the region of each of CLIP's patches: E×h×w float32.

        A copy of the class token passes all blocks, and attends to the class token and to the
        patches of its region, which do not see it.

        Args:
            encoder: CLIP's.
            every: the tokens of an image that enter each block, L×T×D.
            numbers: the regions of the patches, h×w, of an image of this ``size``.
        """
        known, which = numbers.flatten().unique(return_inverse=True)
        prefix = every.shape[1] - len(which)
        outside = torch.arange(len(known), device=which.device)[:, None] != which
        bias = F.pad(outside.float() * torch.finfo(torch.float32).min, (prefix, 0))
        tokens = every[:1, :1].expand(-1, len(known), -1)
        for block, given in zip(encoder.blocks, every):
            projections = block.project_for(block.ln_1(given[None]), block.ln_1(tokens), size)
            tokens = block.finish(tokens, encoder.attend(*projections, bias[None, None]))
        return encoder.embed(tokens)[0].mT[:, which].unflatten(-1, numbers.shape)

    def regions_of(self, encoder: ClipEncoder, shared_pass: SharedPass) -> torch.Tensor:
        """Returns the regions of the second backbone's patches, B×h×w int64."""
        given = shared_pass.regions
        if given is None:
            images = encoder.to_images(shared_pass.pixels)
            found = [torch.from_numpy(self.regions(image)) for image in images]
            given = torch.stack(found).to(shared_pass.pixels.device)
        return resize_nearest(given, self.grid(shared_pass))

    def relabel(self, labels: torch.Tensor, regions: torch.Tensor) -> torch.Tensor:
        """Gives each region its most frequent label, of several the smallest; H×W both."""
        if not self.options.correct:
            return labels
        known, which = regions.flatten().unique(return_inverse=True)
        count = int(labels.max()) + 1
        votes = torch.bincount(which * count + labels.flatten(), minlength=len(known) * count)
        won = votes.unflatten(0, (-1, count)).argmax(1)[which].unflatten(0, labels.shape)
        return torch.where(regions == known[0], labels, won.to(labels.dtype))


def merged(numbers: torch.Tensor, alike: torch.Tensor, apart: int, distance: float) -> torch.Tensor:
    """Returns the number of each patch's region, M int64, after regions that are alike are one.

    The authors cluster them by DBSCAN with one sample, which is by connected components.

    Args:
        numbers: of the patches' regions, M int64.
        alike: features of patches, M×C float32, each of length 1.
        apart: the number of patches in no region.
        distance: at which regions are one.
    """
    known, which = numbers.unique(return_inverse=True)
    if len(known) <= 2:
        return numbers
    sums = alike.new_zeros(len(known), alike.shape[1]).index_add_(0, which, alike)
    means = F.normalize(sums[known != apart], dim=-1)  # the length of a mean does not matter
    similarity = means @ means.mT
    near = (similarity.max() - similarity <= distance).cpu().numpy()
    clusters = torch.from_numpy(connected_components(near)[1]).to(numbers)
    renamed = known.clone()
    renamed[known != apart] = int(known.max()) + 1 + clusters
    return renamed[which]
