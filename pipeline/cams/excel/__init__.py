"""The training-free part of ExCEL (Yang et al., CVPR 2025)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipeline.cams.method import CamMethod
from pipeline.clip.settings import OPEN_BORDER
from pipeline.configuration.registry import Quirk, register
from pipeline.configuration.settings import setting
from pipeline.dense.settings import PassCamOptions
from pipeline.files.fingerprints import fingerprint

if TYPE_CHECKING:
    from pipeline.clip.frozen import Resources
    from pipeline.datasets.vocabulary import Vocabulary

IMAGENET_NORM = Quirk(
    "imagenet_norm", "ExCEL normalises pixels with ImageNet's mean and standard deviation"
)
TOKEN_NORM = Quirk(
    "token_norm", "ExCEL divides features by their length over the tokens, not over the channels"
)
HEAD_SUM = Quirk(
    "head_sum",
    "ExCEL's affinity sums the attention of the last blocks over heads, and averages that of the"
    " block before",
)


@dataclass
class ExcelOptions(PassCamOptions):
    """``cams=excel``: the training-free part of ExCEL (CVPR 2025).

    Attributes:
        affinity_blocks: first and last block of Ā, as offsets from the last block, which is 0.
        descriptors: a YAML or JSON file with sentences that describe each class, {class name:
            [sentences]}; without it classes are compared by their names alone.
        clusters: J, the number of attributes that the sentences are clustered into.
        kept: the share of attributes that count for a class, those most like it.
        blocks: the number of last blocks that have the second path.
        size: the side, in pixels, of the square that images are squashed to; null keeps the grid of
            the image.
    """

    affinity_blocks: list[int] = setting([-5, 0], at_least=-99, at_most=99, lengths=(2,))
    box_threshold: float = setting(0.79, at_least=0, at_most=1)
    descriptors: str | None = setting(
        None, changes="nothing", why="the key holds its sentences", stage="cams"
    )
    clusters: int = setting(112, at_least=1)
    kept: float = setting(0.9, above=0, at_most=1)
    blocks: int = setting(5, at_least=1)
    size: int | None = setting(None, at_least=1)

    def without_effect(self, prefix: str) -> Iterator[str]:
        """Yields a note on each setting that was given and changes nothing."""
        for name in ("clusters", "kept"):
            if self.descriptors is None and getattr(self, name) != getattr(type(self), name):
                yield f"{prefix}.{name} has no effect without {prefix}.descriptors"

    def without_whole_image(self, prefix: str) -> str:
        """Returns what does without the class token among the features."""
        return f"choose a dense method as {prefix}, see docs/compare-methods.md"

    def contents(self, vocabulary: Vocabulary) -> dict[str, Any]:
        """Returns what the file of sentences holds, for the key."""
        if self.descriptors is None:
            return {}
        from pipeline.cams.excel.text import read_descriptors  # imports PyTorch

        found = read_descriptors(self.descriptors, vocabulary.classes, self.clusters)
        return {"sentences": fingerprint(found)}


@register(
    "cams",
    "excel",
    ExcelOptions,
    label="ExCEL",
    uses_clip=True,
    quirks=(OPEN_BORDER, IMAGENET_NORM, TOKEN_NORM, HEAD_SUM),
    presets=("cams/excel_*", "experiment/excel_*"),
    reads=("cam_names", "backgrounds"),
    source="Yang et al., ExCEL, CVPR 2025, arXiv 2503.20826",
)
def build_excel(options: ExcelOptions, resources: Resources) -> CamMethod:
    """Builds ExCEL's CAMs."""
    from pipeline.cams.excel.method import Excel, ExcelEncoder  # imports PyTorch
    from pipeline.cams.excel.text import cluster_sentences, enrich_classes, read_descriptors
    from pipeline.cams.pass_method import text_of

    clip, quirks = resources.clip, resources.quirks
    encoder = ExcelEncoder(clip.encoder, options.size, imagenet_norm=quirks.imagenet_norm)
    text, background_text = text_of(options, resources)
    if options.descriptors is not None:
        classes, clusters = resources.vocabulary.classes, options.clusters
        found = read_descriptors(options.descriptors, classes, clusters)
        sentences = clip.embed_sentences([each for group in found for each in group])
        sentences = encoder.text_for_patches(sentences)
        text = enrich_classes(text, cluster_sentences(sentences, clusters), options.kept)
    return Excel(encoder, text, background_text, options, clip.batches, quirks)
