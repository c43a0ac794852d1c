"""RADSeg: patches attend to those with alike outputs (2025, arXiv 2511.19704)."""

from dataclasses import dataclass

from pipeline.configuration.settings import setting
from pipeline.dense.settings import DenseSettings, register_dense


@dataclass
class RadSegSettings(DenseSettings):
    """RADSeg: patches attend to those with alike outputs, in block L and over the whole image.

    It requires a model with a language adaptor. SAM's refinement of label maps is left out.

    Attributes:
        denoising: the probability that a name must reach in some pixel of an image; otherwise it
            labels none.
    """

    denoising: float = setting(0.5, at_least=0, at_most=1)

    @classmethod
    def needs_more(cls) -> bool:
        """Tells that not every CLIP suffices."""
        return True


register_dense(
    "radseg",
    RadSegSettings,
    label="RADSeg",
    presets=("experiment/_radseg", "experiment/radseg_*"),
    source="RADSeg, 2025, arXiv 2511.19704",
)("pipeline.dense.radseg.method:RadSeg")
