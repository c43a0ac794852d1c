"""The training-free part of ExCEL (Yang et al., CVPR 2025)."""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from open_clip.constants import IMAGENET_MEAN, IMAGENET_STD
from torchvision.transforms.functional import normalize

from pipeline.cams.excel.surgery import HeadSum, SurgeryPath, feature_surgery
from pipeline.cams.pass_method import PassCams
from pipeline.clip.dimensions import Normalisation, block_at, patch_grid
from pipeline.clip.encoder import BlockHook, ClipEncoder
from pipeline.clip.shared_pass import MeanAttention, SharedPass


class ExcelEncoder(ClipEncoder):
    """An image tower that sees pixels as ExCEL's code prepares them; the weights are shared.

    The position embedding is never rounded to float16.
    """

    def __init__(self, encoder: ClipEncoder, size: int | None, *, imagenet_norm: bool):
        """Takes an encoder, which stays as it is; for the rest see :mod:`pipeline.cams.excel`."""
        vars(self).update(vars(encoder))
        self.size, self.position_fp16 = size, False
        if imagenet_norm:
            self.normalisation = Normalisation(IMAGENET_MEAN, IMAGENET_STD)

    def patch_grid(self, image: np.ndarray) -> tuple[int, int]:
        """Returns the patch grid h, w of an image, H×W×3."""
        if self.size is None:
            return super().patch_grid(image)
        return patch_grid(self.size, self.size, self.patch_size, self.max_patches)

    def prepare(self, image: np.ndarray, *, squeeze: bool = False) -> torch.Tensor:
        """Normalises an image and then squashes it (bilinear, without antialiasing)."""
        if self.size is None:
            return super().prepare(image, squeeze=squeeze)
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255
        pixels = normalize(pixels, *self.normalisation)
        size = [side * self.patch_size for side in self.patch_grid(image)]
        return F.interpolate(pixels[None], size, mode="bilinear", align_corners=False)[0]


class Excel(PassCams):
    """Computes ExCEL's CAMs of images, with its quirks ``token_norm`` and ``head_sum``."""

    @property
    def first(self) -> int:
        """The first block of the second path."""
        return block_at(1 - self.options.blocks, self.encoder.depth)

    def method_hooks(self) -> Sequence[BlockHook]:
        """Returns the second path."""
        return [SurgeryPath(self.first)]

    def attention_hook(self) -> MeanAttention:
        """Returns what averages the attention."""
        if not self.quirks.head_sum:
            return super().attention_hook()
        return HeadSum(self.blocks, self.first, self.encoder.last_block.heads)

    def names_for(self, tags: Sequence[int]) -> torch.Tensor:
        """Returns the embeddings of the tags, of the other classes, and of the backgrounds: C×E."""
        others = [index for index in range(len(self.class_text)) if index not in tags]
        return torch.cat([self.class_text[[*tags, *others]], self.background_text])

    def features(self, shared_pass: SharedPass) -> torch.Tensor:
        """Returns F of one image, (1+N)×E float32: patches of the second path."""
        tokens, query, key, value = shared_pass.last_block_input
        class_token = self.encoder.last_block.finish(
            tokens[:, :1], self.encoder.attend(query[:, :, :1], key, value)
        )
        tokens = torch.cat([class_token, self.encoder.patches(shared_pass.for_cams[0])], 1)
        return F.normalize(self.encoder.embed(tokens)[0], dim=0 if self.quirks.token_norm else 1)

    def activation_maps(
        self, shared_pass: SharedPass, text: torch.Tensor, num_tags: int
    ) -> torch.Tensor:
        """Returns the CAM of every tag before the affinity, K×N float32 in [0, 1]."""
        return feature_surgery(self.features(shared_pass), text)[:num_tags]
