"""The whole of CLIP-ES's CAMs: softmax Grad-CAM, refined by class-aware attention affinity."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from pipeline.cams.gradcam import softmax_gradcam
from pipeline.cams.pass_method import PassCamOptions, PassCams, text_of
from pipeline.clip.frozen import Resources
from pipeline.clip.shared_pass import SharedPass
from pipeline.engine.registry import register


@dataclass
class ClipEsOptions(PassCamOptions):
    """``cams=clip_es`` and its presets, the constants of CLIP-ES (CVPR 2023)."""


class ClipEs(PassCams):
    """Computes CAMs by softmax Grad-CAM."""

    def activation_maps(
        self, shared_pass: SharedPass, text: torch.Tensor, num_tags: int
    ) -> torch.Tensor:
        """Returns the CAM of every tag before the affinity; see :class:`PassCams`."""
        return softmax_gradcam(self.encoder, shared_pass.last_block_input, text, num_tags)


@register(
    "cams",
    "clip_es",
    ClipEsOptions,
    uses_clip=True,
    quirks=("open_border",),
    shares_pass=True,
    reads=("cam_names", "backgrounds"),
    source="Lin et al., CLIP-ES, CVPR 2023, arXiv 2212.09506",
    section="3. CAMs: CLIP-ES",
)
def build_clip_es(options: ClipEsOptions, resources: Resources) -> ClipEs:
    """Builds CLIP-ES."""
    clip, quirks = resources.clip, vars(resources.quirks)
    return ClipEs(clip.encoder, *text_of(options, resources), options, clip.batches, **quirks)
