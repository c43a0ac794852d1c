"""TagCLIP: patch-level classification, DMAR and CWR (Lin et al., AAAI 2024)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline.clip.dimensions import Dimensions, block_window
from pipeline.clip.settings import OPEN_BORDER
from pipeline.configuration.registry import TEMPLATES, register
from pipeline.configuration.settings import setting
from pipeline.tags.options import CWR_STOP, ScoredTagOptions

if TYPE_CHECKING:
    from pipeline.clip.frozen import Resources
    from pipeline.tags.tagger import Tagger

VARIANTS = {
    "clip": "CLIP, class token, image squeezed to the native size",
    "clip_native": "CLIP, class token, image at its own size",
    "coarse_last": "best patch, last block's attention kept",
    "coarse": "best patch, last block's attention the identity (coarse)",
    "dmar": "coarse + DMAR",
    "cwr": "coarse + DMAR + CWR (TagCLIP)",
}
"""The rows of the ablation, in the order of the paper."""


@dataclass
class TagClipOptions(ScoredTagOptions):
    """``tags=tagclip``: TagCLIP (AAAI 2024). CWR takes its θ from the same ``alpha``.

    Attributes:
        templates: the set of prompt templates; "tagclip" has the 80 of ImageNet and five of scenes.
        attention_blocks: first and last block that DMAR averages. A number above 0 counts from 1;
            0 and below are offsets from the last block, which is 0.
        votes: the number of blocks whose attention must be above average.
        reidentify: whether CWR runs.
        squeeze: whether images are squeezed to the native square; TagCLIP keeps their own size.
        variants: rows of the ablation to store as well.
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

    @property
    def uses_alpha(self) -> bool:
        """Whether CWR proposes crops by α."""
        return self.reidentify

    @property
    def shares_pass(self) -> bool:
        """Whether CAMs can be computed in the pass: those of squeezed images cannot."""
        return not self.squeeze

    def without_whole_image(self, prefix: str) -> str:
        """Returns what does without CWR and the scores of the class token."""
        remedies = [f"give {prefix}.reidentify=false"] if self.reidentify else []
        if whole := [name for name in self.variants if name in ("clip", "clip_native")]:
            remedies.append(f"leave {' and '.join(whole)} out of {prefix}.variants")
        return " and ".join(remedies)

    def validate_for(self, clip: Dimensions, prefix: str) -> None:
        """Refuses blocks that a CLIP does not have."""
        block_window(f"{prefix}.attention_blocks", self.attention_blocks, clip.depth)


@register(
    "tags",
    "tagclip",
    TagClipOptions,
    label="TagCLIP",
    uses_clip=True,
    quirks=(OPEN_BORDER, CWR_STOP),
    templates={
        "tagclip": (
            "imagenet",
            "there is a {} in the scene.",
            "there is the {} in the scene.",
            "this is a {} in the scene.",
            "this is the {} in the scene.",
            "this is one {} in the scene.",
        )
    },
    presets=("tags/tagclip_*", "experiment/tagclip_*", "experiment/dmar_*"),
    variants=VARIANTS,
    reads=("classes", "tag_names", "backgrounds"),
    source="Lin et al., TagCLIP, AAAI 2024, arXiv 2312.12828, figure 2",
)
def build_tagclip(options: TagClipOptions, resources: Resources) -> Tagger:
    """Builds TagCLIP."""
    from pipeline.tags.tagclip.method import TagClip  # imports PyTorch

    clip, vocabulary = resources.clip, resources.vocabulary
    text = clip.embed(vocabulary.tag_names, vocabulary.backgrounds, options.templates)
    given = text, resources.num_classes, options, clip.batches, resources.quirks
    return TagClip(clip.encoder, *given)
