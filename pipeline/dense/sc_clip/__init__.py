"""SC-CLIP: repairs anomalous patches and aggregates similar ones (Bai et al., 2024)."""

from dataclasses import dataclass

from pipeline.configuration.settings import setting
from pipeline.dense.settings import DenseSettings, register_dense


@dataclass
class ScClipSettings(DenseSettings):
    """SC-CLIP: patches of middle blocks decide which patches attend to each other in the last one.

    Attributes:
        neighbours: the number of patches that the local outlier factor compares each patch with.
        anomalies: the share of patches with the highest factor, which are repaired.
        middle_block: the block whose patch similarities act as attention, as an offset from the
            last block.
        shallow_block: the block whose patch similarities aggregate the result.
        stream_blocks: first and last block of the sum that is added to the result.
        floor: similarities below this value do not aggregate.
        sharpness: the factor of similarities in the attention.
        class_token: the share of the class token that is added to every patch.
    """

    neighbours: int = setting(30, at_least=1)
    anomalies: float = setting(0.05, at_least=0, at_most=1)
    middle_block: int = setting(-3, at_least=-99, at_most=-1)
    shallow_block: int = setting(-8, at_least=-99, at_most=-1)
    stream_blocks: list[int] = setting([-8, -2], at_least=-99, at_most=-1, lengths=(2,))
    floor: float = setting(0.4, at_least=-1, at_most=1)
    sharpness: float = setting(3.0, at_least=0)
    class_token: float = setting(0.3, at_least=0)


register_dense(
    "sc_clip",
    ScClipSettings,
    label="SC-CLIP",
    presets=("experiment/_sc_clip", "experiment/sc_clip_*"),
    source="Bai et al., SC-CLIP, 2024, arXiv 2411.15869",
)("pipeline.dense.sc_clip.method:ScClip")
