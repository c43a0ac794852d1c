"""What every step of the method costs: seconds, arithmetic, and the share of the machine's peak.

Arithmetic is counted by torch (two operations a multiplication and addition, of matrix products,
convolutions and attentions). The peak is that of a matrix product measured in the same run.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from pipeline.cams.affinity import MeanAttention, refine_cams
from pipeline.cams.clip_es import CamSettings
from pipeline.cams.gradcam import softmax_gradcam
from pipeline.clip.blocks import block_window
from pipeline.clip.encoder import ClipEncoder
from pipeline.clip.linear import HAS_ONEDNN, product
from pipeline.report.markdown import markdown_table
from pipeline.tags.patches import class_probabilities
from pipeline.tags.refinement import VotedAttention, refine
from pipeline.tags.reidentification import Proposal, reidentify
from pipeline.tags.tagclip import TagClipSettings

_PEAK_SIDE = 2048  # of the square matrices whose product is taken for the peak


@dataclass(frozen=True)
class Cost:
    """What a step costs for one image.

    Attributes:
        step: its name.
        seconds: median over the repetitions.
        operations: floating-point operations.
    """

    step: str
    seconds: float
    operations: int


def _attention_on_cpu(
    query: torch.Size, key: torch.Size, value: torch.Size, *_: object, **__: object
) -> int:
    return sdpa_flop_count(query, key, value)


def _product_by_onednn(inputs: torch.Size, weight: torch.Size, *_: object, **__: object) -> int:
    return 2 * inputs.numel() * weight[0]


# torch counts fused attention on GPUs and MKL's products, and forgets the CPU's and oneDNN's.
_FORGOTTEN = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention_on_cpu}
if HAS_ONEDNN:
    _FORGOTTEN[torch.ops.mkldnn._linear_pointwise] = _product_by_onednn


def measure(step: str, work: Callable[[], object], repeats: int, device: torch.device) -> Cost:
    """Runs a step once for its arithmetic, and then several times for its seconds."""
    with FlopCounterMode(display=False, custom_mapping=_FORGOTTEN) as counter:
        work()
    seconds = []
    for _ in range(repeats):
        _wait(device)
        began = time.perf_counter()
        work()
        _wait(device)
        seconds.append(time.perf_counter() - began)
    return Cost(step, median(seconds), counter.get_total_flops())


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def peak(
    device: torch.device,
    precision: torch.dtype,
    by: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] = product,
    repeats: int = 5,
) -> float:
    """Returns the machine's operations a second in a matrix product of a precision.

    Args:
        device: where it is taken.
        precision: of the factors.
        by: what takes it: by default what the encoder's layers use.
        repeats: runs that a median is taken of.
    """
    left, right = (torch.rand(_PEAK_SIDE, _PEAK_SIDE).to(device, precision) for _ in range(2))
    cost = measure("peak", lambda: by(left, right), repeats, device)
    return cost.operations / cost.seconds


@torch.no_grad()
def cost_of_steps(
    encoder: ClipEncoder,
    text: torch.Tensor,
    class_count: int,
    image: np.ndarray,
    *,
    crops: int,
    tags: int,
    crop_batch_size: int,
    repeats: int,
) -> list[Cost]:
    """Measures the steps of tagging and of the maps on one image.

    Args:
        encoder: the image tower; its weights may be random, since arithmetic does not ask.
        text: C×E embeddings; n classes, then backgrounds.
        class_count: n.
        image: H×W×3 uint8.
        crops: how many classes CWR looks at again.
        tags: how many tags get a map.
        crop_batch_size: crops that are classified together; a batch is padded to it.
        repeats: how often each step runs for its seconds.
    """
    device, side = encoder.device, encoder.native_size
    tagging, mapping = TagClipSettings(), CamSettings()
    window = block_window("tags.attention_blocks", tagging.attention_blocks, encoder.depth)
    blocks = block_window("cams.affinity_blocks", mapping.affinity_blocks, encoder.depth)
    native = encoder.prepare(image, squeeze=True).to(device)
    pixels = encoder.prepare(image).to(device)[None]
    grid = tuple(s // encoder.patch_size for s in pixels.shape[-2:])
    voted, mean = VotedAttention(window, tagging.votes), MeanAttention(blocks)
    before = encoder.backbone(pixels, voted, mean)
    attention, affinity = voted.result(), mean.result()[0]

    def classify(features: torch.Tensor) -> torch.Tensor:
        return class_probabilities(features, text, encoder.temperature)

    scores = classify(encoder.value_features(before))
    inside = torch.ones(side // encoder.patch_size, side // encoder.patch_size, dtype=torch.bool)
    proposals = [Proposal(k % class_count, native, inside.to(device)) for k in range(crops)]
    chosen = torch.cat([text[:tags], text[class_count:]])
    cams = softmax_gradcam(encoder, before, chosen, tags)
    work = {
        "CLIP's class token, native size": lambda: encoder.image_features(native[None]),
        "CLIP's class token, own size": lambda: encoder.image_features(pixels),
        "blocks 1 to L−1, and all attentions": lambda: encoder.backbone(
            pixels, VotedAttention(window, tagging.votes)
        ),
        "coarse scores (block L's values)": lambda: classify(encoder.value_features(before)),
        "DMAR": lambda: refine(attention, scores, grid, open_border=True),
        f"CWR, {crops} crops": lambda: reidentify(encoder, text, proposals, crop_batch_size),
        f"softmax Grad-CAM, {tags} tags": lambda: softmax_gradcam(encoder, before, chosen, tags),
        "class-aware attention affinity": lambda: refine_cams(
            cams, affinity, grid, threshold=mapping.box_threshold, open_border=True
        ),
    }
    return [measure(step, run, repeats, device) for step, run in work.items()]


def cost_table(costs: list[Cost], machine_peak: float) -> str:
    """Returns the costs as Markdown, beside those of plain CLIP, which is the first of them."""
    plain = costs[0]
    rows = [
        [
            cost.step,
            f"{1000 * cost.seconds:.1f}",
            f"{cost.operations / 1e9:.2f}",
            f"{cost.seconds / plain.seconds:.2f}",
            f"{cost.operations / plain.operations:.2f}",
            f"{100 * cost.operations / cost.seconds / machine_peak:.0f}",
        ]
        for cost in costs
    ]
    header = ["step", "ms", "GFLOP", "× CLIP, time", "× CLIP, arithmetic", "% of peak"]
    return markdown_table(header, rows)
