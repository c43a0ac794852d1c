"""Trident: windows are spliced, and spread by SAM's attention (Shi et al., ICCV 2025)."""

from dataclasses import dataclass

from pipeline.clip.settings import SecondSettings
from pipeline.configuration.settings import setting
from pipeline.dense.proxyclip import ProxyClipSettings
from pipeline.dense.settings import register_dense


@dataclass
class TridentSettings(ProxyClipSettings):
    """Trident: the windows of ProxyCLIP are spliced, and spread by SAM's attention.

    SAM's mask decoder, which refines the published figures further, is left out.

    Attributes:
        second: the second backbone, which the attention in each window follows.
        sam: SAM's image encoder.
        factor: the factor of a patch's mean similarity; the product is what other similarities must
            exceed.
        negative: the value that replaces such a product below 0; null leaves it.
        halves: whether SAM sees the left and the right half of an image apart, as on Cityscapes.
    """

    second: SecondSettings = setting(SecondSettings("dino_vitb16"))
    sam: SecondSettings = setting(SecondSettings("sam_vit_b"))
    factor: float = setting(1.2, at_least=0)
    negative: float | None = setting(None, at_least=-1, at_most=1)
    halves: bool = False


register_dense(
    "trident",
    TridentSettings,
    label="Trident",
    presets=("experiment/_trident", "experiment/trident_*"),
    source="Shi et al., Trident, ICCV 2025, arXiv 2411.09219",
)("pipeline.dense.trident.method:Trident")
