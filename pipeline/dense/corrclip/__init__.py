"""CorrCLIP: patches attend to their region, as far as it is alike (Zhang et al., ICCV 2025)."""

from dataclasses import dataclass

from pipeline.clip.settings import SecondSettings, second_backbone
from pipeline.configuration.settings import setting
from pipeline.datasets.regions import RegionSettings
from pipeline.dense.settings import DenseSettings, register_dense


@dataclass
class CorrClipSettings(RegionSettings, DenseSettings):
    """CorrCLIP: regions, and a second backbone, decide which patches attend to each other.

    Attributes:
        second: the second backbone.
        merge: the cosine distance, beyond that of the most similar regions, up to which regions are
            merged.
        sharpness: the factor of similarities in the attention, 1/τ.
        spatial_blocks: first and last block whose tokens are averaged for the spatial branch, as
            offsets from the last one.
        spatial: the weight of the spatial branch.
        semantic: the weight of the semantic branch.
        correct: whether each region of a label map takes its most frequent label, in
            ``masks=dense``.
    """

    second: SecondSettings = second_backbone("dino_vitb8")
    merge: float = setting(0.2, at_least=0, at_most=2)
    sharpness: float = setting(4.0, above=0)
    spatial_blocks: list[int] = setting([-6, -2], at_least=-99, at_most=-1, lengths=(2,))
    spatial: float = setting(1.0, at_least=0)
    semantic: float = setting(0.5, at_least=0)
    correct: bool = True


register_dense(
    "corrclip",
    CorrClipSettings,
    label="CorrCLIP",
    presets=("experiment/corrclip_*",),
    source="Zhang et al., CorrCLIP, ICCV 2025, arXiv 2411.10086",
)("pipeline.dense.corrclip.method:CorrClip")
