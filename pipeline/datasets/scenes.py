"""Rendered scenes of simple objects, with labels and masks: the demo's, and the crowded world's.

Objects of ten classes lie on six grounds. One object dominates, as in most photographs of PASCAL
VOC; smaller ones may stand beside it, occlude it or be cut off by the border. The world of a data
set has the parameters, ``data/NAME/scenes.yaml``; the README beside it gives the reasons. A scene
depends only on the world, its seed included, and on ``(stream, index)``, so that every machine
draws the same scene. (Pillow before 11.2.1 fills the edges of some polygons differently.)
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache

import numpy as np
import yaml
from PIL import Image, ImageDraw

from pipeline.files.shipped import DATA

_ANTIALIASING = 3  # outlines are drawn at this multiple of the size, then averaged
_REACH = 1.3  # of an object from its centre, in units of its radius
_MIN_AREA = 64  # objects with fewer visible pixels are not drawn

Rng = np.random.Generator
Colour = tuple[float, float, float]
Texture = Callable[[Rng, int, int], np.ndarray]
"""Returns an image, H×W×3 float64, RGB in [0, 1], of a height and a width in pixels."""


@cache
def load_world(name: str) -> Mapping:
    """Returns the parameters of a rendered data set's scenes as nested dictionaries."""
    return yaml.safe_load((DATA / name / "scenes.yaml").read_text(encoding="utf-8"))


@dataclass(frozen=True)
class Scene:
    """One rendered scene."""

    image: np.ndarray  # H×W×3 uint8, RGB
    mask: np.ndarray  # H×W uint8; 0 is the ground, k+1 the k-th class of the world
    ground: str  # the name of the ground


def render_scene(world: Mapping, stream: str, index: int) -> Scene:
    """Renders scene ``index``, from 0, of a split, or of "captions", which train the demo CLIP."""
    rng = np.random.default_rng([world["seed"], *stream.encode(), index])
    width, height = world["landscape"]
    if rng.random() < world["portrait_share"]:
        width, height = height, width
    ground = str(rng.choice(list(world["grounds"])))
    canvas = TEXTURES[ground](rng, height, width)
    mask = np.zeros((height, width), np.uint8)

    names = list(world["classes"])
    main = int(rng.integers(len(names)))
    _draw(world, rng, canvas, mask, main, rng.uniform(*world["main_radius"]), margin=0.3)
    for _ in range(rng.choice(len(world["further_count"]), p=world["further_count"])):
        repeats = rng.random() < world["further_same_class"]
        label = main if repeats else int(rng.integers(len(names)))
        _draw(world, rng, canvas, mask, label, rng.uniform(*world["further_radius"]), margin=0.08)

    # The light is a linear gradient of brightness in a random direction, around 1.
    angle = rng.uniform(0, 2 * math.pi)
    rows, columns = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    slope = rng.uniform(0, world["lighting"]) / math.sqrt(2)
    canvas *= 1 + slope * (rows * math.sin(angle) + columns * math.cos(angle))[..., None]
    canvas += rng.normal(0, world["noise"] / 255, canvas.shape)
    return Scene((np.clip(canvas, 0, 1) * 255).round().astype(np.uint8), mask, ground)


def _draw(
    world: Mapping,
    rng: Rng,
    canvas: np.ndarray,
    mask: np.ndarray,
    label: int,
    radius: float,
    margin: float,
) -> None:
    """Draws an object where it covers little of the others; gives up after 20 tries."""
    name = list(world["classes"])[label]
    size = np.array(mask.shape[::-1])
    angle = rng.uniform(0, 2 * math.pi)
    for _ in range(20):
        centre = rng.uniform(margin, 1 - margin, 2) * size
        part, u, v, coverage = _rasterise(OUTLINES[name], centre, radius, angle, size)
        inside = coverage >= 0.5
        area = inside.sum()
        overlap = (mask[part][inside] > 0).sum()
        if area >= _MIN_AREA and overlap <= world["largest_overlap"] * area:
            break
    else:
        return

    hue = world["classes"][name] + rng.uniform(-1, 1) * world["hue_half_width"]
    saturation, brightness = (rng.uniform(*world[key]) for key in ("saturation", "brightness"))
    import skimage.color

    colour = skimage.color.hsv2rgb(np.array([(hue % 360) / 360, saturation, brightness]))
    contrast = rng.uniform(*world["pattern_contrast"])
    tones = 1 + contrast * np.clip(PATTERNS[name](u, v), -1, 1)
    painted = np.clip(colour * tones[..., None], 0, 1)
    canvas[part] += coverage[..., None] * (painted - canvas[part])
    mask[part][inside] = label + 1


