"""The class activation maps (CAMs) of one image, and their file."""

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline.errors import ImageError
from pipeline.files.images import refuse_special_file


@dataclass(frozen=True)
class Cams:
    """The CAMs of one image.

    Attributes:
        classes: K int64 class indices.
        cams: K×h×w float16 in [0, 1], on the patch grid.
        size: height and width of the image in pixels.
    """

    classes: np.ndarray
    cams: np.ndarray
    size: tuple[int, int]

    def resized(self, height: int, width: int) -> np.ndarray:
        """Returns the CAMs at an image's size, K×height×width float32 (bilinear)."""
        if not len(self.classes):
            return np.zeros((0, height, width), np.float32)
        import torch  # seconds, which reading a file need not take
        import torch.nn.functional as F

        cams = torch.from_numpy(self.cams.astype(np.float32)).unsqueeze(0)
        return F.interpolate(cams, (height, width), mode="bilinear", align_corners=False)[0].numpy()


def encode_cams(cams: Cams) -> bytes:
    """Returns an image's CAMs as a compressed ``.npz`` file."""
    buffer = io.BytesIO()
    size = np.array(cams.size, np.int64)
    np.savez_compressed(buffer, keys=cams.classes, cams=cams.cams.astype(np.float16), size=size)
    return buffer.getvalue()


def read_cams(path: Path) -> Cams:
    """Reads the CAMs of an image; raises an ImageError if their file is missing or damaged."""
    try:
        refuse_special_file(path)
        with np.load(path, allow_pickle=False) as arrays:
            height, width = arrays["size"]
            return Cams(arrays["keys"], arrays["cams"], (int(height), int(width)))
    except Exception as error:  # zipfile, zlib and numpy each have errors of their own
        raise ImageError("its CAMs are damaged: run stage=cams again") from error
