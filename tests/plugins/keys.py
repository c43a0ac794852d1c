"""A dense method: patches attend to patches with keys like their own."""

from dataclasses import dataclass

import torch

from pipeline.cams.settings import register_dense_cams
from pipeline.clip.attention import attend
from pipeline.clip.encoder import ClipEncoder
from pipeline.clip.shared_pass import SharedPass
from pipeline.dense.method import DenseMethod, NameEmbeddings, dense_method
from pipeline.engine.settings import setting


@dense_method("key_key", "a test")
@dataclass
class Keys(DenseMethod):
    """The attention of block L is softmax(gain · KKᵀ/√d).

    Attributes:
        gain: the factor of the logits.
    """

    gain: float = setting(1.0, above=0)

    def patch_features(
        self, encoder: ClipEncoder, seen: SharedPass, names: NameEmbeddings | None = None
    ) -> torch.Tensor:
        _, _, key, value = seen.last_block_input
        attended = attend(self.gain * key[:, :, 1:], key, value)
        return encoder.embed(encoder.last_block.attention_output(attended))


register_dense_cams(Keys)
