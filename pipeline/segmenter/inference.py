"""What is done around a network when it is tested: other scales before it, the CRF behind it.

Nothing here needs mmsegmentation, so that processes of a pool start without importing it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from multiprocessing import get_context
from typing import TypeVar

import numpy as np
import torch

from pipeline.errors import UserError
from pipeline.masks.crf import CrfSettings, dense_crf

Item = TypeVar("Item")
Result = TypeVar("Result")

CLEAN_CRF = CrfSettings(bgr=False, fp16=False)
"""The constants of the literature on weak supervision, on the image as it is."""


def check_scales(scales: Sequence[float]) -> None:
    """Checks the factors that an image is resized by.

    Raises:
        UserError: there is none, or one is not above 0.
    """
    if not scales or not all(0 < scale < np.inf for scale in scales):
        shown = " ".join(f"{scale:g}" for scale in scales) or "nothing"
        raise UserError(f"scales are {shown}: give numbers above 0, as in 0.5 1.0 1.5")


def scale_image(image: np.ndarray, scale: float) -> np.ndarray:
    """Resizes an image as mmsegmentation's test pipeline does, by OpenCV's bilinear filter.

    Args:
        image: H×W×3 uint8.
        scale: above 0.

    Returns:
        h×w×3 uint8; sides are rounded as by mmcv's ``Resize(scale_factor=…, keep_ratio=True)``,
        to 1 at least.
    """
    if scale == 1:
        return image
    from mmcv.image import imresize, rescale_size

    width, height = image.shape[1], image.shape[0]
    # mmcv rounds twice: the box that the image has to fit in, then the sides in it.
    box = (max(1, int(width * scale + 0.5)), max(1, int(height * scale + 0.5)))
    size = tuple(max(1, side) for side in rescale_size((width, height), box))
    return imresize(image, size, interpolation="bilinear", backend="cv2")


def refine(
    image: np.ndarray, probabilities: np.ndarray, crf: CrfSettings = CLEAN_CRF
) -> np.ndarray:
    """Sharpens probabilities along the edges of the image with the fully connected CRF.

    Args:
        image: H×W×3 uint8, RGB.
        probabilities: C×H×W float32.
        crf: the CRF's constants.

    Returns:
        C×H×W float32 that sums to 1 over C.
    """
    if probabilities.shape[1:] != image.shape[:2]:
        raise ValueError(f"{probabilities.shape} probabilities for an image of {image.shape}")
    if len(probabilities) == 1:
        return np.ones_like(probabilities)  # a single class is certain; the CRF wants two
    return dense_crf(image, probabilities, crf)


def in_processes(
    items: Iterable[Item], work: Callable[[Item], Result], workers: int
) -> Iterator[Result]:
    """Does work in processes while this one goes on producing items, such as what a network sees.

    pydensecrf holds the GIL, so that threads would wait for each other and for the network.

    Args:
        items: taken one by one, no more ahead of the results than keep the processes busy, since
            the probabilities of a photograph take many megabytes.
        work: a function that can be pickled; whatever it raises is raised here.
        workers: processes; 1 works in this one.

    Yields:
        What the work returns, in the order of the items.
    """
    if workers <= 1:
        yield from map(work, items)
        return
    pending: deque[Future[Result]] = deque()
    # A fork of a process whose threads compute, as PyTorch's do, may hang.
    context = get_context("spawn")
    with ProcessPoolExecutor(workers, context, initializer=_use_one_thread) as pool:
        try:
            for item in items:
                pending.append(pool.submit(work, item))
                if len(pending) > workers:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()


def _use_one_thread() -> None:
    """There is a process for every core."""
    torch.set_num_threads(1)
