"""The settings of the dense methods; each has its computation in a file of its own.

Nothing here imports PyTorch, so that a command that computes nothing starts at once.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, TypeVar

from pipeline.engine.settings import setting

REMAINDERS = ("stretch", "pad")
"""How pixels beside the last whole patch are treated: they are ignored, and similarities
are stretched over them; or zeros around the window complete the patches."""

Class = TypeVar("Class", bound="type[DenseSettings]")


@dataclass
class DenseSettings:
    """The base of the settings of all dense methods; see :func:`dense_settings`."""

    name: ClassVar[str]
    source: ClassVar[str]
    method: ClassVar[type | str]
    """The class that computes the method, or its name "module:class"."""
    passes: ClassVar[int] = 1
    """Passes of the backbone over an image."""


DENSE_SETTINGS: dict[str, type[DenseSettings]] = {}
"""The settings of the dense methods by the names of these."""


def dense_settings(name: str, source: str, method: str | None = None) -> Callable[[Class], Class]:
    """Makes a dataclass the settings of a dense method.

    Args:
        name: the word for the method in the configuration.
        source: the publication that describes it.
        method: the class that computes it, "module:class"; the dataclass itself unless given.
    """

    def decorate(settings: Class) -> Class:
        settings.name, settings.source, settings.method = name, source, method or settings
        DENSE_SETTINGS[name] = settings
        return settings

    return decorate


@dense_settings(
    "maskclip",
    "Zhou et al., MaskCLIP, ECCV 2022, arXiv 2112.01071",
    "pipeline.dense.maskclip:MaskClip",
)
@dataclass
class MaskClipSettings(DenseSettings):
    """MaskCLIP: in block L the identity replaces the attention; no residual connection, no MLP."""


@dense_settings(
    "sclip", "Wang et al., SCLIP, ECCV 2024, arXiv 2312.01597", "pipeline.dense.sclip:Sclip"
)
@dataclass
class SclipSettings(DenseSettings):
    """SCLIP: the attention of block L is softmax(QQᵀ/√d) + softmax(KKᵀ/√d), whose rows sum to 2."""


@dense_settings(
    "clearclip",
    "Lan et al., ClearCLIP, ECCV 2024, arXiv 2407.12442",
    "pipeline.dense.clearclip:ClearClip",
)
@dataclass
class ClearClipSettings(DenseSettings):
    """ClearCLIP: the attention of block L is softmax(QQᵀ/√d); no residual connection, no MLP."""


@dense_settings(
    "naclip", "Hajimiri et al., NACLIP, WACV 2025, arXiv 2404.08181", "pipeline.dense.naclip:NaClip"
)
@dataclass
class NaClipSettings(DenseSettings):
    """NACLIP: the attention of block L is softmax(KKᵀ/√d + ω); no residual connection, no MLP.

    Attributes:
        sigma: σ of the Gaussian ω around each patch, in patches of 16 pixels.
    """

    sigma: float = setting(5.0, above=0)


@dense_settings(
    "gem", "Bousselham et al., GEM, CVPR 2024, arXiv 2312.00878", "pipeline.dense.gem:Gem"
)
@dataclass
class GemSettings(DenseSettings):
    """GEM: beside the last blocks runs a path of self-self attention without MLP.

    Attributes:
        blocks: the number of last blocks that have the second path.
    """

    blocks: int = setting(6, at_least=1)


@dense_settings(
    "itaclip",
    "Aydın et al., ITACLIP, CVPR workshops 2025, arXiv 2411.12044",
    "pipeline.dense.itaclip:ItaClip",
)
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

    passes: ClassVar[int] = 5

    middle_blocks: list[int] = setting([-5, -4, -2], at_least=-99, at_most=-1, lengths=range(1, 99))
    views: bool = True
    upright_share: float = setting(0.7, at_least=0, at_most=1)


@dense_settings(
    "resclip", "Yang et al., ResCLIP, CVPR 2025, arXiv 2411.15851", "pipeline.dense.resclip:ResClip"
)
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


@dense_settings(
    "sc_clip", "Bai et al., SC-CLIP, 2024, arXiv 2411.15869", "pipeline.dense.sc_clip:ScClip"
)
@dataclass
class ScClipSettings(DenseSettings):
    """SC-CLIP: patches of middle blocks say which patches attend to each other in the last one.

    Attributes:
        neighbours: patches that the local outlier factor compares each patch with.
        anomalies: the share of patches with the highest factor, which are repaired.
        middle_block: the block whose patch similarities act as attention, as an offset from the
            last block.
        shallow_block: the block whose patch similarities aggregate the result.
        stream_blocks: first and last block of the sum that is added to the result.
        floor: similarities below it do not aggregate.
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
