"""ITACLIP: middle blocks help the last one, and several views of an image (Aydın et al.)."""

from dataclasses import dataclass

from pipeline.configuration.settings import setting
from pipeline.dense.settings import DenseSettings, register_dense


@dataclass
class ItaClipSettings(DenseSettings):
    """ITACLIP: SCLIP's attention of block L, averaged with that of three blocks before; no MLP.

    Attributes:
        middle_blocks: the other blocks, as offsets from the last one, which is 0.
        views: whether the features of the image are averaged with those of its grey and its blurred
            version, and the similarities with those of the mirrored images.
        upright_share: the weight of the views that are not mirrored; the mirrored ones have the
            rest.
    """

    middle_blocks: list[int] = setting([-5, -4, -2], at_least=-99, at_most=-1, lengths=range(1, 99))
    views: bool = True
    upright_share: float = setting(0.7, at_least=0, at_most=1)


register_dense(
    "itaclip",
    ItaClipSettings,
    label="ITACLIP",
    source="Aydın et al., ITACLIP, CVPR workshops 2025, arXiv 2411.12044",
)("pipeline.dense.itaclip.method:ItaClip")
