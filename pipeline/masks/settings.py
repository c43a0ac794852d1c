"""The settings of the mask refiners, and where they are computed.

Nothing here imports PyTorch, so that a command that computes nothing starts at once.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING

from pipeline.clip.dimensions import Dimensions
from pipeline.configuration.registry import TEMPLATES, Quirk, register
from pipeline.configuration.settings import setting
from pipeline.datasets.regions import RegionSettings
from pipeline.datasets.settings import CrfOptions
from pipeline.dense.settings import REMAINDERS
from pipeline.errors import UserError
from pipeline.masks.refiner import MaskOptions

_MAX_SIDE = 16_384


@dataclass
class PseudoMaskOptions(MaskOptions):
    """``masks=crf``: the best of the CAMs and the background for each pixel, after a dense CRF.

    Attributes:
        crf: the CRF's constants; null leaves the CRF out.
    """

    crf: CrfOptions | None = field(default_factory=CrfOptions)

    def validate(self, prefix: str) -> None:
        """Refuses a confidence without a CRF, which gives the probabilities."""
        if self.confidence and self.crf is None:
            raise UserError(
                f"{prefix}.confidence requires a CRF, which {prefix}.crf=null leaves out: choose"
                f" masks=crf or {prefix}.confidence=0"
            )


def method_word(settings: Mapping[str, Any]) -> str:
    """Returns what tables call the method of a stage's settings: a CRF left out is ``argmax``."""
    method = settings.get("method", "")
    return "argmax" if method == "crf" and settings.get("crf", "") is None else method


register(
    "masks",
    "crf",
    PseudoMaskOptions,
    label="CRF",
    quirks=(
        Quirk("crf_bgr", "the CRF compares a BGR image minus a mean, wrapped around to bytes"),
        Quirk("crf_fp16", "the CRF's unary energies are computed in float16"),
    ),
    presets=("masks/argmax", "masks/crf_*"),
    reads=(),
    source="Krähenbühl and Koltun, NIPS 2011; constants of Lin et al., CLIP-ES, arXiv 2212.09506",
)("pipeline.masks.pseudo_mask:PseudoMask")


@dataclass
class PamrOptions(MaskOptions):
    """``masks=pamr``: the best of the CAMs and the background for each pixel, after PAMR.

    Attributes:
        iterations: how often scores are averaged over neighbours.
        dilations: distances of the neighbours in pixels.
        bandwidth: the divisor of differences in colour; a smaller one separates more colours.
    """

    iterations: int = setting(10, at_least=0, at_most=1000)
    dilations: list[int] = setting([8, 16], at_least=1, at_most=1000, lengths=range(1, 100))
    bandwidth: float = setting(0.1, at_least=1e-3, at_most=1e3)


@dataclass
class ParOptions(PamrOptions):
    """``masks=par``: the best of the CAMs and the background for each pixel, after PAR.

    Attributes:
        position_weight: the weight of the neighbours' distances, beside that of their colours.
        guide_side: the image is first squashed to a square of this side, in pixels, and enlarged
            again, which blurs it; published code does so with 320. Null leaves it as it is.
    """

    iterations: int = setting(20, at_least=0, at_most=1000)
    dilations: list[int] = setting(
        [1, 2, 4, 8, 12, 24], at_least=1, at_most=1000, lengths=range(1, 100)
    )
    bandwidth: float = setting(0.3, at_least=1e-3, at_most=1e3)
    position_weight: float = setting(0.01, at_least=0, at_most=1e3)
    guide_side: int | None = setting(None, at_least=1, at_most=16_384)


register(
    "masks",
    "pamr",
    PamrOptions,
    label="PAMR",
    on_gpu=True,
    reads=(),
    source="Araslanov and Roth, CVPR 2020, arXiv 2005.08104",
)("pipeline.masks.pixel_adaptive:Pamr")

register(
    "masks",
    "par",
    ParOptions,
    label="PAR",
    on_gpu=True,
    reads=(),
    source="Ru et al., AFA, CVPR 2022, arXiv 2203.02664; as in arXiv 2503.20826",
)("pipeline.masks.pixel_adaptive:Par")


