"""CLIP-ES's CAMs: softmax Grad-CAM, refined by class-aware attention-based affinity."""

import torch

from pipeline.cams.gradcam import softmax_gradcam
from pipeline.cams.pass_method import PassCams, text_of
from pipeline.cams.settings import ClipEsOptions
from pipeline.clip.frozen import Resources
from pipeline.clip.shared_pass import SharedPass


class ClipEs(PassCams):
    """Computes CAMs by softmax Grad-CAM."""

    def activation_maps(
        self, shared_pass: SharedPass, text: torch.Tensor, num_tags: int
    ) -> torch.Tensor:
        """Returns the CAM of every tag before the affinity; see :class:`PassCams`."""
        return softmax_gradcam(self.encoder, shared_pass.last_block_input, text, num_tags)


def build_clip_es(options: ClipEsOptions, resources: Resources) -> ClipEs:
    """Builds CLIP-ES."""
    clip, quirks = resources.clip, vars(resources.quirks)
    return ClipEs(clip.encoder, *text_of(options, resources), options, clip.batches, **quirks)