def _rasterise(
    outline: list[np.ndarray], centre: np.ndarray, radius: float, angle: float, size: np.ndarray
) -> tuple[tuple[slice, slice], np.ndarray, np.ndarray, np.ndarray]:
    """Rasterises an outline in the window of the image that the object can reach.

    ``centre`` is x and y of the object, ``size`` the width and height of the image. Returns the
    window's rows and columns; the coordinates u and v of every pixel in the object's frame, in
    units of its radius; and the fraction of the pixel inside the outline, in [0, 1].
    """
    scale = _ANTIALIASING
    start = np.maximum(0, np.floor(centre - _REACH * radius)).astype(int)
    stop = np.minimum(size, np.ceil(centre + _REACH * radius).astype(int) + 1)
    turn = np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
    sheet = Image.new("L", tuple((stop - start) * scale))
    pen = ImageDraw.Draw(sheet)
    for fill, points in ((255, outline[0]), *((0, hole) for hole in outline[1:])):
        placed = points @ turn * radius + centre - start
        pen.polygon([tuple(point) for point in (placed + 0.5) * scale], fill=fill)
    columns, rows = map(slice, start, stop)
    y, x = np.mgrid[rows, columns]
    u, v = np.moveaxis(np.stack([x - centre[0], y - centre[1]], -1) @ turn.T, -1, 0) / radius
    return (rows, columns), u, v, np.asarray(sheet.reduce(scale), np.float64) / 255


# Outlines: polygons in a frame in which the object has radius 1. The first is filled, the others
# are holes.


def _arc(
    radius: float, start: float, stop: float, centre: tuple[float, float] = (0.0, 0.0)
) -> np.ndarray:
    angles = np.radians(np.linspace(start, stop, 40))
    return np.stack([np.cos(angles), np.sin(angles)], 1) * radius + centre


def _corners(count: int, radii: tuple[float, ...] = (1.0,)) -> np.ndarray:
    angles = np.arange(count * len(radii)) * 2 * math.pi / (count * len(radii))
    return np.stack([np.cos(angles), np.sin(angles)], 1) * np.tile(radii, count)[:, None]


def _heart() -> np.ndarray:
    t = np.linspace(0, 2 * math.pi, 60)
    x = 16 * np.sin(t) ** 3
    y = 13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)
    return np.stack([x, -y], 1) / 16


def _cross() -> np.ndarray:
    quarter = np.array([[1, -0.36], [1, 0.36], [0.36, 0.36]])
    turns = [np.linalg.matrix_power(np.array([[0, 1], [-1, 0]]), k) for k in range(4)]
    return np.concatenate([quarter @ turn for turn in turns])


def _arrow() -> np.ndarray:
    above = np.array([[-1, -0.3], [0.1, -0.3], [0.1, -0.8], [1.1, 0]])
    return np.concatenate([above, above[2::-1] * (1, -1)])


OUTLINES: dict[str, list[np.ndarray]] = {
    "disc": [_arc(0.95, 0, 360)],
    "square": [_corners(4, (1.15,))],
    "triangle": [_corners(3, (1.2,))],
    "star": [_corners(5, (1.15, 0.52))],
    "heart": [_heart()],
    "ring": [_arc(1.0, 0, 360), _arc(0.42, 0, 360)],
    "cross": [_cross()],
    "crescent": [np.concatenate([_arc(1.0, 50, 310), _arc(0.78, 282, 78, centre=(0.48, 0))])],
    "arrow": [_arrow()],
    "hexagon": [_corners(6)],
}


def _wave(phase: np.ndarray) -> np.ndarray:
    return np.sign(np.sin(phase))


