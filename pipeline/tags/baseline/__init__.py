"""The baseline: CLIP's class token on the whole image, squeezed to the native size."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline.configuration.registry import TEMPLATES, register
from pipeline.configuration.settings import setting
from pipeline.tags.options import ScoredTagOptions

if TYPE_CHECKING:
    from pipeline.clip.frozen import Resources
    from pipeline.tags.tagger import Tagger


@dataclass
class ClassTokenOptions(ScoredTagOptions):
    """``tags=clip``: CLIP's class token on the image squeezed to the native size.

    Attributes:
        templates: the set of prompt templates.
    """

    templates: str = setting("tagclip", choices=TEMPLATES)

    def without_whole_image(self, prefix: str) -> str:
        """Returns what does without the class token's score."""
        return f"choose {prefix}=tagclip {prefix}.reidentify=false"


@register(
    "tags",
    "clip",
    ClassTokenOptions,
    label="CLIP, class token",
    uses_clip=True,
    reads=("classes", "tag_names", "backgrounds"),
    source="Radford et al., CLIP, ICML 2021, arXiv 2103.00020",
)
def build_class_token(options: ClassTokenOptions, resources: Resources) -> Tagger:
    """Builds the baseline."""
    from pipeline.tags.baseline.method import GlobalClip  # imports PyTorch

    clip, vocabulary = resources.clip, resources.vocabulary
    text = clip.embed(vocabulary.tag_names, vocabulary.backgrounds, options.templates)
    return GlobalClip(clip.encoder, text, resources.num_classes, clip.batches.images)
