"""What is in one image, and where."""

import io
from dataclasses import dataclass, field

import numpy as np
from PIL import Image

from pipeline.errors import shown
from pipeline.files.images import AnyImage, encode_png, limit_longest_side, to_image
from pipeline.files.label_images import BACKGROUND

_LONGEST_SIDE = 1024  # pixels, of a picture


@dataclass(frozen=True, repr=False)
class Labelling:
    """What is in one image, and where. A notebook shows it as its picture.

    Attributes:
        scores: n float32 in [0, 1], one for each class.
        tags: K class indices from 0, sorted; there may be none.
        names: the names of these K classes.
        cams: K×h×w float16 in [0, 1], a CAM for each tag on CLIP's grid of patches.
        mask: H×W uint8 in the image's size; 0 background, k+1 class k, 255 unsure
            (``masks.confidence``).
        image: the image as it was given; a path is read again for the picture.
        classes: the names of all n classes.
        palette: n+1 colours, RGB in [0, 255], the background's first.
        threshold: what the score of a tag exceeds, unless it is the only one and min_score is 0.
    """

    scores: np.ndarray
    tags: tuple[int, ...]
    names: tuple[str, ...]
    cams: np.ndarray
    mask: np.ndarray
    image: AnyImage = field(compare=False)
    classes: tuple[str, ...] = field(compare=False)
    palette: list[tuple[int, int, int]] = field(compare=False)
    threshold: float = 0.0

    def __repr__(self) -> str:
        height, width = self.mask.shape
        return f"<Labelling of {width}×{height} pixels: {shown(', '.join(self.names) or 'no tag')}>"

    def _repr_png_(self) -> bytes:
        """Draws the mask over the image, with a legend; raises a UserError if its file is gone."""
        from pipeline.report.page.painting import overlay  # imports matplotlib

        small = limit_longest_side(to_image(self.image), _LONGEST_SIDE)
        return encode_png(overlay(small, self.mask, (BACKGROUND, *self.classes), self.palette))

    def show(self) -> None:
        """Shows the picture below the cell of a notebook, or in the system's viewer."""
        from rich.console import Console

        if Console().is_jupyter:
            from IPython.display import display

            display(self)
        else:
            Image.open(io.BytesIO(self._repr_png_())).show()
