"""The settings of the taggers that use CLIP, and where they are computed.

Nothing here imports PyTorch, so that a command that computes nothing starts at once.
"""

from dataclasses import dataclass
from typing import Any

from omegaconf import MISSING

from pipeline.clip.dimensions import Dimensions, block_window
from pipeline.clip.settings import TEMPLATES
from pipeline.engine.registry import register
from pipeline.engine.settings import setting
from pipeline.errors import UserError
from pipeline.tags.options import ScoredTagOptions, TagOptions

VARIANTS = ("clip", "clip_native", "coarse_last", "coarse", "dmar", "cwr")
"""The rows of the ablation: CLIP's class token on the image squeezed to the native size, and at the
image's own size; the best patch with block L's attention, and with the identity instead; after
DMAR; after CWR."""

ENCODERS = ("sclip", "itaclip", "sc_clip")

BATCH = 128
"""Images of a batch, in the order of their list; the last batch has fewer."""


def batch_of(options: Any, quirks: Any) -> int:  # noqa: ANN401
    """Returns the size of the batch on which PIAA's results depend; 0 if images are independent.

    Only centre squares do, since images of other sizes have no batch in common.
    """
    batch_dependent = quirks.piaa_batch and options.encoder == "sc_clip" and options.crop
    return BATCH if batch_dependent else 0


@dataclass
class ClassTokenOptions(ScoredTagOptions):
    """``tags=clip``: CLIP's class token on the image squeezed to the native size.

    Attributes:
        templates: the set of templates.
    """

    templates: str = setting("tagclip", choices=TEMPLATES)


@dataclass
class TagClipOptions(ScoredTagOptions):
    """``tags=tagclip``: TagCLIP (AAAI 2024). CWR takes its θ from the same ``alpha``.

    Attributes:
        templates: the set of templates; "tagclip" has the 80 of ImageNet and five of scenes.
        attention_blocks: first and last block that DMAR averages. A number above 0 counts from 1;
            0 and below are offsets from the last block, which is 0.
        votes: blocks that must have an attention above average.
        reidentify: whether CWR runs.
        squeeze: whether images are squeezed to the native square; TagCLIP keeps their own size.
        variants: rows of the ablation to store as well, of :data:`VARIANTS`.
    """

    templates: str = setting("tagclip", choices=TEMPLATES)
    attention_blocks: list[int] = setting([-3, -1], at_least=-99, at_most=99, lengths=(2,))
    votes: int = setting(4, at_least=0)
    reidentify: bool = True
    squeeze: bool = False
    variants: list[str] = setting(
        ["coarse", "dmar", "cwr"],
        choices=VARIANTS,
        changes="nothing",
        why="further rows of scores, beside those that count",
    )

    def validate_for(self, clip: Dimensions, prefix: str) -> None:
        """Refuses blocks that a CLIP does not have."""
        block_window(f"{prefix}.attention_blocks", self.attention_blocks, clip.depth)


@dataclass
class PiaaOptions(ScoredTagOptions):
    """``tags=piaa``: PIAA (ICML 2026), with the constants of VOC.

    Attributes:
        min_score: 0, since the scores of an image sum to 1: ``alpha`` is the only threshold.
        alpha: α of each image's threshold. None is published; 0.2 is the best of
            ``experiment=alpha_piaa``.
        encoder: the dense method that gives the features of patches.
        templates: the set of templates; "piaa" is "a photo of a {}".
        with_backgrounds: whether the backgrounds of the data set are learned as further classes.
        crop: whether images are cut to the centre square of CLIP's native size, as published; else
            they have their own size, and are not cropped.
        temperature: the factor of cosine similarities in the probabilities that fill the bank.
        bank_size: K, the patches of least entropy that are kept for each class.
        rescoring_temperature: T, the factor of logits in the probabilities by which patches of the
            bank are kept.
        patch_temperature: what the logits of patches are divided by in their softmax.
        local_factor: α of the softmax over the classes' best patches.
        global_factor: β of the softmax over the class token's cosine similarities.
        global_share: the share of the class token in a score.
        reidentify: whether CWR follows, by the probabilities of patches.
    """

    min_score: float = setting(
        0.0, at_least=0, at_most=1, changes="nothing", why="PIAA's scores sum to 1"
    )
    alpha: float = setting(0.2, at_least=0, at_most=1)
    encoder: str = setting("sclip", choices=ENCODERS)
    templates: str = setting("piaa", choices=TEMPLATES)
    with_backgrounds: bool = False
    crop: bool = False
    temperature: float = setting(60.0, above=0)
    bank_size: int = setting(512, at_least=1)
    rescoring_temperature: float = setting(100.0, above=0)
    patch_temperature: float = setting(500.0, above=0)
    local_factor: float = setting(200.0, above=0)
    global_factor: float = setting(80.0, above=0)
    global_share: float = setting(0.1, at_least=0, at_most=1)
    reidentify: bool = False

    def validate(self, prefix: str) -> None:
        """Refuses a least score."""
        if self.min_score > 0:
            raise UserError(
                f"{prefix}.min_score={self.min_score} would leave hardly a tag, since PIAA's scores"
                f" of an image sum to 1: give {prefix}.min_score=0, and choose by {prefix}.alpha"
            )


register(
    "tags",
    "clip",
    ClassTokenOptions,
    uses_clip=True,
    reads=("classes", "tag_names", "backgrounds"),
    source="Radford et al., CLIP, ICML 2021, arXiv 2103.00020",
    section="2. Tags: TagCLIP",
)("pipeline.tags.baseline:build_class_token")

register(
    "tags",
    "tagclip",
    TagClipOptions,
    uses_clip=True,
    quirks=("open_border", "cwr_stop"),
    variants=VARIANTS,
    shares_pass=True,
    reads=("classes", "tag_names", "backgrounds"),
    source="Lin et al., TagCLIP, AAAI 2024, arXiv 2312.12828, figure 2",
    section="2. Tags: TagCLIP",
)("pipeline.tags.tagclip:build_tagclip")

register(
    "tags",
    "piaa",
    PiaaOptions,
    uses_clip=True,
    quirks=("empty_class", "piaa_batch", "open_border", "cwr_stop"),
    batch=batch_of,
    learns="pipeline.tags.piaa:learn",
    reads=("classes", "tag_names", "backgrounds"),
    source="Wang et al., PIAA, ICML 2026, arXiv 2605.25821",
    section="Tags: PIAA",
)("pipeline.tags.piaa:build_piaa")


@dataclass
class GivenTagOptions(TagOptions):
    """What every choice of ``tags=`` has whose tags are given."""

    min_score: float = setting(
        0.0, at_least=0, at_most=1, changes="nothing", why="given tags have no scores"
    )


@dataclass
class GroundTruthOptions(GivenTagOptions):
    """``tags=ground_truth``: the classes that the data set says are in the image."""


@dataclass
class TagListOptions(GivenTagOptions):
    """``tags=file``: a list with an image id and class indices from 0 on each line.

    Attributes:
        path: the file, in the format of ``tags.txt``.
    """

    path: str = MISSING


register("tags", "ground_truth", GroundTruthOptions, is_stage=True, reads=("classes",))(
    "pipeline.tags.given:GroundTruthTags"
)

register("tags", "file", TagListOptions, is_stage=True, reads=("classes",))(
    "pipeline.tags.given:ListedTags"
)
