"""The quirks of released code. Reports name them, so that this module does without torch."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.engine.settings import setting


@dataclass
class Quirks:
    """``compat``: which quirks of the released code are kept; see docs/algorithms.md.

    A quirk is in the keys of the methods that declare it, and ``exif`` in those of all stages that
    read images.

    Attributes:
        name: what tables call the choice.
        exif: the EXIF orientation of an image is ignored.
        position_fp16: the interpolated position embedding is rounded to float16.
        position_scale: label maps of dense methods interpolate it by a factor that is a bit larger.
        open_border: a box that touches the bottom or right border loses its last row or column.
        cwr_stop: an empty box ends CWR for all later classes.
        crf_bgr: the CRF compares a BGR image minus a mean, wrapped around to bytes.
        crf_fp16: the CRF's unary energies are computed in float16.
        imagenet_norm: ExCEL normalises pixels with ImageNet's mean and standard deviation.
        token_norm: ExCEL divides features by their length over the tokens, not over the channels.
        head_sum: ExCEL's affinity sums the attention of the last blocks over heads, and averages
            that of the block before.
        empty_class: PIAA keeps no patch of a class in which none stands out.
        piaa_batch: PIAA mixes up the 128 images of a batch of SC-CLIP.
    """

    name: str = setting("", changes="nothing", why="each quirk is in the key")
    exif: bool = False
    position_fp16: bool = False
    open_border: bool = False
    cwr_stop: bool = False
    crf_bgr: bool = False
    crf_fp16: bool = False
    imagenet_norm: bool = False
    token_norm: bool = False
    head_sum: bool = False
    empty_class: bool = False
    piaa_batch: bool = False
    position_scale: bool = False
