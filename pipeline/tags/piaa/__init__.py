"""PIAA: a tagger that learns a prototype of every class from unlabelled images.

Wang et al., ICML 2026, arXiv 2605.25821; docs/other-methods.md, "Tags: PIAA".
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.clip.settings import OPEN_BORDER
from pipeline.configuration.registry import TEMPLATES, Quirk, register
from pipeline.configuration.settings import setting
from pipeline.errors import UserError
from pipeline.tags.options import CWR_STOP, ScoredTagOptions

if TYPE_CHECKING:
    from types import SimpleNamespace

    from pipeline.clip.frozen import Resources
    from pipeline.tags.tagger import Tagger

EMPTY_CLASS = Quirk("empty_class", "PIAA keeps no patch of a class in which none stands out")
PIAA_BATCH = Quirk("piaa_batch", "PIAA results depend on the 128 images of a batch of SC-CLIP")

BATCH = 128
"""Images of a batch, in the order of their list; the last batch has fewer."""


def batch_of(options: PiaaOptions, quirks: SimpleNamespace) -> int:
    """Returns the size of the batch on which PIAA's results depend; 0 if images are independent.

    Only centre squares do, since images of other sizes have no batch in common.
    """
    return BATCH if quirks.piaa_batch and options.encoder == "sc_clip" and options.crop else 0


@dataclass
class PiaaOptions(ScoredTagOptions):
    """``tags=piaa``: PIAA (ICML 2026), with the constants of VOC.

    Attributes:
        min_score: always 0: the scores of an image sum to 1, and ``alpha`` is the only threshold.
        alpha: α of each image's threshold. No value is published; 0.2 is the best of
            ``experiment=alpha_piaa``.
        encoder: the dense method that gives the features of patches.
        templates: the set of prompt templates; "piaa" is "a photo of a {}".
        with_backgrounds: whether the backgrounds of the data set are learned as further classes.
        crop: whether images are cut to the centre square of CLIP's native size, as published; else
            they have their own size, and are not cropped.
        temperature: the factor of cosine similarities in the probabilities that fill the bank.
        bank_size: K, the patches of least entropy that are kept for each class.
        rescoring_temperature: T, the factor of logits in the probabilities by which patches of the
            bank are kept.
        patch_temperature: the temperature of the softmax of patches.
        local_factor: α of the softmax over the classes' best patches.
        global_factor: β of the softmax over the class token's cosine similarities.
        global_share: the share of the class token in a score.
        reidentify: whether CWR follows, by the probabilities of patches.
    """

    min_score: float = setting(
        0.0, at_least=0, at_most=1, changes="nothing", why="PIAA's scores sum to 1"
    )
    alpha: float = setting(0.2, at_least=0, at_most=1)
    encoder: str = setting("sclip", choices=("sclip", "itaclip", "sc_clip"))
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

    @property
    def uses_alpha(self) -> bool:
        """Whether CWR proposes crops by α."""
        return self.reidentify

    def without_whole_image(self, prefix: str) -> str:
        """Returns what does without the class token's share of a score."""
        return f"choose {prefix}=tagclip {prefix}.reidentify=false"

    def validate(self, prefix: str) -> None:
        """Refuses a least score."""
        if self.min_score > 0:
            raise UserError(
                f"{prefix}.min_score={self.min_score} would leave hardly a tag, since PIAA's scores"
                f" of an image sum to 1: give {prefix}.min_score=0, and choose by {prefix}.alpha"
            )


@register(
    "tags",
    "piaa",
    PiaaOptions,
    label="PIAA",
    uses_clip=True,
    quirks=(EMPTY_CLASS, PIAA_BATCH, OPEN_BORDER, CWR_STOP),
    templates={"piaa": ("a photo of a {}",)},
    presets=("tags/piaa_*", "experiment/piaa_*", "experiment/alpha_piaa"),
    batch_of=batch_of,
    learns="pipeline.tags.piaa.bank:learn_prototypes",
    reads=("classes", "tag_names", "backgrounds"),
    source="Wang et al., PIAA, ICML 2026, arXiv 2605.25821",
)
def build_piaa(options: PiaaOptions, resources: Resources, learned: Path) -> Tagger:
    """Builds PIAA with the prototypes that follow from the bank in a folder."""
    from pipeline.tags.piaa.bank import read_prototypes  # imports PyTorch
    from pipeline.tags.piaa.method import Piaa
    from pipeline.tags.piaa.patches import build_patches
    from pipeline.tags.reidentification import Cwr

    patches, text = build_patches(options, resources)
    device, empty_class = resources.device, resources.quirks.empty_class
    names = patches.encoder.text_for_patches(text)
    prototypes = read_prototypes(learned, names, options, empty_class=empty_class, device=device)
    count = resources.num_classes
    cwr = Cwr(patches.encoder, text, count, options.alpha, resources.quirks)
    return Piaa(patches, text, prototypes, count, options, cwr)
