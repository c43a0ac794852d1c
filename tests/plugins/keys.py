"""A dense method: patches attend to patches with keys like their own."""

from dataclasses import dataclass

import torch

from pipeline.clip.attention import attend
from pipeline.clip.encoder import ClipEncoder
from pipeline.clip.shared_pass import SharedPass
from pipeline.dense.method import DenseMethod
from pipeline.dense.settings import DenseSettings
from pipeline.engine.registry import Quirk, register
from pipeline.engine.settings import setting


@dataclass
class KeysSettings(DenseSettings):
    """The settings of ``cams=key_key``.

    Attributes:
        gain: the factor of the logits.
    """

    gain: float = setting(1.0, above=0)


DOUBLE_GAIN = Quirk("double_gain", "the released code doubles the gain", released=False)


@register("dense", "key_key", KeysSettings, quirks=(DOUBLE_GAIN,))
class Keys(DenseMethod):
    """The attention of block L is softmax(gain · KKᵀ/√d)."""

    def patch_features(self, encoder: ClipEncoder, seen: SharedPass) -> torch.Tensor:
        _, _, key, value = seen.last_block_input
        gain = self.options.gain * (2 if self.quirks.double_gain else 1)
        attended = attend(gain * key[:, :, 1:], key, value)
        return encoder.embed(encoder.last_block.attention_output(attended))
