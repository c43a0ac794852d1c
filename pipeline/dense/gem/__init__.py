"""GEM: a path of self-self attention beside the last blocks (Bousselham et al., CVPR 2024)."""

from dataclasses import dataclass

from pipeline.configuration.settings import setting
from pipeline.dense.settings import DenseSettings, register_dense


@dataclass
class GemSettings(DenseSettings):
    """GEM: beside the last blocks runs a path of self-self attention without MLP.

    Attributes:
        blocks: the number of last blocks that have the second path.
    """

    blocks: int = setting(6, at_least=1)


register_dense(
    "gem", GemSettings, label="GEM", source="Bousselham et al., GEM, CVPR 2024, arXiv 2312.00878"
)("pipeline.dense.gem.method:Gem")
