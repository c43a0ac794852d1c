"""Losses for masks that are wrong in places: balanced, or weighted pixel by pixel.

mmsegmentation is imported inside the functions that need it, since that takes seconds.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import MethodType
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from mmengine.config import ConfigDict
from torch import nn

from pipeline.datasets.vocabulary import IGNORE
from pipeline.errors import UserError, did_you_mean
from pipeline.segmenter.architecture import dictionaries

if TYPE_CHECKING:
    from mmseg.structures import SegDataSample

LOSSES = ("cross_entropy", "balanced")
"""The values of ``segmenter.loss``."""

_BACKGROUND = 0
_CROSS_ENTROPY = "CrossEntropyLoss"
_LOSS_ENDINGS = ("Loss", "CrossEntropy")
# The classes whose ``loss_by_feat`` takes every pixel's loss through the head's sampler. EncHead's
# further loss of the whole image has no pixels, and stays as it is.
_ASK_THE_SAMPLER = frozenset({"BaseDecodeHead", "DAHead", "EncHead"})
_TAKE_WEIGHTS = frozenset({_CROSS_ENTROPY, "BalancedCrossEntropy"})


class BalancedCrossEntropy(nn.Module):
    """Cross-entropy in which background and foreground weigh alike, however many pixels each has.

    It is averaged over the batch's pixels of label 0 and over those of all other labels apart, and
    the result is the mean of the two means: as DeepLab-V2 is trained on pseudo masks by AdvCAM
    (Lee et al., CVPR 2021; https://github.com/jbeomlee93/AdvCAM/issues/9) and AFA (Ru et al., CVPR
    2022), after the balanced seeding loss of DSRG (Huang et al., CVPR 2018).

    Ignored pixels count nowhere. A batch with only one of the two kinds has that kind's mean as its
    loss, not half of it; a batch of ignored pixels alone has loss 0 and a gradient of zeros.

    Args:
        loss_weight: factor of the result.
        loss_name: what mmsegmentation calls it; has to begin with "loss_" to be trained on.
    """

    def __init__(self, loss_weight: float = 1.0, loss_name: str = "loss_ce") -> None:
        super().__init__()
        self.loss_weight = loss_weight
        self._loss_name = loss_name

    @property
    def loss_name(self) -> str:
        """The name under which a decode head returns the loss."""
        return self._loss_name

    def forward(
        self,
        cls_score: torch.Tensor,
        label: torch.Tensor,
        weight: torch.Tensor | None = None,
        ignore_index: int = IGNORE,
        reduction_override: str | None = None,
        **_: Any,
    ) -> torch.Tensor:
        """Computes the loss; called by mmsegmentation's decode heads, with its argument names.

        Args:
            cls_score: N×C×… logits.
            label: N×… int64; 0 is the background, ``ignore_index`` is left out.
            weight: N×… factors of the pixels' losses, 1 where there are none. The means are still
                over the number of pixels, not over the sum of their weights, as in mmsegmentation.
            ignore_index: the label that does not count.
            reduction_override: "none" returns the loss of every pixel, N×…, without balance, by
                which mmsegmentation's samplers find hard pixels.

        Returns:
            A scalar.
        """
        losses = F.cross_entropy(cls_score, label, reduction="none", ignore_index=ignore_index)
        if weight is not None:
            losses = losses * weight
        if reduction_override == "none":
            return self.loss_weight * losses
        background = label == _BACKGROUND
        kinds = torch.stack([background, ~background & (label != ignore_index)]).flatten(1)
        counts = kinds.sum(1)
        means = torch.where(kinds, losses.flatten(), 0).sum(1) / counts.clamp(min=1)
        return self.loss_weight * means.sum() / (counts > 0).sum().clamp(min=1)


def register_losses() -> None:
    """Makes the losses known to mmsegmentation under their class names; may be called repeatedly.

    To be called after :func:`pipeline.segmenter.mmseg.import_mmseg`.
    """
    from mmseg.registry import MODELS

    # By force, since registering a class a second time is an error otherwise.
    MODELS.register_module(module=BalancedCrossEntropy, force=True)


def choose_loss(model: ConfigDict, loss: str) -> None:
    """Gives all decode and auxiliary heads the wanted loss in place of their cross-entropy.

    Further losses of a head (say, Lovász) stay. A head that names no loss has mmsegmentation's
    default, a cross-entropy that averages over ignored pixels too; it gets one that does not.

    Args:
        model: the ``model`` part of a config, as ``adapt_model`` returns it; changed in place.
        loss: "cross_entropy" or "balanced", see :class:`BalancedCrossEntropy`.

    Raises:
        UserError: the name is not known, or a head has no cross-entropy over classes to balance.
    """
    if loss not in LOSSES:
        hint = did_you_mean(loss, LOSSES, cutoff=0).strip()
        raise UserError(f"segmenter.loss={loss} is not one of {', '.join(LOSSES)}: {hint}")
    for head in _heads(model):
        losses = [p for p in dictionaries(head) if _kind(p).endswith(_LOSS_ENDINGS)]
        if not losses:
            head.loss_decode = ConfigDict(type=_CROSS_ENTROPY, avg_non_ignore=True)
            losses = [head.loss_decode]
        if loss == "balanced":
            _balance(losses, _kind(head))


def weight_pixels(model: nn.Module) -> None:
    """Makes every head of a network multiply each pixel's loss by the weight in its sample.

    A sample's ``pixel_weights`` is PixelData of 1×h×w float32 in [0, 1], where pixels beyond h×w
    are padding. The sum of weighted losses is divided by what it was divided by before, the number
    of pixels that are not ignored (for a sigmoid loss, times classes), and not by the sum of the
    weights: halving all weights halves the loss. To be called once the network is built.

    Raises:
        UserError: a head, which is named, computes its loss in a way that takes no weights.
    """
    for head in _heads(model):
        _refuse_unweighable(head)
        head.sampler = SampleWeights()
        # A bound method, unlike a closure, follows its head into a deep copy.
        head.loss_by_feat = MethodType(_weighted_loss_by_feat, head)


class SampleWeights:
    """A pixel sampler, in mmsegmentation's sense, that gives the weights that samples come with."""

    def __init__(self) -> None:
        self._samples: Sequence[SegDataSample] = ()

    @contextmanager
    def reading(self, samples: Sequence[SegDataSample]) -> Iterator[None]:
        """Takes the weights from these samples for the duration; heads do not pass them on."""
        self._samples = samples
        try:
            yield
        finally:
            self._samples = ()

    def sample(self, seg_logit: torch.Tensor, seg_label: torch.Tensor) -> torch.Tensor:
        """Returns the weights, N×H×W float32, 0 where samples were padded.

        Args:
            seg_logit: N×C×H×W.
            seg_label: N×1×H×W; mmsegmentation pads it, like the images, to the right and below.

        Raises:
            UserError: a sample has no weights.
        """
        height, width = seg_label.shape[-2:]
        weights = []
        for sample in self._samples:
            if "pixel_weights" not in sample:
                raise UserError(
                    f"training image {sample.get('img_id')} has no pixel weights: choose"
                    " masks=crf_weighted, or segmenter.pixel_weights=null"
                )
            own = sample.pixel_weights.data[0]
            weights.append(F.pad(own, (0, width - own.shape[1], 0, height - own.shape[0])))
        return torch.stack(weights)


