"""Talk2DINO: sigmoids of similarities, perhaps cleaned by the heads' attention (ICCV 2025)."""

from dataclasses import dataclass

from pipeline.dense.settings import DenseSettings, register_dense


@dataclass
class Talk2DinoSettings(DenseSettings):
    """Talk2DINO: the sigmoids of the cosine similarities of unmodified patches.

    Attributes:
        cleaning: whether patches are averaged with what the class token attends to, head by head.
    """

    cleaning: bool = False


register_dense(
    "talk2dino",
    Talk2DinoSettings,
    label="Talk2DINO",
    presets=("experiment/_talk2dino", "experiment/talk2dino_*"),
    source="Barsellotti et al., Talk2DINO, ICCV 2025, arXiv 2411.19331",
)("pipeline.dense.talk2dino.method:Talk2Dino")
