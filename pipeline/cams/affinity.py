"""Class-aware attention-based affinity (CLIP-ES, section 3.4; docs/method.md, section 3)."""

import torch

from pipeline.cams.gradcam import normalise
from pipeline.clip.compute.boxes import union_of_boxes
from pipeline.clip.compute.linear import product
from pipeline.clip.device import to_host


def affinity(attention: torch.Tensor) -> torch.Tensor:
    """Returns the affinity of patches, N×N: Ā after Sinkhorn, made symmetric and squared.

    Sinkhorn's three steps divide by the column sums and then the row sums, so that both become ~1.
    """
    for _ in range(3):
        attention = attention / attention.sum(-2, keepdim=True)
        attention = attention / attention.sum(-1, keepdim=True)
    symmetric = (attention + attention.mT) / 2
    return product(symmetric, symmetric)  # product transposes its second argument


def refine_cams(
    cams: torch.Tensor,
    attention: torch.Tensor,
    grid: tuple[int, int],
    *,
    threshold: float,
    open_border: bool,
) -> torch.Tensor:
    """Propagates every CAM to patches of high affinity, from boxes around its strong regions.

    Args:
        cams: K×N float32 in [0, 1], as the result.
        attention: Ā of the image, N×N float32.
        grid: h, w.
        threshold: φ, the share of a CAM's peak above which a patch belongs to a region.
        open_border: quirk, see :func:`pipeline.clip.compute.boxes.bounding_box`.
    """
    [maps] = to_host(cams.unflatten(1, grid))
    masks = union_of_boxes(maps, [threshold] * len(maps), open_border=open_border)
    boxes = torch.from_numpy(masks).flatten(1).to(cams.device)
    return normalise((cams * boxes) @ affinity(attention).mT)
