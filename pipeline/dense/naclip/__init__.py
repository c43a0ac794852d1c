"""NACLIP: patches attend to their neighbourhood (Hajimiri et al., WACV 2025, section 3)."""

from dataclasses import dataclass

from pipeline.configuration.settings import setting
from pipeline.dense.settings import DenseSettings, register_dense


@dataclass
class NaClipSettings(DenseSettings):
    """NACLIP: the attention of block L is softmax(KKᵀ/√d + ω); no residual connection, no MLP.

    Attributes:
        sigma: σ of the Gaussian ω around each patch, in patches of 16 pixels.
    """

    sigma: float = setting(5.0, above=0)


register_dense(
    "naclip",
    NaClipSettings,
    label="NACLIP",
    presets=("experiment/_naclip", "experiment/naclip_*"),
    source="Hajimiri et al., NACLIP, WACV 2025, arXiv 2404.08181",
)("pipeline.dense.naclip.method:NaClip")
