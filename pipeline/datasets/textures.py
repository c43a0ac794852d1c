"""The backgrounds of rendered scenes: photographed and generated textures.

A texture is a function of a random generator, a height and a width in pixels. It returns an image,
H×W×3 float64, RGB in [0, 1].
"""

from collections.abc import Callable

import numpy as np

Rng = np.random.Generator
Colour = tuple[float, float, float]
Texture = Callable[[Rng, int, int], np.ndarray]


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
    grey = np.clip(0.75 * down + 0.8 * clouds, 0, 1)
    return _tint(grey, (0.30, 0.52, 0.86), (0.93, 0.95, 0.98))


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
