"""ProxyCLIP: patches attend to those that a second backbone finds alike (Lan et al., ECCV 2024)."""

from dataclasses import dataclass

from pipeline.clip.settings import SecondSettings
from pipeline.configuration.settings import setting
from pipeline.dense.settings import DenseSettings, register_dense


@dataclass
class ProxyClipSettings(DenseSettings):
    """ProxyCLIP: a second backbone says which patches attend to each other in block L.

    Attributes:
        second: the second backbone.
        shift: β, by how many times their mean the similarities are reduced; those below 0 do not
            count.
        sharpness: γ, the factor of similarities in the attention.
    """

    second: SecondSettings = setting(SecondSettings("dino_vitb8"))
    shift: float = setting(1.2, at_least=0)
    sharpness: float = setting(3.0, above=0)


register_dense(
    "proxyclip",
    ProxyClipSettings,
    label="ProxyCLIP",
    presets=("experiment/_proxyclip", "experiment/proxyclip_*"),
    source="Lan et al., ProxyCLIP, ECCV 2024, arXiv 2408.04883",
)("pipeline.dense.proxyclip.method:ProxyClip")
