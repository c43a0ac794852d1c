"""CorrCLIP: patches attend to their region, as far as it is alike (Zhang et al., ICCV 2025)."""

import math
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from scipy.sparse.csgraph import connected_components

from pipeline.clip.attention import one_by_one
from pipeline.clip.dimensions import Normalisation, block_window, patch_grid
from pipeline.clip.encoder import BlockHook, ClipEncoder
from pipeline.clip.second_encoder import unit
from pipeline.clip.shared_pass import SharedPass
from pipeline.datasets.regions import read_region_map, superpixels
from pipeline.dense.corrclip.bank import Bank
from pipeline.dense.hooks import EveryToken
from pipeline.dense.method import NameEmbeddings
from pipeline.dense.on_second_grid import OnSecondGrid
from pipeline.dense.picture import Picture, means_of_regions, resize_nearest
from pipeline.dense.windows import resize
from pipeline.engine.sample import Size


class CorrClip(OnSecondGrid):
    """CorrCLIP: regions, and a second backbone, decide which patches attend to each other.

    Three branches are added: the values of block L, those of the mean over earlier blocks, and a
    token of each region. The first two have neither a residual connection nor an MLP.
    """

    def hooks(self, encoder: ClipEncoder) -> list[BlockHook]:
        """Returns the hook that keeps all tokens."""
        block_window("spatial_blocks", self.options.spatial_blocks, encoder.depth)
        return [EveryToken()]

    def grid(self, shared_pass: SharedPass) -> tuple[int, int]:
        """Returns the second backbone's grid; twice that of CLIP if it sees whole pictures."""
        if self.options.whole_picture:
            return tuple(2 * side for side in shared_pass.grid)
        return super().grid(shared_pass)

    def read_picture(
        self, encoder: ClipEncoder, image: np.ndarray, size: Size, file: Path | None, content: str
    ) -> Picture:
        """Returns the regions of an image, and what the second backbone sees in the whole of it."""
        numbers = read_region_map(file, size) if file else superpixels(image, self.options.slic)
        regions = resize_nearest(torch.from_numpy(numbers).to(encoder.device), size)
        is_seen = self.options.whole_picture or self.options.bank.is_used
        return Picture(regions, self.see(encoder, image) if is_seen else None, content)

    def see(self, encoder: ClipEncoder, image: np.ndarray) -> torch.Tensor:
        """Returns the second backbone's tokens of an image, h×w×3 uint8: C×h'×w' float32.

        Both sides become the nearest multiples of its patches (bilinear), halves to even. An image
        of more such patches than CLIP's ``images.most_patches`` is shrunk to at most as many.
        """
        pixels, patch = torch.tensor(image, device=encoder.device), self.second.patch_size
        grid = [max(1, round(side / patch)) for side in image.shape[:2]]
        if encoder.max_patches and math.prod(grid) > encoder.max_patches:
            grid = patch_grid(*image.shape[:2], patch, encoder.max_patches)
        size = [count * patch for count in grid]
        seen = resize(pixels.permute(2, 0, 1) / 255, size)
        return self.second.tokens(seen[None], Normalisation((0, 0, 0), (1, 1, 1)))[0]

    @cached_property
    def bank(self) -> Bank:
        """The bank of regions that was learned."""
        return Bank.read(self.learned / "bank.npz", self.seconds["second"].device)

    def with_support(
        self, similarities: torch.Tensor, names: NameEmbeddings, picture: Picture
    ) -> torch.Tensor:
        """Returns the weighted sum of similarities, C×h×w, and of those of the bank's regions."""
        options = self.options.bank
        if not options.is_used:
            return similarities
        _, queries, which = means_of_regions(picture.features, picture.regions, unit=True)
        own = "" if options.own else picture.content
        scores = names.text @ self.bank.support(queries, options.neighbours, own).mT
        support = F.adaptive_avg_pool2d(scores[:, which], similarities.shape[-2:])
        return similarities.lerp(support, options.share)

    def patch_features(self, encoder: ClipEncoder, shared_pass: SharedPass) -> torch.Tensor:
        """Returns the embeddings of patches of the second backbone's grid, B×M×E float32."""
        alike = self.alike(encoder, shared_pass)
        regions, every = self.regions_of(encoder, shared_pass), shared_pass.for_cams[0]
        found = map(self.attention, alike, regions)
        attention, numbers = map(torch.stack, zip(*found))
        blocks = block_window("spatial_blocks", self.options.spatial_blocks, encoder.depth)
        # What enters a block left the one before.
        branches = (every[:, -1], 1.0), (every[:, list(blocks)].mean(1), self.options.spatial)
        block, embedded = encoder.last_block, 0.0
        for tokens, weight in branches:
            values = block.project(block.ln_1(tokens))[2]
            fine = self.fine_values(encoder, shared_pass, values, self.grid(shared_pass))
            added = one_by_one(partial(self.attended, encoder), attention, fine)
            embedded = embedded + weight * encoder.embed(added)
        coarse, size = resize_nearest(numbers, shared_pass.grid), shared_pass.pixels.shape[-2:]
        semantic = [self._semantic(encoder, *each, size) for each in zip(every, coarse)]
        fine = resize_nearest(torch.stack(semantic), numbers.shape[1:]).flatten(2).mT
        return embedded + self.options.semantic * fine

    def alike(self, encoder: ClipEncoder, shared_pass: SharedPass) -> torch.Tensor:
        """Returns features of the second backbone by which patches are alike, B×M×C, of length 1.

        They are the sum of queries and keys of its last block; or its tokens of whole pictures.
        """
        if self.options.whole_picture:
            grid = self.grid(shared_pass)
            return torch.cat([unit(p.on_grid(grid)[None]) for p in shared_pass.pictures])
        query, key, _ = self.second.projections(shared_pass.pixels, encoder.normalisation)
        return unit(query + key)

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
        given = [picture.regions for picture in shared_pass.pictures]
        if not given:
            images = encoder.to_images(shared_pass.pixels)
            given = [torch.from_numpy(superpixels(each, self.options.slic)) for each in images]
        grid = self.grid(shared_pass)
        found = torch.stack([resize_nearest(each, grid) for each in given])
        return found.to(shared_pass.pixels.device)

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
