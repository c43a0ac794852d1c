"""CLIP-ES's CAMs: softmax Grad-CAM, refined by class-aware attention-based affinity."""

import torch

from pipeline.cams.gradcam import softmax_gradcam
from pipeline.cams.pass_method import PassCams
from pipeline.clip.shared_pass import SharedPass


class ClipEs(PassCams):
    """Computes CAMs by softmax Grad-CAM (CLIP-ES, section 3.2; docs/method.md, section 3)."""

    def activation_maps(
        self, shared_pass: SharedPass, text: torch.Tensor, num_tags: int
    ) -> torch.Tensor:
        """Returns the CAM of every tag before the affinity; see :class:`PassCams`."""
        return softmax_gradcam(self.encoder, shared_pass.last_block_input, text, num_tags)
