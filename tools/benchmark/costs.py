"""What every step of the method costs: seconds, arithmetic, and the share of the machine's peak.

Arithmetic is counted by torch (two operations a multiplication and addition, of matrix products,
convolutions and attentions). The peak is that of a matrix product measured in the same run.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import median
from typing import Any, NamedTuple
from unittest.mock import patch

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from pipeline.cams.affinity import refine_cams
from pipeline.cams.gradcam import softmax_gradcam
from pipeline.clip.compute.fused import FusedKernel
from pipeline.clip.compute.linear import HAS_ONEDNN, product
from pipeline.clip.shared_pass import MeanAttention
from pipeline.tags.tagclip.refinement import VotedAttention, refine
from tools.benchmark.setup import TAGS, Setup, load_photographs, section, timed

_PEAK_SIDE = 2048  # of the square matrices whose product is taken for the peak


class Cost(NamedTuple):
    """What a step costs for one image."""

    step: str
    seconds: float  # median over the repetitions
    operations: int  # of floating-point numbers


# torch counts fused attention on GPUs and MKL's products, and forgets the CPU's and oneDNN's.
_FORGOTTEN: dict[Any, Callable[..., int]] = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: (
        lambda query, key, value, *_, **__: sdpa_flop_count(query, key, value)
    )
}
if HAS_ONEDNN:
    _FORGOTTEN[torch.ops.mkldnn._linear_pointwise] = lambda inputs, weight, *_, **__: (
        2 * inputs.numel() * weight[0]
    )


def measure(step: str, work: Callable[[], object], repeats: int) -> Cost:
    """Runs a step once for its arithmetic, and then several times for its seconds."""
    # Torch does not see what the fused kernel computes.
    by_torch = patch.object(FusedKernel, "suits", return_value=False)
    with by_torch, FlopCounterMode(display=False, custom_mapping=_FORGOTTEN) as counter:
        work()
    seconds = median(timed(work) for _ in range(repeats))
    return Cost(step, seconds, counter.get_total_flops())


def peak(device: torch.device, precision: torch.dtype, by: Callable = product) -> float:
    """Returns the machine's operations a second in a matrix product, by default the encoder's."""
    left, right = (torch.rand(_PEAK_SIDE, _PEAK_SIDE).to(device, precision) for _ in range(2))
    cost = measure("peak", lambda: by(left, right), repeats=5)
    return cost.operations / cost.seconds


def steps(setup: Setup, size: tuple[int, int], machine_peak: float, repeats: int) -> str:
    """Returns what every step costs for one image of width and height ``size``."""
    (image,) = load_photographs(1, *size)
    return cost_table(cost_of_steps(setup, image, repeats), machine_peak)


@torch.no_grad()
def cost_of_steps(setup: Setup, image: np.ndarray, repeats: int) -> list[Cost]:
    """Measures the steps of tagging and of two tags' CAMs on one image, H×W×3 uint8.

    Weights may be random, since arithmetic does not depend on them. CWR classifies one batch of
    crops. Each step runs ``repeats`` times for its seconds.
    """
    encoder, text, crops = setup.encoder, setup.text, setup.batches.crops
    tagger, cam_method = setup.tagger(), setup.cam_method()
    native = encoder.prepare(image, squeeze=True).to(encoder.device)
    pixels = encoder.prepare(image).to(encoder.device)[None]
    grid = encoder.patch_grid(image)

    def voted_attention() -> VotedAttention:
        return VotedAttention(tagger.window, tagger.options.votes)

    def classify(features: torch.Tensor) -> torch.Tensor:
        return encoder.classify(features, text)

    voted, mean = voted_attention(), MeanAttention(cam_method.blocks)
    before = encoder.backbone(pixels, voted, mean)
    attention, affinity = voted.result(), mean.result()[0]
    scores = classify(encoder.value_features(before))
    proposals = setup.proposals(pixels[0], crops)
    chosen = torch.cat([text[list(TAGS)], text[setup.names[0] :]])
    cams = softmax_gradcam(encoder, before, chosen, len(TAGS))
    work = {
        "CLIP's class token, native size": lambda: encoder.image_features(native[None]),
        "CLIP's class token, own size": lambda: encoder.image_features(pixels),
        "blocks 1 to L−1, and all attentions": lambda: encoder.backbone(pixels, voted_attention()),
        "coarse scores (block L's values)": lambda: classify(encoder.value_features(before)),
        "DMAR": lambda: refine(attention, scores, grid, open_border=True),
        f"CWR, {crops} crops": lambda: tagger.cwr.classify(proposals, crops),
        "softmax Grad-CAM, 2 tags": lambda: softmax_gradcam(encoder, before, chosen, len(TAGS)),
        "class-aware attention affinity": lambda: refine_cams(
            cams, affinity, grid, threshold=cam_method.options.box_threshold, open_border=True
        ),
    }
    return [measure(step, run, repeats) for step, run in work.items()]


def cost_table(costs: Sequence[Cost], machine_peak: float) -> str:
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
    return section("Steps, for one image", header, rows)