def _weighted_loss_by_feat(
    head: nn.Module,
    seg_logits: torch.Tensor | tuple[torch.Tensor, ...],
    batch_data_samples: Sequence[SegDataSample],
) -> dict[str, torch.Tensor]:
    with head.sampler.reading(batch_data_samples):
        return type(head).loss_by_feat(head, seg_logits, batch_data_samples)


def _refuse_unweighable(head: nn.Module) -> None:
    name = type(head).__name__
    reason = None
    owner = next((c.__name__ for c in type(head).__mro__ if "loss_by_feat" in vars(c)), None)
    if owner not in _ASK_THE_SAMPLER:
        reason = "computes its loss in a way of its own"
    elif not isinstance(head.sampler, SampleWeights | None):
        reason = f"chooses pixels by {type(head.sampler).__name__}"
    else:
        losses = head.loss_decode
        losses = losses if isinstance(losses, nn.ModuleList) else [losses]
        unfit = [type(x).__name__ for x in losses if type(x).__name__ not in _TAKE_WEIGHTS]
        if unfit:
            reason = f"learns by {unfit[0]}"
    if reason:
        raise UserError(
            f"segmenter.pixel_weights cannot weigh the pixels of {name}, which {reason}: choose"
            " another segmenter.config or segmenter.pixel_weights=null"
        )


def _heads(model: nn.Module | ConfigDict) -> list[Any]:
    """Returns the decode heads and then the auxiliary heads of a network or of its config."""
    found = (getattr(model, name, None) for name in ("decode_head", "auxiliary_head"))
    groups = [x if isinstance(x, list | tuple | nn.ModuleList) else [x] for x in found if x]
    return [head for group in groups for head in group]


def _balance(losses: Sequence[ConfigDict], head: str) -> None:
    """Replaces the cross-entropies among a head's losses."""
    replaced = [part for part in losses if _kind(part) == _CROSS_ENTROPY]
    if not replaced or any(part.get("use_sigmoid") or part.get("use_mask") for part in replaced):
        reason = "a sigmoid loss" if replaced else _kind(losses[0])
        raise UserError(
            f"segmenter.loss=balanced cannot take the place of {reason} of {head}: choose"
            " segmenter.loss=cross_entropy or another segmenter.config"
        )
    for part in replaced:
        kept = {key: part[key] for key in ("loss_weight", "loss_name") if key in part}
        part.clear()
        part.update(type=BalancedCrossEntropy.__name__, **kept)


def _kind(part: ConfigDict) -> str:
    """Returns the type in a config, without its scope."""
    return str(part.get("type")).rpartition(".")[2]
