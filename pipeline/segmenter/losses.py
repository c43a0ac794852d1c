"""A balanced loss, for noisy masks."""

from typing import Any

import torch
import torch.nn.functional as F
from mmengine.config import ConfigDict
from mmengine.registry import MODELS
from torch import nn

from pipeline.errors import UserError
from pipeline.files.label_images import IGNORE
from pipeline.segmenter.architecture import dictionaries

_CROSS_ENTROPY = "CrossEntropyLoss"


@MODELS.register_module()
class BalancedCrossEntropy(nn.Module):
    """Cross-entropy with equal weights for background and foreground, whatever their areas.

    The loss is averaged separately over the pixels with label 0 and over those with any other
    label; the result is the mean of the two means. AdvCAM (Lee et al., CVPR 2021;
    https://github.com/jbeomlee93/AdvCAM/issues/9) and AFA (Ru et al., CVPR 2022) train DeepLab-V2
    on pseudo masks in this way, after the balanced seeding loss of DSRG (Huang et al., CVPR 2018).

    Ignored pixels do not count. If a batch has pixels of one kind only, their mean is the loss, not
    half of it. If all pixels are ignored, the loss and its gradient are 0.

    ``loss_weight`` is a factor of the result; mmsegmentation trains only on losses whose
    ``loss_name`` begins with "loss_".
    """

    def __init__(self, loss_weight: float = 1.0, loss_name: str = "loss_ce") -> None:
        super().__init__()
        self.loss_weight, self.loss_name = loss_weight, loss_name

    def forward(
        self,
        cls_score: torch.Tensor,
        label: torch.Tensor,
        weight: torch.Tensor | None = None,
        ignore_index: int = IGNORE,
        reduction_override: str | None = None,
        **_: object,
    ) -> torch.Tensor:
        """Computes the loss, a scalar. mmsegmentation's heads call it with these argument names.

        Args:
            cls_score: logits, N×C×….
            label: N×… int64; 0 is the background.
            weight: factors of the pixel losses, N×…; none means 1. As in mmsegmentation, means
                divide by the number of pixels, not by the sum of the weights.
            ignore_index: the label of ignored pixels.
            reduction_override: "none" returns the unbalanced loss of every pixel, N×…, which
                mmsegmentation's samplers use to find hard pixels.
        """
        losses = F.cross_entropy(cls_score, label, reduction="none", ignore_index=ignore_index)
        if weight is not None:
            losses = losses * weight
        if reduction_override == "none":
            return self.loss_weight * losses
        background = label == 0
        kinds = torch.stack([background, ~background & (label != ignore_index)]).flatten(1)
        counts = kinds.sum(1)
        means = torch.where(kinds, losses.flatten(), 0).sum(1) / counts.clamp(min=1)
        return self.loss_weight * means.sum() / (counts > 0).sum().clamp(min=1)


def choose_loss(model: ConfigDict, loss: str) -> None:
    """Chooses "cross_entropy" or "balanced" in the ``model`` of a config, in place.

    The latter replaces the cross-entropy of all heads by :class:`BalancedCrossEntropy`. Other
    losses of a head (such as Lovász) stay. A head without a loss in its config has the default of
    mmsegmentation, a cross-entropy whose mean includes ignored pixels; it is given one that
    excludes them. Raises a UserError if a head has no cross-entropy over classes to balance.
    """
    for head in heads_of(model):
        losses = [p for p in dictionaries(head) if _kind(p).endswith(("Loss", "CrossEntropy"))]
        if not losses:
            head.loss_decode = ConfigDict(type=_CROSS_ENTROPY, avg_non_ignore=True)
            losses = [head.loss_decode]
        if loss != "balanced":
            continue
        replaced = [part for part in losses if _kind(part) == _CROSS_ENTROPY]
        if not replaced or any(p.get("use_sigmoid") or p.get("use_mask") for p in replaced):
            reason = "a sigmoid loss" if replaced else _kind(losses[0])
            raise UserError(
                f"segmenter.loss=balanced cannot replace {reason} of {_kind(head)}: choose"
                " segmenter.loss=cross_entropy or another segmenter.config"
            )
        for part in replaced:
            kept = {key: part[key] for key in ("loss_weight", "loss_name") if key in part}
            part.clear()
            part.update(type=BalancedCrossEntropy.__name__, **kept)


def heads_of(model: nn.Module | ConfigDict) -> list[Any]:
    """Returns the decode heads and then the auxiliary heads of a network or of its config."""
    heads = []
    for name in ("decode_head", "auxiliary_head"):
        if part := getattr(model, name, None):
            heads += part if isinstance(part, list | tuple | nn.ModuleList) else [part]
    return heads


def _kind(part: ConfigDict) -> str:
    """Returns the type that a config names, without its scope."""
    return str(part.get("type")).rpartition(".")[2]