@dataclass
class DenseMaskOptions(MaskOptions):
    """``masks=dense``: each pixel's best name by the dense method of ``cams=``, without tags.

    Attributes:
        names: the names that pixels are compared with: a list that comes with the package, or the
            path of a file with a line for each class, its names separated by ", " (``\\,`` is a
            comma in a name); an additional first line is the background. Null takes the data set's
            names for CAMs and its backgrounds, "classes" the names of its classes.
        templates: the set of prompt templates; "imagenet" has the 80 of CLIP.
        short_side: the shorter side, in pixels, to which an image is resized.
        long_side: the largest longer side, in pixels, to which an image is resized.
        window: the side of the square windows in pixels; null takes the CLIP's native size, and 0
            processes the whole image.
        stride: pixels between windows; null takes half a window.
        remainder: "stretch" ignores the pixels beside the last whole patch, and stretches the
            similarities over them; "pad" completes the patches with zeros; "enlarge" resizes the
            window to whole patches.
        resize: how the image is resized: as OpenCV does, bilinearly; or as "pillow" does, bicubic,
            with a longer side that is cut and not rounded.
        align_corners: whether similarities are enlarged to a window with aligned corners.
        window_softmax: whether each window gives the probabilities of names instead of their
            similarities; a mean over windows then weighs them.
        enlarge: "similarities" of patches, bilinearly, or their "features", bicubic.
        background: the similarity that pixels of a class must exceed; null if the names include the
            background.
        temperature: the factor of cosine similarities in the softmax; null takes CLIP's.
        min_probability: pixels whose highest probability is lower become background.
        min_area: classes that cover at most this share of an image's foreground are removed.
        pamr_iterations: iterations of PAMR, which refines similarities; 0 leaves it out.
        pamr_dilations: distances of the neighbours in PAMR, in pixels.
        beta: only later rounds use it, since the names decide whether there is a background.
    """

    names: str | None = None
    templates: str = setting("imagenet", choices=TEMPLATES)
    short_side: int = setting(336, at_least=1, at_most=_MAX_SIDE)
    long_side: int = setting(2048, at_least=1, at_most=_MAX_SIDE)
    window: int | None = setting(None, at_least=0, at_most=_MAX_SIDE)
    stride: int | None = setting(None, at_least=1, at_most=_MAX_SIDE)
    remainder: str = setting("stretch", choices=REMAINDERS)
    resize: str = setting("opencv", choices=("opencv", "pillow"))
    align_corners: bool = False
    window_softmax: bool = False
    enlarge: str = setting("similarities", choices=("similarities", "features"))
    background: float | None = setting(None, at_least=-1, at_most=1)
    temperature: float | None = setting(None, above=0)
    min_probability: float = setting(0.0, at_least=0, at_most=1)
    min_area: float = setting(0.0, at_least=0, at_most=1)
    pamr_iterations: int = setting(0, at_least=0, at_most=1000)
    pamr_dilations: list[int] = setting([8, 16], at_least=1, at_most=1000, lengths=range(1, 100))
    beta: float | None = setting(
        1.0, above=0, changes="nothing", why="the names decide whether there is a background"
    )

    def validate(self, prefix: str) -> None:
        """Refuses gaps between windows."""
        self._refuse_gaps(self.window, prefix)

    def validate_for(self, clip: Dimensions, prefix: str) -> None:
        """Refuses windows that are smaller than a patch, or leave gaps."""
        side = self.side(clip.native_size)
        if 0 < side < clip.patch_size:
            raise UserError(
                f"{prefix}.window={side} is smaller than a patch of this CLIP: give at least"
                f" {clip.patch_size}, or 0 for the whole image"
            )
        self._refuse_gaps(side, prefix)

    def side(self, native_size: int) -> int:
        """Returns the side of the windows in pixels, for a CLIP of a native size."""
        return native_size if self.window is None else self.window

    def _refuse_gaps(self, side: int | None, prefix: str) -> None:
        if side and self.stride and self.stride > side:
            raise UserError(
                f"{prefix}.stride={self.stride} leaves gaps between windows of {side} pixels: give"
                f" at most {side}"
            )


@dataclass
class RegionOptions(MaskOptions, RegionSettings):
    """``masks=regions``: the best of the CAMs and the background for each region."""


register(
    "masks",
    "regions",
    RegionOptions,
    is_stage=True,
    reads=(),
    source="SLIC: Achanta et al., TPAMI 2012",
)("pipeline.masks.regions:RegionMasks")

register(
    "masks",
    "dense",
    DenseMaskOptions,
    uses_clip=True,
    quirks=(
        Quirk(
            "position_scale",
            "label maps of dense methods interpolate the position embedding by a factor that is a"
            " bit larger",
        ),
    ),
    is_stage=True,
    reads=(),
    source="the released code of the dense methods",
)("pipeline.masks.dense_stage:DenseMasks")


@dataclass
class MaskFileOptions(MaskOptions):
    """``masks=file``: masks of people or of other programs, which need neither tags nor CAMs.

    Attributes:
        path: a folder of label PNGs or of labelme's files, or the JSON of COCO or Label Studio; for
            several splits a folder with one of these for each, or one of the split that is trained
            on, and the others then have no masks.

    The settings of annotations are part of the key here.
    """

    path: str = setting(MISSING, is_path=True)
    values: list[int] | None = setting(None, at_least=0, at_most=65_535)
    colours: str | None = None
    palette: str = setting("index", choices=("index", "colour"))
    join: Any = None
    min_score: float = setting(0.0, at_least=0, at_most=1)

    def validate(self, prefix: str) -> None:
        """Refuses a confidence: files have no probabilities."""
        if self.confidence:
            raise UserError(
                f"{prefix}.confidence requires probabilities, which masks=file does not have"
            )


register(
    "masks", "file", MaskFileOptions, label="masks of a file", is_stage=True, reads=("classes",)
)("pipeline.masks.given:GivenMasks")


@dataclass
class GroundTruthMaskOptions(MaskOptions):
    """``masks=ground_truth``: the data set's masks, for a network that is fully supervised."""

    def validate(self, prefix: str) -> None:
        """Refuses what would change the ground truth."""
        for name in ("confidence", "corrections"):
            if getattr(self, name):
                raise UserError(f"masks=ground_truth does not take {prefix}.{name}: leave it out")


register("masks", "ground_truth", GroundTruthMaskOptions, is_stage=True, reads=("classes",))(
    "pipeline.masks.given:GroundTruthMasks"
)
