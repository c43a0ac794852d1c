"""Converts CAMs of CLIP-ES and IRN, <id>.npy, to <id>.npz, which cams=file reads.

python convert_cams.py NPY_FOLDER NPZ_FOLDER

The files are pickles, which can run code: convert your own, in the environment that wrote them.
"""

import sys
from pathlib import Path

import numpy as np

NAMES = ("attn_highres", "high_res", "highres", "strided_cam", "cam")  # the first one is taken
SOURCE, TARGET = map(Path, sys.argv[1:])

for path in sorted(SOURCE.rglob("*.npy")):
    read = np.load(path, allow_pickle=True).item()
    cams = next(read[name] for name in NAMES if name in read)
    target = TARGET / path.relative_to(SOURCE).with_suffix(".npz")
    target.parent.mkdir(parents=True, exist_ok=True)
    cams = np.array([np.asarray(cam) for cam in cams])  # of arrays or of PyTorch's tensors
    np.savez_compressed(target, keys=np.asarray(read["keys"]), cams=cams)
