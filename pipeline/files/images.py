"""Images: decoding, orientation, the resize to whole patches, CLIP's normalisation.

An image in memory is H×W×3 uint8, RGB, top row first. Pixels for CLIP are 3×H×W float32.
"""

from __future__ import annotations

import io
import math
import stat
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from pipeline.errors import ImageError

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp"})
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
"""What is decoded, whatever a file's name says. Some of Pillow's other formats start programs (EPS
starts Ghostscript), and nothing that we read may run code."""

_MODES_OF_16_BIT = ("I;16", "I;16B", "I;16L", "I;16N", "I")

# Pillow warns of much that is odd in a file; whatever matters is raised as an error or refused.
warnings.filterwarnings("ignore", module=r"PIL\.")


def load_image(
    path: Path, *, apply_exif: bool = False, max_pixels: int | None = None
) -> np.ndarray:
    """Decodes an image file.

    Grey, palette, CMYK and 16-bit images become 8-bit RGB; what lies under transparency shows
    white, as it does in most viewers. Of an animation it is the first picture.

    Args:
        path: a file in one of ``FORMATS``.
        apply_exif: turns the image as its EXIF orientation says (quirk ``exif``: the released
            code ignores it).
        max_pixels: width × height above which the file is refused before it is decoded; Pillow's
            own limit, about 179 million, holds in any case.

    Returns:
        H×W×3 uint8, RGB.

    Raises:
        ImageError: the file is not an image, is damaged, or is too large.
    """
    try:
        refuse_special_file(path)
        with Image.open(path, formats=FORMATS) as image:
            if max_pixels is not None and image.width * image.height > max_pixels:
                raise ImageError(
                    f"{image.width}×{image.height} pixels are more than"
                    f" dataset.max_pixels={max_pixels}: shrink it, or raise the limit"
                )
            image.load()
            return np.asarray(_to_rgb(_upright(image) if apply_exif else image))
    except ImageError:
        raise
    except Image.DecompressionBombError as error:
        # Pillow refuses what has twice as many pixels as those of which it warns.
        most, limit = 2 * (Image.MAX_IMAGE_PIXELS or math.inf), "the most that are read"
        if max_pixels is not None and max_pixels < most:
            most, limit = max_pixels, "dataset.max_pixels"
        raise ImageError(f"has more pixels than {most}, {limit}: shrink it") from error
    except OSError as error:
        raise ImageError(f"cannot be decoded: {_what_is_wrong(path, error)}") from error
    except Exception as error:  # Pillow's decoders raise nearly anything on damaged files
        reason = str(error) if str(error) else type(error).__name__
        raise ImageError(f"cannot be decoded: {reason}") from error


def refuse_special_file(path: Path) -> None:
    """Refuses pipes and devices, which would be waited for, or read without end.

    Raises:
        ImageError: the path leads to something that is no regular file.
        OSError: it leads nowhere.
    """
    if not stat.S_ISREG(path.stat().st_mode):
        raise ImageError("is no file but a folder, a pipe or a device: remove or rename it")


def _what_is_wrong(path: Path, error: OSError) -> str:
    if error.strerror is not None:  # it is the file that cannot be read, not the image in it
        return error.strerror
    if isinstance(error, UnidentifiedImageError):
        kinds = f"{', '.join(FORMATS[:-1])} or {FORMATS[-1]}"
        return f"it is no {kinds}" if path.stat().st_size else "the file is empty"
    return str(error) or type(error).__name__


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # damaged EXIF raises nearly anything, and the picture itself is whole
        return image


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode in _MODES_OF_16_BIT:
        # Pillow's own conversion clips 16-bit values at 255 instead of scaling them.
        values = np.asarray(image)
        grey = (values >> 8).clip(0, 255).astype(np.uint8)
        if "transparency" in image.info:  # the one value that is transparent
            grey[values == image.info["transparency"]] = 255
        return Image.fromarray(grey).convert("RGB")
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
