"""Images: decoding, orientation, the resize to whole patches, CLIP's normalisation.

An image in memory is H×W×3 uint8, RGB, top row first. Pixels for CLIP are 3×H×W float32.
"""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps

from pipeline.errors import ImageError

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp"})
_MODES_OF_16_BIT = ("I;16", "I;16B", "I;16L", "I;16N", "I")


@dataclass(frozen=True)
class Normalisation:
    """How a CLIP's pixels were normalised when it was trained; OpenAI's unless others are given.

    They are those of open_clip.constants, which takes seconds to import: too long for the processes
    that only decode images.

    Attributes:
        mean: of red, green and blue in [0, 1].
        std: standard deviations of the same.
    """

    mean: tuple[float, float, float] = (0.48145466, 0.4578275, 0.40821073)
    std: tuple[float, float, float] = (0.26862954, 0.26130258, 0.27577711)


OPENAI_NORMALISATION = Normalisation()


def load_image(
    path: Path, *, apply_exif: bool = False, max_pixels: int | None = None
) -> np.ndarray:
    """Decodes an image file.

    Grey, palette, CMYK and 16-bit images become 8-bit RGB; what lies under transparency shows
    white, as it does in most viewers.

    Args:
        path: a file in any format that Pillow reads.
        apply_exif: turns the image as its EXIF orientation says (quirk ``exif``: the released
            code ignores it).
        max_pixels: width × height above which the file is refused before it is decoded.

    Returns:
        H×W×3 uint8, RGB.

    Raises:
        ImageError: the file is not an image, is damaged, or is too large.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                if max_pixels is not None and image.width * image.height > max_pixels:
                    raise ImageError(
                        f"{image.width}×{image.height} pixels are more than"
                        f" dataset.max_pixels={max_pixels}"
                    )
                image.load()
                if apply_exif:
                    image = ImageOps.exif_transpose(image)
                return np.asarray(_to_rgb(image))
    except ImageError:
        raise
    except Exception as error:  # Pillow's decoders raise nearly anything on damaged files
        reason = str(error) if str(error) else type(error).__name__
        raise ImageError(f"cannot be decoded: {reason.replace(str(path), 'the file')}") from error


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode in _MODES_OF_16_BIT:
        # Pillow's own conversion clips 16-bit values at 255 instead of scaling them.
        values = np.asarray(image).astype(np.int64)
        return Image.fromarray((values >> 8).clip(0, 255).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    return image.convert("RGB")


def limit_longest_side(image: np.ndarray, longest_side: int | None) -> np.ndarray:
    """Shrinks an image whose longer side exceeds ``longest_side``; H×W×3 uint8 in and out."""
    height, width = image.shape[:2]
    if longest_side is None or max(height, width) <= longest_side:
        return image
    factor = longest_side / max(height, width)
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC))


def patch_grid(
    height: int, width: int, patch_size: int, most_patches: int | None = None
) -> tuple[int, int]:
    """Returns how many rows and columns of patches an image is given (ALGORITHMS §1).

    Args:
        height: of the image.
        width: of the image.
        patch_size: side of a patch in pixels.
        most_patches: where more would be needed to cover the image, it is shrunk until as many do;
            attention takes memory with their square.
    """
    rows, columns = math.ceil(height / patch_size), math.ceil(width / patch_size)
    if most_patches is None or rows * columns <= most_patches:
        return rows, columns
    factor = math.sqrt(most_patches / (rows * columns))
    rows = max(1, min(int(rows * factor), most_patches))
    return rows, max(1, min(int(columns * factor), most_patches // rows))


def to_pixels(
    image: np.ndarray,
    height: int,
    width: int,
    normalisation: Normalisation = OPENAI_NORMALISATION,
) -> torch.Tensor:
    """Resizes (PIL bicubic), scales to [0, 1] and normalises: 3×height×width float32."""
    resized = Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC)
    pixels = torch.from_numpy(np.array(resized)).permute(2, 0, 1).float() / 255
    mean = torch.tensor(normalisation.mean).view(3, 1, 1)
    std = torch.tensor(normalisation.std).view(3, 1, 1)
    return (pixels - mean) / std


def encode_png(image: np.ndarray, palette: Sequence[tuple[int, int, int]] | None = None) -> bytes:
    """Encodes an image, H×W×3 or grey H×W uint8, or labels with a palette, H×W uint8, as PNG."""
    picture = Image.fromarray(image)
    if palette is not None:
        # With fewer than 256 colours Pillow writes fewer bits a pixel, and 255 is lost.
        colours = [*palette, *[(0, 0, 0)] * (256 - len(palette))]
        picture.putpalette([channel for colour in colours for channel in colour])
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()
