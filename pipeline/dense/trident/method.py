"""Trident: windows are spliced, and spread by SAM's attention (Shi et al., ICCV 2025)."""

from collections.abc import Iterable

import numpy as np
import torch
import torch.nn.functional as F

from pipeline.clip.encoder import ClipEncoder
from pipeline.clip.shared_pass import SharedPass
from pipeline.dense.method import DenseMethod, NameEmbeddings, Windowed
from pipeline.dense.proxyclip.method import ProxyClip
from pipeline.dense.windows import mean_of_windows, resize_as_opencv, resize_to_multiples

_MOST = 0.9
"""No patch needs to be more similar than this, so that each attends at least to itself."""

_LEAST_SIDE = 336
"""Pixels below which the authors shrink no side."""


class Trident(ProxyClip):
    """Trident: the windows of ProxyCLIP are spliced, and spread by SAM's attention."""

    joins_windows = True
    grid, multiple = DenseMethod.grid, DenseMethod.multiple  # those of CLIP; see fit

    def fit(self, pixels: torch.Tensor, patch_size: int, window: int, stride: int) -> torch.Tensor:
        """Resizes pixels, 3×H×W, to whole patches."""
        return resize_to_multiples(pixels, patch_size, _LEAST_SIDE)

    def similarities(
        self, encoder: ClipEncoder, shared_pass: SharedPass, names: NameEmbeddings
    ) -> torch.Tensor:
        """Returns the cosine similarities of CLIP's patches and names, B×N×C float32."""
        found = []
        for row, image in enumerate(encoder.to_images(shared_pass.pixels)):
            own = shared_pass.copy_image(row)
            windowed = Windowed([([(0, 0)], own)], own.pixels.shape[-2:], image)
            whole = self.similarities_of_windows(encoder, windowed, names)
            found.append(F.adaptive_avg_pool2d(whole, own.grid).flatten(1).mT)
        return torch.stack(found)

    def similarities_of_windows(
        self, encoder: ClipEncoder, windowed: Windowed, names: NameEmbeddings
    ) -> torch.Tensor:
        """Returns the cosine similarities of places of SAM's grid and C names, C×h×w float32."""
        corners: list[tuple[int, int]] = []
        features, values = [], []
        for places, shared_pass in windowed.passes:
            corners += places
            features += self.features(encoder, shared_pass).split(1)
            values += self.values(encoder, shared_pass).split(1)
        # One mean of all windows, as in the released code.
        mean = torch.stack([each.mean(1).square().sum() for each in features]).mean()
        fine, coarse, outputs = self.second.grid(shared_pass.pixels), shared_pass.grid, []
        for feature, value in zip(features, values):
            output = self.attended(encoder, self.attention(feature, mean), value)[0]
            outputs.append(F.adaptive_avg_pool2d(output.mT.unflatten(-1, fine), coarse).float())
        size = windowed.size
        joined = mean_of_windows(outputs, corners, coarse, coarse, size, encoder.patch_size)
        rows, columns = (-(-side // 16) * 16 for side in windowed.image.shape[:2])
        whole = resize_as_opencv(windowed.image, rows, columns)
        parts = np.split(whole, [columns // 2] if self.options.halves else [], axis=1)
        found = [*map(self.seconds["sam"].encoder.last_attention, parts)]
        height, width = found[0][0]
        spliced = F.interpolate(joined[None], (height, width * len(parts)), mode="bilinear")[0]
        similarities = []
        for (grid, of_heads, heads), part in zip(found, spliced.split(width, -1)):
            spread = self.spread(of_heads, heads) @ part.flatten(1).mT
            unit = F.normalize(encoder.embed(spread), dim=-1)
            similarities.append((names.text @ unit.mT).unflatten(-1, grid))
        return torch.cat(similarities, -1)

    def spread(self, values: torch.Tensor, heads: Iterable[torch.Tensor]) -> torch.Tensor:
        """Returns the weights by which patches attend to each other, N×N, one mean of SAM's heads.

        Attention counts where the values of two patches are more similar than on average.

        Args:
            values: of all heads, heads×N×d.
            heads: the attention of each, N×N.
        """
        units = F.normalize(values, dim=-1)
        average = (units @ units.mean(1, keepdim=True).mT).mean(0)  # N×1
        least = self.options.factor * average
        if self.options.negative is not None:
            least = least.where(least >= 0, self.options.negative)
        least = least.clamp(max=_MOST)
        total: torch.Tensor | float = 0.0
        for unit_of, attention in zip(units, heads):
            total = total + attention * (unit_of @ unit_of.mT > least)
        return total / total.sum(1, keepdim=True)
