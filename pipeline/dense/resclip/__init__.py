"""ResCLIP: attention of middle blocks and of a first segmentation (Yang et al., CVPR 2025)."""

from dataclasses import dataclass

from pipeline.configuration.settings import setting
from pipeline.dense.settings import DenseSettings, register_dense


@dataclass
class ResClipSettings(DenseSettings):
    """ResCLIP: NACLIP's block L, with residual attention from middle blocks and from a first pass.

    Attributes:
        sigma: σ of NACLIP's Gaussian, in patches of 16 pixels.
        cross_blocks: first and last block of the cross-correlation, as offsets from the last block.
        cross_scale: τ_r, the factor of the whole attention.
        cross_share: λ_r, the share of the cross-correlation.
        feedback_scale: τ_s, the factor of the logits in the second pass.
        feedback_share: λ_s, the share of the semantic feedback in them.
        confidence: pixels of the first pass below this probability are background.
    """

    sigma: float = setting(5.0, above=0)
    cross_blocks: list[int] = setting([-6, -3], at_least=-99, at_most=0, lengths=(2,))
    cross_scale: float = setting(2.0, above=0)
    cross_share: float = setting(0.3, at_least=0, at_most=1)
    feedback_scale: float = setting(2.2, above=0)
    feedback_share: float = setting(0.7, at_least=0, at_most=1)
    confidence: float = setting(0.5, at_least=0, at_most=1)


register_dense(
    "resclip",
    ResClipSettings,
    label="ResCLIP",
    presets=("experiment/_resclip", "experiment/resclip_*"),
    source="Yang et al., ResCLIP, CVPR 2025, arXiv 2411.15851",
)("pipeline.dense.resclip.method:ResClip")
