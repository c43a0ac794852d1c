"""CLIP-ES's CAMs: softmax Grad-CAM, refined by class-aware attention-based affinity."""

from dataclasses import dataclass

from pipeline.clip.settings import OPEN_BORDER
from pipeline.configuration.registry import register
from pipeline.dense.settings import PassCamOptions


@dataclass
class ClipEsOptions(PassCamOptions):
    """``cams=clip_es`` and its presets, the constants of CLIP-ES (CVPR 2023)."""

    shares_pass = True
    """Whether they can be computed in the pass that tags take."""

    def without_whole_image(self, prefix: str) -> str:
        """Returns what does without Grad-CAM."""
        return f"choose a dense method as {prefix}, see docs/compare-methods.md"


register(
    "cams",
    "clip_es",
    ClipEsOptions,
    label="CLIP-ES",
    uses_clip=True,
    quirks=(OPEN_BORDER,),
    templates={"clip_es": ("a clean origami {}.",)},
    presets=("cams/clip_es_*", "cams/cls_seg_*", "experiment/clip_es_*", "experiment/cls_seg_*"),
    reads=("cam_names", "backgrounds"),
    source="Lin et al., CLIP-ES, CVPR 2023, arXiv 2212.09506",
    code="pipeline.cams.clip_es.build_clip_es",  # what keys call it
)("pipeline.cams.clip_es.method:ClipEs.build")
