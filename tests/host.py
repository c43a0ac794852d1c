"""A program that imports the package, and names what the package changed in its process."""

from __future__ import annotations

import ctypes
import json
import logging
import os
import random
import signal
import sys
import threading
import warnings
from pathlib import Path
from typing import Any

# What these change when they are imported is not the package's doing.
import hydra  # noqa: F401
import matplotlib.pyplot  # noqa: F401
import mmcv  # noqa: F401
import mmengine.runner  # noqa: F401
import numpy as np
import open_clip
import PIL.Image
import PIL.ImageFile
import scipy.special  # noqa: F401
import skimage  # noqa: F401
import sklearn  # noqa: F401
import timm  # noqa: F401
import torch

_LARGE = 2**28  # bytes, which glibc maps unless it is told to keep freed memory

TINY = {
    "embed_dim": 32,
    "quick_gelu": True,
    "vision_cfg": {"layers": 4, "width": 64, "patch_size": 16, "image_size": 64},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 1, "layers": 2},
}
"""The architecture of :mod:`tests.tiny_clip`, as open_clip reads it."""


class _Allocations(ctypes.Structure):
    names = "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost"
    _fields_ = [(name, ctypes.c_size_t) for name in names.split()]


def maps_large_arrays() -> bool:
    """Tells whether glibc gives large arrays back to the system; true with another C library."""
    try:
        inform = ctypes.CDLL(None).mallinfo2
    except (OSError, AttributeError):
        return True
    inform.restype = _Allocations
    before = inform().hblkhd
    array = np.empty(_LARGE, np.uint8)
    return inform().hblkhd - before >= array.nbytes


def state() -> dict[str, Any]:
    """Returns what belongs to the whole process."""
    known = logging.root.manager.loggerDict.items()
    loggers = {n: each for n, each in known if isinstance(each, logging.Logger) and each.level}
    matmul = torch.backends.cuda.matmul
    return {
        "allocator": maps_large_arrays(),
        "disabled logs": logging.root.manager.disable,
        "levels": {n: each.level for n, each in [("", logging.root), *loggers.items()]},
        "handlers": [*map(str, logging.root.handlers), *map(str, logging.root.filters)],
        "warnings": list(map(str, warnings.filters)),
        "images": (PIL.Image.MAX_IMAGE_PIXELS, PIL.ImageFile.LOAD_TRUNCATED_IMAGES),
        "environment": dict(os.environ),
        "signals": {n: str(signal.getsignal(n)) for n in signal.valid_signals()},
        "hooks": (sys.excepthook, threading.excepthook, sys.stdout, sys.stderr),
        "random": random.getstate(),
        "numpy's random": [str(part) for part in np.random.get_state()],
        "torch's random": torch.get_rng_state().tolist(),
        "numpy's errors": np.geterr(),
        "threads": (torch.get_num_threads(), torch.get_num_interop_threads()),
        "types": (torch.get_default_dtype(), torch.get_default_device()),
        "gradients": torch.is_grad_enabled(),
        "precision": (
            torch.get_float32_matmul_precision(),
            matmul.allow_tf32,
            torch.backends.cudnn.allow_tf32,
            torch.backends.cudnn.benchmark,
            torch.backends.mkldnn.enabled,
            torch.are_deterministic_algorithms_enabled(),
        ),
        "start method": torch.multiprocessing.get_start_method(allow_none=True),
        "stand-ins": "mmcv._ext" in sys.modules,
        "paths": (sys.path.copy(), Path.cwd(), sys.getrecursionlimit()),
    }


def main(clip: str, run: str, photograph: str) -> None:
    """Labels and segments a photograph; prints what each of the two changed."""
    logging.disable(logging.DEBUG)  # a choice of this program's own
    config = Path(clip).with_name("tiny.json")
    config.write_text(json.dumps(TINY))
    open_clip.add_model_config(config)
    changed: dict[str, list[str]] = {}
    before = state()

    def compare(name: str) -> None:
        nonlocal before
        after = state()
        changed[name] = [key for key in before if before[key] != after[key]]
        before = after

    from pipeline import Labeller, Segmenter, load_image

    overrides = ["tags.votes=2", "tags.templates=piaa"]
    Labeller(["cat", "cup"], checkpoint=clip, overrides=overrides)(load_image(photograph))
    compare("Labeller")
    overrides += ["clip.model=tiny", "cams=sclip", "masks=dense", "masks.short_side=80"]
    Labeller(["cat", "cup"], checkpoint=clip, overrides=overrides)(photograph)
    compare("Labeller of a named CLIP")
    segmenter = Segmenter.from_run(Path(run))
    segmenter.refine(photograph, segmenter.probabilities(photograph, (0.5, 1), flip=True))
    compare("Segmenter")
    print(json.dumps(changed))


if __name__ == "__main__":
    main(*sys.argv[1:])
