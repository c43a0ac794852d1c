"""ResCLIP's semantic feedback between the patches of one label (Yang et al., section 3.3)."""

import torch
import torch.nn.functional as F

BLUR_SIGMA = 5.0  # in patches of 16 pixels


def semantic_feedback(labels: torch.Tensor, blur_sigma: float = BLUR_SIGMA) -> torch.Tensor:
    """Returns F, the semantic feedback between patches, B×N×N float32 in [0, 1] (section 3.3).

    Patches of one label attend to each other, the less the farther they are apart, unless they are
    of one object. As in the released code, the Gaussian blurs each row as one sequence of patches,
    which runs on from the end of an image row to the beginning of the next. Labels are B×h×w int64;
    ``blur_sigma`` is its σ in patches: it has 31 taps if that is 5, and at most about N.
    """
    _, height, width = labels.shape
    flat = labels.flatten(1)
    apart = chebyshev(height, width, labels.device)
    decay = torch.exp(-apart / max(height - 1, width - 1, 1))
    connected = torch.stack([same_object(image, apart) for image in labels])
    feedback = torch.where(connected, 1.0, decay) * (flat[:, :, None] == flat[:, None])
    taps = min(height * width, int(6 * blur_sigma) + 1) // 2 * 2 + 1
    steps = torch.arange(taps, device=labels.device) - taps // 2
    kernel = torch.exp(-steps.square() / (2 * blur_sigma**2))
    kernel = (kernel / kernel.sum()).view(1, 1, -1)
    blurred = F.conv1d(feedback.flatten(0, 1).unsqueeze(1), kernel, padding=taps // 2)
    blurred = blurred.squeeze(1).unflatten(0, feedback.shape[:2])
    blurred = blurred / (blurred.sum(-1, keepdim=True) + 1e-8)
    return blurred / blurred.amax((1, 2), keepdim=True)


def chebyshev(height: int, width: int, device: torch.device) -> torch.Tensor:
    """Returns the larger of the distances of two patches in rows and in columns, N×N int64."""
    rows, columns = (torch.arange(side, device=device) for side in (height, width))
    vertical, horizontal = ((each[:, None] - each).abs() for each in (rows, columns))
    return torch.maximum(vertical[:, None, :, None], horizontal[:, None]).flatten(2).flatten(0, 1)


def same_object(labels: torch.Tensor, apart: torch.Tensor) -> torch.Tensor:
    """Tells whether the patches on the line from one patch to another have the label of the first.

    As in the released code, the line is cut into as many steps as the longest line of the image
    has, and only as many of them are looked at as the two patches are apart, see
    :func:`chebyshev`. Labels are h×w int64, the result is N×N bool.
    """
    height, width = labels.shape
    sides = [torch.arange(side, device=labels.device) for side in labels.shape]
    longest = max(labels.shape) - 1
    # By rows of both ends and then columns of both ends, h·h×w·w, whole rows are copied below.
    by_sides = (height, height, width, width)
    steps_apart = apart.view(height, width, height, width).transpose(1, 2).reshape(height**2, -1)
    start_labels = labels[:, None, :, None].expand(by_sides).reshape(height**2, -1)
    alike = torch.ones_like(start_labels, dtype=torch.bool)
    for step in range(1, longest + 1):
        # A line's row depends on the rows of its ends alone, and its column on their columns.
        rows, columns = (
            (start[:, None] + (step / longest) * (start - start[:, None])).round().long().flatten()
            for start in sides
        )
        alike &= (labels[:, columns][rows] == start_labels) | (steps_apart < step)
    return alike.view(by_sides).transpose(1, 2).reshape(apart.shape)
