"""Regions of label images: pixels, and outlines as polygons."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from statistics import median

import numpy as np
from PIL import Image, ImageDraw
from skimage.measure import approximate_polygon, find_contours, regionprops
from skimage.measure import label as label_components

from pipeline.files.label_images import IGNORE

Outline = tuple[int, np.ndarray]
"""The class of a component, from 0, and its polygon: N×2 pixels, x and y, N ≥ 3."""


def class_regions(labels: np.ndarray, components: bool = False) -> Iterator[tuple[int, np.ndarray]]:
    """Yields the regions of an image from its labels, the lowest class first.

    A region is its class from 0, and where it is (H×W bool). With ``components``, there is one for
    each connected component, diagonals included.
    """
    for label in np.unique(labels).tolist():
        if label in (0, IGNORE):
            continue
        inside = labels == label
        parts = label_components(inside, connectivity=2) if components else inside.astype(np.uint8)
        for part in range(1, parts.max() + 1):
            yield label - 1, parts == part


@dataclass
class Outlines:
    """Traces the outlines of images, and finds out how much they lose."""

    min_area: int = 0  # components of fewer pixels have no outline
    tolerance: float = 0  # how far, in pixels, an outline may be from the border of its component
    _ious: list[float] = field(default_factory=list)
    _dropped: int = 0
    _ignored: int = 0
    _holes: int = 0

    def trace(self, labels: np.ndarray) -> list[Outline]:
        """Returns the outlines of an image's components, diagonals included."""
        known = np.where(labels == IGNORE, 0, labels)
        self._ignored += int((labels == IGNORE).sum())
        found = []
        for component in regionprops(label_components(known, connectivity=2)):
            if component.area < self.min_area:
                self._dropped += 1
                continue
            outer, *holes = _trace(component.image)
            self._holes += len(holes)
            corners = _corners(_join(outer, holes), self.tolerance) + component.bbox[:2]
            found.append((int(known[tuple(component.coords[0])]) - 1, corners[:, ::-1]))
        drawn = draw_outlines(found, known.shape)
        union = (known > 0) | (drawn > 0)
        self._ious.append((known == drawn)[union].mean() if union.any() else 1.0)
        return found

    def loss(self) -> Iterator[str]:
        """Yields what the outlines that were traced lose, a sentence each."""
        if self._ious:
            yield (
                f"polygons drawn back have an IoU with their masks of {median(self._ious):.4f} in"
                f" the median image and {min(self._ious):.4f} in the worst; {self._holes} holes are"
                " joined to the outlines around them by a line"
            )
        if self._ignored:
            yield f"{self._ignored} pixels of label 255 have no polygon, like the background"
        if self._dropped:
            yield f"{self._dropped} components below {self.min_area} pixels have no polygon"


def draw_outlines(outlines: Iterable[Outline], size: tuple[int, int]) -> np.ndarray:
    """Draws outlines, with the pixels on their lines: H×W uint8, 0 background, k+1 class k."""
    picture = Image.new("L", size[::-1])
    draw = ImageDraw.Draw(picture)
    for k, outline in outlines:
        draw.polygon([*map(tuple, outline.tolist())], fill=k + 1, outline=k + 1)
    return np.asarray(picture)


def _trace(inside: np.ndarray) -> list[np.ndarray]:
    """Returns the border pixels of a component, row and column, one after the other.

    The outer border comes first, and then those of holes, the uppermost first.
    """
    padded = np.pad(inside, 1)
    borders = []
    for contour in find_contours(padded, 0.5, fully_connected="high"):
        # A point of a contour lies between a pixel inside and one outside: take the one inside.
        low, high = np.floor(contour).astype(int), np.ceil(contour).astype(int)
        border = np.where(padded[tuple(low.T)][:, None], low, high) - 1
        moves = (border != np.roll(border, 1, 0)).any(1)
        borders.append(border[moves] if moves.any() else border[:1])
    return sorted(borders, key=lambda border: border[:, 0].min())


def _join(outer: np.ndarray, holes: Iterable[np.ndarray]) -> np.ndarray:
    """Returns the outline of a component with holes: a line leads to each of them and back.

    It leads straight up from a hole, to the first pixel of a border above, and leaves the component
    nowhere: what lies above belongs to the outline already.
    """
    for hole in holes:
        start = int(hole[:, 0].argmin())
        row, column = hole[start]
        above = np.flatnonzero((outer[:, 1] == column) & (outer[:, 0] <= row))
        place = int(above[outer[above, 0].argmax()])
        hole = np.roll(hole, -start, 0)
        outer = np.concatenate([outer[: place + 1], hole, hole[:1], outer[place:]])
    return outer


def _corners(outline: np.ndarray, tolerance: float) -> np.ndarray:
    """Returns the points of an outline where it turns, at least three."""
    if tolerance:
        outline = approximate_polygon(np.concatenate([outline, outline[:1]]), tolerance)[:-1]
    else:
        steps = np.sign(np.diff(outline, axis=0, append=outline[:1]))
        outline = outline[(steps != np.roll(steps, 1, 0)).any(1)]
    return np.resize(outline, (max(3, len(outline)), 2))
