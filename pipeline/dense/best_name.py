"""Labels from similarities: the class of the name that is most similar to a pixel."""

from collections.abc import Callable, Collection, Iterator, Sequence

import torch

from pipeline.clip.device import to_host
from pipeline.dense.windows import resize


def best_classes(
    similarities: torch.Tensor,
    classes: Sequence[int],
    size: tuple[int, int],
    temperature: float | None,
    min_area: float = 0.0,
    after_enlarging: Callable[[torch.Tensor], torch.Tensor] = lambda enlarged: enlarged,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns the best class of every pixel, H×W uint8, and its probability, float32 in [0, 1].

    The probability of a class is the largest one of its names in a softmax over all names. One name
    is resized at a time, so that memory does not grow with their number.

    Args:
        similarities: of C names, C×h×w float32.
        classes: the label of each name; 0 is the background, if there is one.
        size: height and width of the result in pixels.
        temperature: the factor of the similarities in the softmax; none if they are probabilities
            already.
        min_area: classes above 0 that cover at most this share of the pixels of such classes are
            removed.
        after_enlarging: what a method does to each name then, H×W.
    """

    def logits(wanted: Collection[int]) -> Iterator[tuple[int, torch.Tensor]]:
        for label_of_name, each in zip(classes, similarities):
            if label_of_name in wanted:
                resized = after_enlarging(resize(each[None], size)[0])
                if temperature is None:
                    yield label_of_name, resized.clamp(min=1e-30).log()  # finite
                else:
                    yield label_of_name, temperature * resized

    best, label, total = _largest(logits(classes))
    probability = 1 / total
    if min_area > 0:
        area = torch.bincount(label.flatten().long(), minlength=max(classes) + 1)[1:]
        is_large = [True, *to_host(area > min_area * area.sum())[0].tolist()]
        left, label, _ = _largest(logits([c for c in classes if is_large[c]]))
        probability = probability * (left - best).exp_()
    return label, probability


def _largest(
    logits: Iterator[tuple[int, torch.Tensor]],
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Returns the largest logit of pixels, its class, and Σ exp(logit − largest), H×W each.

    Of equal logits the first counts.
    """
    label_of_name, best = next(logits)
    label, total = torch.full_like(best, label_of_name, dtype=torch.uint8), torch.ones_like(best)
    for label_of_name, each in logits:
        label[each > best] = label_of_name
        larger = torch.maximum(best, each)
        total = total * (best - larger).exp_() + (each - larger).exp_()
        best = larger
    return best, label, total
