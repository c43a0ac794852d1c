"""Image files: decoding to H×W×3 uint8, RGB, top row first, and encoding as PNG."""

import contextlib
import io
import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from pipeline.errors import ImageError, UserError, shown

COMMON_SUFFIXES = (".jpeg", ".jpg", ".png", ".webp")
"""Of two files with one name, the one with such a suffix is the image: telephones write both."""

SUFFIXES = (*COMMON_SUFFIXES, ".bmp", ".gif", ".tif", ".tiff")
"""The suffixes of image files, in the order in which a file is looked for."""

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
"""The formats that are decoded, whatever a file's name says. Some of Pillow's other formats start
programs (EPS starts Ghostscript), and no input may run code."""

HEIF_SUFFIXES = (".heic", ".heif")

with contextlib.suppress(ImportError):
    import pillow_heif  # optional: it is not among the requirements

    pillow_heif.register_heif_opener()
    FORMATS, SUFFIXES = (*FORMATS, "HEIF"), (*SUFFIXES, *HEIF_SUFFIXES)

IGNORED = (224, 224, 192)

MODES_OF_16_BITS = ("I;16", "I;16B", "I;16L", "I;16N", "I")
"""Pillow's modes of grey images with 16 bits a pixel."""

AnyImage = str | os.PathLike[str] | Image.Image | np.ndarray
"""The forms of an image that :func:`to_image` accepts."""


def decode_image(
    path: Path, *, apply_exif: bool = False, max_pixels: int | None = None
) -> np.ndarray:
    """Decodes an image file.

    Grey, palette, CMYK and 16-bit images become 8-bit RGB; transparent pixels become white, as most
    viewers show them. An animation gives its first picture.

    Args:
        path: a file in one of ``FORMATS``.
        apply_exif: whether to turn the image as its EXIF orientation says (quirk ``exif``: the
            reference implementation ignores it).
        max_pixels: width × height above which the file is refused before it is decoded; without
            it, Pillow's own limit holds, about 179 million.

    Raises:
        ImageError: the file is not an image, is damaged, or is too large.
    """
    try:
        with open_image(path, FORMATS, max_pixels) as image:
            if image.mode == "F":
                raise ImageError("has floating-point pixels: save it with 8 bits a channel")
            image.load()
            if apply_exif:
                # Damaged EXIF raises nearly anything, and the picture itself is intact.
                with contextlib.suppress(Exception):
                    image = ImageOps.exif_transpose(image)
            if image.mode != "RGB" or image.has_transparency_data:
                image = _to_rgb(image)
            return np.asarray(image)
    except FileNotFoundError as error:
        raise to_image_error(error, path, FORMATS) from error


def read_size(path: Path, apply_exif: bool = False) -> tuple[int, int]:
    """Returns the height and width that :func:`decode_image` gives, and decodes no pixel.

    Raises an ImageError if the file is missing, or not an image.
    """
    try:
        with open_image(path, FORMATS) as image:
            width, height = image.size
            with contextlib.suppress(Exception):  # damaged EXIF, as above
                if apply_exif and image.getexif().get(ExifTags.Base.Orientation, 1) > 4:
                    return width, height  # on its side
            return height, width
    except FileNotFoundError as error:
        raise to_image_error(error, path, FORMATS) from error


def to_image(given: AnyImage) -> np.ndarray:
    """Returns an image, H×W×3 uint8, RGB, in whatever form Python code holds it.

    That is a path, a picture of Pillow, or a uint8 array: H×W or H×W×1 (grey), H×W×3 (RGB) or H×W×4
    (RGBA). Paths and pictures are turned upright by their EXIF orientation; transparent pixels
    become white. Raises a UserError for anything else, and for what has no pixel or cannot be
    decoded.
    """
    if isinstance(given, str | os.PathLike):
        try:
            return decode_image(Path(given), apply_exif=True)
        except ImageError as error:
            raise UserError(f"image {shown(given)} {error}") from error
    what = type(given).__name__
    if isinstance(given, np.ndarray):
        what = f"{'×'.join(map(str, given.shape)) or 'a number'} {given.dtype}"
        channels = given.shape[2:]
        usable = given.ndim in (2, 3) and channels in [(), (1,), (3,), (4,)] and given.size
        if usable and given.dtype == np.uint8:
            if channels == (3,):
                return given
            given = Image.fromarray(given[:, :, 0] if channels == (1,) else given)
    if isinstance(given, Image.Image) and min(given.size) and given.mode != "F":
        try:
            with contextlib.suppress(Exception):
                given = ImageOps.exif_transpose(given)
            return np.asarray(_to_rgb(given))
        except Exception as error:  # Pillow's decoders raise nearly anything on damaged files
            raise UserError(f"a picture cannot be decoded ({error}): replace it") from error
    raise UserError(
        f"an image is a path, a picture of Pillow, or a uint8 array of H×W, H×W×3 or H×W×4, and"
        f" this is {what}: convert it, or read it with pipeline.load_image"
    )


