"""The base of the settings of dense methods, each of which lies in a folder of its own.

Nothing here imports PyTorch, so that a command that computes nothing starts at once.
"""

from dataclasses import dataclass
from functools import partial

from pipeline.clip.settings import MethodOptions, SecondSettings, second_backbone
from pipeline.engine.registry import register
from pipeline.engine.settings import setting

register_dense = partial(register, "dense", section="Dense methods")
"""The decorator by which a dense method is declared."""

REMAINDERS = ("stretch", "pad", "enlarge")
"""How pixels beside the last whole patch are treated: they are ignored, and similarities are
stretched over them; or zeros around the window complete the patches; or the window is enlarged to
whole patches (bicubic, without antialiasing)."""


@dataclass
class DenseSettings(MethodOptions):
    """The base of the settings of all dense methods."""


@dataclass
class PropagationOptions:
    """The constants of LPOSS (Stojnić et al., CVPR 2025), which spreads names over patches.

    Attributes:
        second: the second backbone, whose values of the last block say which patches are alike.
        neighbours: k, of each patch.
        exponent: γ, the power of the similarity of two patches in the weight of their edge.
        distance_weight: σ, by which an edge loses weight with each pixel of its length.
        alpha: α, how far names spread.
        steps: of conjugate gradients; the published ones do not converge.
    """

    second: SecondSettings = second_backbone("dino_vitb16")
    neighbours: int = setting(400, at_least=1)
    exponent: float = setting(3.0, above=0)
    distance_weight: float = setting(0.01, at_least=0)
    alpha: float = setting(0.95, above=0, at_most=0.9999)
    steps: int = setting(10, at_least=1, at_most=10_000)