PATTERNS: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "disc": lambda u, v: _wave(4 * np.arctan2(v, u)),  # sectors
    "square": lambda u, v: 2 * ((2.2 * v) % 1) - 1,  # planks
    "triangle": lambda u, v: _wave(11 * u),  # stripes
    "star": lambda u, v: 1 - 2.2 * np.hypot(u, v),  # radial
    "heart": lambda u, v: 2 * np.exp(-5 * ((u + 0.3) ** 2 + (v + 0.3) ** 2)) - 1,  # gloss
    "ring": lambda u, v: _wave(21 * np.hypot(u, v)),  # rings
    "cross": lambda u, v: _wave(9 * u) * _wave(9 * v),  # checks
    "crescent": lambda u, v: np.where(np.cos(13 * u) * np.cos(13 * v) > 0.35, 1, -1),  # dots
    "arrow": lambda u, v: _wave(10 * u + 3 * np.abs((2.5 * v) % 1 - 0.5)),  # zigzag
    "hexagon": lambda u, v: np.where(  # grid
        np.minimum(np.abs(np.sin(6 * u)), np.abs(np.sin(6 * v))) < 0.3, -1, 1
    ),
}


def _photographed(name: str, dark: Colour, light: Colour) -> Texture:
    """Returns a texture that crops and tints one of scikit-image's photographs of textures."""

    def texture(rng: Rng, height: int, width: int) -> np.ndarray:
        import skimage.data

        photograph = np.asarray(getattr(skimage.data, name)(), np.float64) / 255
        top, left = (rng.integers(s - n + 1) for s, n in zip(photograph.shape, (height, width)))
        grey = photograph[top : top + height, left : left + width]
        if rng.random() < 0.5:
            grey = grey[:, ::-1]
        return _tint(np.clip(grey * rng.uniform(0.85, 1.15), 0, 1), dark, light)

    return texture


def _tint(grey: np.ndarray, dark: Colour, light: Colour) -> np.ndarray:
    """Maps grey values in [0, 1], H×W, to colours between dark and light, H×W×3."""
    return np.asarray(dark) + grey[..., None] * (np.asarray(light) - np.asarray(dark))


def _clouds(rng: Rng, height: int, width: int, sigma: float | tuple[float, float]) -> np.ndarray:
    """Returns Gaussian noise, smoothed with ``sigma`` pixels, H×W in [0, 1]."""
    from scipy.ndimage import gaussian_filter

    noise = gaussian_filter(rng.normal(size=(height, width)), sigma, mode="wrap")
    low, high = noise.min(), noise.max()
    return (noise - low) / (high - low)


def _sky(rng: Rng, height: int, width: int) -> np.ndarray:
    down = np.linspace(0, 1, height)[:, None]
    clouds = np.clip(3 * (_clouds(rng, height, width, (14, 28)) - rng.uniform(0.4, 0.8)), 0, 1)
    return _tint(np.clip(0.75 * down + 0.8 * clouds, 0, 1), (0.30, 0.52, 0.86), (0.93, 0.95, 0.98))


def _sand(rng: Rng, height: int, width: int) -> np.ndarray:
    rows, columns = np.mgrid[:height, :width]
    warp = 30 * _clouds(rng, height, width, 18)
    ripples = np.sin((rows + rng.uniform(-0.6, 0.6) * columns + warp) / rng.uniform(2.5, 4.0))
    grey = 0.5 + 0.22 * ripples + 0.12 * rng.normal(size=(height, width))
    return _tint(np.clip(grey, 0, 1), (0.66, 0.53, 0.34), (0.95, 0.85, 0.64))


def _water(rng: Rng, height: int, width: int) -> np.ndarray:
    waves = _clouds(rng, height, width, (1.5, 9))
    swell = _clouds(rng, height, width, (8, 40))
    return _tint(0.6 * waves + 0.4 * swell, (0.02, 0.20, 0.33), (0.45, 0.72, 0.78))


TEXTURES: dict[str, Texture] = {
    "grass": _photographed("grass", (0.06, 0.16, 0.03), (0.55, 0.72, 0.30)),
    "gravel": _photographed("gravel", (0.16, 0.15, 0.14), (0.80, 0.79, 0.77)),
    "brick": _photographed("brick", (0.28, 0.10, 0.07), (0.80, 0.47, 0.38)),
    "sky": _sky,
    "sand": _sand,
    "water": _water,
}
"""The grounds: photographed and generated textures."""