def refuse_special_file(path: Path) -> None:
    """Raises an ImageError unless a path leads to a regular file, an OSError if it leads nowhere.

    Pipes and devices would block or never end.
    """
    if not stat.S_ISREG(path.stat().st_mode):
        raise ImageError("is not a file but a folder, a pipe or a device: remove or rename it")


@contextlib.contextmanager
def open_image(
    path: Path, formats: Sequence[str], max_pixels: int | None = None
) -> Iterator[Image.Image]:
    """Opens an image file of one of Pillow's ``formats``, and decodes no pixel.

    Raises:
        FileNotFoundError: it is missing.
        ImageError: it is not a file, has more than ``max_pixels``, or the block finds it damaged.
    """
    try:
        refuse_special_file(path)
        if max_pixels is not None and max_pixels > 2 * (Image.MAX_IMAGE_PIXELS or max_pixels):
            Image.MAX_IMAGE_PIXELS = max_pixels  # Pillow refuses twice as many
        with Image.open(path, formats=formats) as image:
            if max_pixels is not None and image.width * image.height > max_pixels:
                raise ImageError(
                    f"{image.width}×{image.height} pixels are more than"
                    f" dataset.max_pixels={max_pixels}: shrink it, or raise the limit"
                )
            yield image
    except (FileNotFoundError, ImageError):
        raise
    except Exception as error:  # Pillow's decoders raise nearly anything on damaged files
        raise to_image_error(error, path, formats, max_pixels) from error


def to_image_error(
    error: Exception, path: Path, formats: Sequence[str], max_pixels: int | None = None
) -> ImageError:
    """Returns the error to report for one that was raised while an image file was decoded.

    ``formats`` are those that Pillow accepted, ``max_pixels`` the data set's limit if it applies.
    """
    if isinstance(error, FileNotFoundError):
        return ImageError("is not there: correct its path, or restore it")
    if isinstance(error, Image.DecompressionBombError):
        limit = f"dataset.max_pixels={max_pixels}" if max_pixels else 2 * Image.MAX_IMAGE_PIXELS
        return ImageError(f"has more than {limit} pixels: shrink it")
    reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
    if isinstance(error, UnidentifiedImageError):
        *first, last = formats
        names = f"{', '.join(first)} or {last}" if first else last
        reason = f"it is not a {names} file" if path.stat().st_size else "the file is empty"
    is_missing = path.suffix.lower() in {*HEIF_SUFFIXES} - {*SUFFIXES}
    remedy = "pip install pillow-heif" if is_missing else "replace it"
    return ImageError(f"cannot be decoded ({reason}): {remedy}")


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode in MODES_OF_16_BITS:
        # Pillow's own conversion clips 16-bit values at 255 instead of scaling them.
        values = np.asarray(image)
        grey = (values >> 8).clip(0, 255).astype(np.uint8)
        if "transparency" in image.info:  # the one value that is transparent
            grey[values == image.info["transparency"]] = 255
        return Image.fromarray(grey).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def shrunk_size(image: np.ndarray, longest_side: int) -> tuple[int, int]:
    """Returns the height and width to which a longest side, in pixels, limits an image."""
    height, width = image.shape[:2]
    factor = min(1, longest_side / max(height, width))
    return max(1, round(height * factor)), max(1, round(width * factor))


def limit_longest_side(image: np.ndarray, longest_side: int | None) -> np.ndarray:
    """Shrinks an image whose longer side exceeds ``longest_side``; H×W×3 uint8 in and out."""
    if longest_side is None or max(image.shape[:2]) <= longest_side:
        return image
    size = shrunk_size(image, longest_side)[::-1]
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC))


def encode_png(image: np.ndarray, palette: Sequence[tuple[int, int, int]] | None = None) -> bytes:
    """Encodes an image as PNG.

    Args:
        image: H×W×3 uint8, or H×W uint8: grey values, or labels if there is a palette.
        palette: the colours of labels 0, 1, …; at most 256. Further labels are black, but for 255,
            which has the colour of PASCAL VOC's ignored pixels: black would read as background.
    """
    picture = Image.fromarray(image)
    if palette is not None:
        # With fewer than 256 colours Pillow writes fewer bits a pixel, and label 255 is lost.
        colours = [*palette, *[(0, 0, 0)] * (255 - len(palette)), IGNORED][:256]
        picture.putpalette([channel for colour in colours for channel in colour])
    return encode(picture, "PNG")


def encode(picture: Image.Image | np.ndarray, kind: str, **options: object) -> bytes:
    """Encodes an image, H×W, H×W×3 or H×W×4 uint8, by Pillow's name and options of a format."""
    buffer = io.BytesIO()
    picture = Image.fromarray(picture) if isinstance(picture, np.ndarray) else picture
    picture.save(buffer, kind, **options)
    return buffer.getvalue()
