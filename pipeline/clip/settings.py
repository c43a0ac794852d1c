"""The settings of CLIP, of the machine, and of the quirks of released code.

Reports name the quirks, so this module does not import PyTorch.
"""

from dataclasses import dataclass

from pipeline.clip.device import ATTENTIONS, PRECISIONS
from pipeline.engine.settings import setting

_ROUNDING = "the order of sums changes, and nothing else"
_SPEED = "results do not depend on it"

TEMPLATES = ("tagclip", "clip_es", "piaa", "imagenet")
"""The sets of prompt templates, whose sentences :data:`pipeline.clip.text.TEMPLATES` holds."""


@dataclass
class ClipSettings:
    """The choice of the CLIP.

    Attributes:
        name: what tables call it.
        model: open_clip's name of the architecture; none reads it off the checkpoint.
        pretrained: open_clip's name of the weights, which also says how pixels are normalised.
        checkpoint: a file of weights, in place of a download.
    """

    name: str = setting("", changes="nothing", why="the model and its weights are in the key")
    model: str | None = None
    pretrained: str | None = None
    checkpoint: str | None = setting(
        None, changes="nothing", why="the fingerprint of its contents is in the key"
    )


@dataclass
class ImageSettings:
    """The ``images`` group of the configuration.

    Attributes:
        longest_side: CAMs and predictions are computed at most at this size in pixels; null for no
            limit.
        most_patches: larger images are shrunk to so many patches for CLIP, which bounds the memory;
            no image of VOC or COCO has as many.
    """

    longest_side: int | None = setting(None, at_least=1)
    most_patches: int = setting(4096, at_least=1)


@dataclass
class RuntimeSettings:
    """The machine.

    Attributes:
        device: "cpu", "cuda", "cuda:1", …; "auto" takes a GPU if there is one.
        precision: of CLIP's image tower; "fp16" requires a GPU.
        attention: of CLIP's image tower on a CPU; "auto" takes the "fused" one where the CPU has
            AMX and there is a C++ compiler, and otherwise "by_head".
        workers: processes and threads beside the model; none takes the number of cores.
        batch_size: images that CLIP processes together; none takes 1 on a CPU and 16 on a GPU.
        crop_batch_size: crops that CWR classifies together; none takes 4 on a CPU, 64 on a GPU.
        most_waiting: decoded images that may wait for others of their size; none takes four
            batches, and at least 8.
        threads: of torch in this process; none leaves the choice to torch.
        one_pass: whether processes make the masks of images while the model computes the tags and
            CAMs of the next ones; none does so with a GPU.
        wait: seconds to wait for another run that writes to the same folder.
        max_failures: images that may fail before a run ends with exit code 2: a number, or a share
            below 1; none takes 10 images or 1%, whichever is more, but not all.
    """

    device: str = setting("auto", changes="rounding", why=_ROUNDING)
    precision: str = setting("fp32", choices=PRECISIONS)
    attention: str = setting("auto", choices=ATTENTIONS, changes="rounding", why=_ROUNDING)
    workers: int | None = setting(None, at_least=1, at_most=1024, changes="nothing", why=_SPEED)
    batch_size: int | None = setting(None, at_least=1, changes="rounding", why=_ROUNDING)
    crop_batch_size: int | None = setting(None, at_least=1, changes="rounding", why=_ROUNDING)
    most_waiting: int | None = setting(None, at_least=1, changes="rounding", why=_ROUNDING)
    threads: int | None = setting(None, at_least=1, at_most=1024, changes="rounding", why=_ROUNDING)
    one_pass: bool | None = setting(None, changes="nothing", why=_SPEED)
    wait: float = setting(0, at_least=0, changes="nothing", why=_SPEED)
    max_failures: float | None = setting(None, at_least=0, changes="nothing", why=_SPEED)


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
        piaa_batch: PIAA results depend on the 128 images of a batch of SC-CLIP.
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
