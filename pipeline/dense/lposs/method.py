"""LPOSS: names spread over a graph of the patches of all windows (Stojnić et al., CVPR 2025)."""

import numpy as np
import torch
import torch.nn.functional as F

from pipeline.clip.encoder import ClipEncoder
from pipeline.clip.second_encoder import unit
from pipeline.clip.shared_pass import SharedPass
from pipeline.dense.as_trained import ValuePath
from pipeline.dense.lposs.propagation import centres, propagate, propagate_over_pixels
from pipeline.dense.method import NameEmbeddings, Passes, Windowed
from pipeline.dense.windows import mean_of_windows, resize, resize_as_opencv


class Lposs(ValuePath):
    """LPOSS: the similarities of the value path spread over patches that are alike."""

    joins_windows = True
    takes_best_name_first = True

    def similarities(
        self, encoder: ClipEncoder, shared_pass: SharedPass, names: NameEmbeddings
    ) -> torch.Tensor:
        """Returns the similarities after the propagation, B×N×C float32, within those of cosines.

        Names spread up to 1/(1 − α) times over, and over pixels as much again.
        """
        found, steps = [], 2 if self.options.pixels else 1
        for row, image in enumerate(encoder.to_images(shared_pass.pixels)):
            own = shared_pass.copy_image(row)
            _, [spread], window = self.spread(encoder, [([(0, 0)], own)], names)
            if self.options.pixels:
                spread = self.over_pixels(resize(spread, window), image)
            pooled = F.adaptive_avg_pool2d(spread, own.grid)
            found.append((1 - self.options.alpha) ** steps * pooled.flatten(1).mT)
        return torch.stack(found)

    def similarities_of_windows(
        self, encoder: ClipEncoder, windowed: Windowed, names: NameEmbeddings
    ) -> torch.Tensor:
        """Returns the mean of windows of the similarities of pixels and C names, C×H×W float32."""
        corners, found, window = self.spread(encoder, windowed.passes, names)
        inside = min(window[0], windowed.size[0]), min(window[1], windowed.size[1])
        joined = mean_of_windows(found, corners, window, inside, windowed.size)
        return self.over_pixels(joined, windowed.image) if self.options.pixels else joined

    def spread(
        self, encoder: ClipEncoder, passes: Passes, names: NameEmbeddings
    ) -> tuple[list[tuple[int, int]], torch.Tensor, tuple[int, int]]:
        """Returns the similarities of W windows after the propagation, which are one graph.

        Returns the top and left pixel of every window; P, W×C×h×w float32 on the second backbone's
        grid; and the height and width of a window in pixels.
        """
        corners: list[tuple[int, int]] = []
        given, features = [], []
        second = self.seconds["second"].encoder
        for places, shared_pass in passes:
            corners += places
            cosines = super().similarities(encoder, shared_pass, names)
            values = second.projections(shared_pass.pixels, encoder.normalisation)[2]
            on_grid = cosines.mT.unflatten(-1, shared_pass.grid)
            given.append(F.interpolate(on_grid, values.shape[-2:], mode="bilinear"))
            features.append(values)
        window, grid = shared_pass.pixels.shape[-2:], values.shape[-2:]
        nodes = unit(torch.cat(features)).flatten(0, 1)
        places = centres(corners, grid, window).to(nodes.device)
        cosines = torch.cat(given).flatten(2).mT.flatten(0, 1)
        spread = propagate(cosines, nodes, places, self.options)
        return corners, spread.unflatten(0, (len(corners), -1)).mT.unflatten(-1, grid), window

    def over_pixels(self, similarities: torch.Tensor, image: np.ndarray) -> torch.Tensor:
        """Returns LPOSS+ of similarities, C×H×W float32, with the colours of the resized image."""
        guide = resize_as_opencv(image, *similarities.shape[-2:])
        constants = {"alpha": self.options.alpha, "steps": self.options.steps}
        return propagate_over_pixels(similarities, guide, **constants)
