"""LPOSS: names spread over a graph of the patches of all windows (Stojnić et al., CVPR 2025)."""

from dataclasses import dataclass

from pipeline.clip.settings import SecondSettings
from pipeline.configuration.settings import setting
from pipeline.dense.settings import DenseSettings, register_dense


@dataclass
class LpossSettings(DenseSettings):
    """LPOSS: the similarities of the value path spread over patches that are alike.

    Attributes:
        second: the second backbone, whose values of the last block decide which patches are alike.
        neighbours: k, the number of neighbours of each patch.
        exponent: γ, the power of the similarity of two patches in the weight of their edge.
        distance_weight: σ, how fast the weight of an edge falls with its length in pixels.
        alpha: α, how far names spread.
        steps: steps of conjugate gradients; the published number does not converge.
        pixels: whether names then spread over the pixels of the image as well, as in LPOSS+.
    """

    second: SecondSettings = setting(SecondSettings("dino_vitb16"))
    neighbours: int = setting(400, at_least=1)
    exponent: float = setting(3.0, above=0)
    distance_weight: float = setting(0.01, at_least=0)
    alpha: float = setting(0.95, above=0, at_most=0.9999)
    steps: int = setting(10, at_least=1, at_most=10_000)
    pixels: bool = False


register_dense(
    "lposs",
    LpossSettings,
    label="LPOSS",
    presets=("experiment/_lposs", "experiment/lposs_*"),
    source="Stojnić et al., LPOSS, CVPR 2025, arXiv 2503.19777",
)("pipeline.dense.lposs.method:Lposs")
