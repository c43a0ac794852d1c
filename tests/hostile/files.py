"""Image files as cameras, editors and accidents leave them."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pipeline.files import images
from tests.small_runs import draw_photograph

KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "JPEG": ("JPEG", {}),
    "progressive JPEG": ("JPEG", {"progressive": True}),
    "PNG": ("PNG", {}),
    "WebP": ("WEBP", {}),
    "lossless WebP": ("WEBP", {"lossless": True}),
}
"""Name → Pillow's format and options."""


def encode(image: Image.Image, kind: str = "JPEG", **options: Any) -> bytes:
    """Returns an image as a file of one of ``KINDS`` or of Pillow's formats."""
    file_format, usual = KINDS.get(kind, (kind, {}))
    return images.encode(image, file_format, **usual, **options)


def photograph(seed: int = 3, height: int = 40, width: int = 56) -> Image.Image:
    """Returns an RGB image of noise and rectangles."""
    return Image.fromarray(draw_photograph(seed, height, width))


def raw_png(
    width: int, height: int, bits: int, colour_type: int, data: bytes = b"", extra: bytes = b""
) -> bytes:
    """Returns a PNG with a header and data as given, whether or not they fit.

    Args:
        width: as the header says.
        height: as the header says.
        bits: of a channel.
        colour_type: 0 grey, 2 RGB, 3 palette, 4 grey with alpha, 6 RGBA.
        data: the compressed rows.
        extra: further chunks, which stand before the data.
    """
    header = struct.pack(">IIBBBBB", width, height, bits, colour_type, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + png_chunk(b"IHDR", header)
        + extra
        + png_chunk(b"IDAT", data)
        + png_chunk(b"IEND")
    )


def png_chunk(kind: bytes, content: bytes = b"") -> bytes:
    """Returns a chunk of a PNG."""
    checksum = struct.pack(">I", zlib.crc32(kind + content))
    return struct.pack(">I", len(content)) + kind + content + checksum


def deep_png(values: np.ndarray, colour_type: int, extra: bytes = b"") -> bytes:
    """Returns H×W×channels uint16 as a PNG of 16 bits a channel."""
    height, width = values.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    return raw_png(width, height, 16, colour_type, zlib.compress(rows), extra)


def grey_png(values: np.ndarray, bits: int) -> bytes:
    """Returns H×W uint8 as a grey PNG of fewer bits a pixel than Pillow writes."""
    low = np.unpackbits(values[..., None], -1)[..., -bits:].reshape(len(values), -1)
    rows = b"".join(b"\0" + np.packbits(row).tobytes() for row in low)
    return raw_png(values.shape[1], len(values), bits, 0, zlib.compress(rows))


def write(root: Path, name: str, content: bytes) -> Path:
    """Writes a file below a folder, whatever its name."""
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path
