"""The network of a segmenter as an ONNX file, which requires no mmsegmentation.

The checks of classes and CRF are for checkpoints, too.
"""

import json
import os
from dataclasses import astuple
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from pipeline.clip.device import is_cpu
from pipeline.configuration.settings import check
from pipeline.datasets.settings import CrfOptions
from pipeline.errors import UserError, shown, tell
from pipeline.files.label_images import IGNORE
from pipeline.segmenter.limits import Limits

IMAGE, LOGITS, LABELS = "image", "logits", "labels"
"""The input of a graph, and its outputs."""

Names = tuple[str, ...]
Palette = tuple[tuple[int, int, int], ...]

_EXTERNAL_WEIGHTS = "session.model_external_initializers_file_folder_path"
_SPINNING = "session.intra_op.allow_spinning"
_CPU, _GPU = "CPUExecutionProvider", "CUDAExecutionProvider"


class OnnxGraph:
    """A graph of :func:`pipeline.segmenter.export.export_onnx`, in ONNX Runtime.

    For ``align_corners`` see ``torch.nn.functional.interpolate``.
    """

    takes_batches = False  # a graph may take a single image

    def __init__(self, content: bytes, name: object = "the graph", device: str = "cpu") -> None:
        """Reads the bytes of a file, and no other file that they may name; errors have its name.

        Raises a UserError if ONNX Runtime is missing, or the graph is damaged or not a segmenter's.
        """
        self._arguments, self._name = (content, name, device), shown(name)
        try:
            import onnxruntime
        except ImportError as error:
            raise UserError(
                f"{self._name} requires onnxruntime, of the extra export: pip install onnxruntime"
            ) from error
        providers = [_CPU] if is_cpu(device) else [_GPU, _CPU]
        if not {*providers} <= {*onnxruntime.get_available_providers()}:
            providers = [_CPU]
            tell("note: ONNX Runtime computes on the CPU: install onnxruntime-gpu to use the GPU")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 4  # failures raise exceptions
        # Waiting threads would take cores from PyTorch's, and from other processes: docs/speed.md.
        options.add_session_config_entry(_SPINNING, "0")
        # Weights in other files would be looked for in the working directory.
        options.add_session_config_entry(_EXTERNAL_WEIGHTS, os.devnull)
        try:
            self._session = onnxruntime.InferenceSession(content, options, providers=providers)
            facts = self._session.get_modelmeta().custom_metadata_map
            described = [json.loads(facts[key]) for key in ("class_names", "palette")]
            self.class_names, self.palette = check_classes(*described)
            (image,), outputs = self._session.get_inputs(), self._session.get_outputs()
            batch, _, *size = [side if isinstance(side, int) else None for side in image.shape]
            if batch not in (None, 1) or not {LOGITS, LABELS} <= {each.name for each in outputs}:
                raise ValueError("other inputs or outputs")
            is_fixed = None not in size
            self.align_corners = facts.get("align_corners") == "true" and not is_fixed
            limits = Limits.of(json.loads(facts["limits"]))
            self.limits = limits._replace(size=tuple(size)) if is_fixed else limits
            self.crf = check_crf(json.loads(facts.get("crf", "null")))
        except Exception as error:  # ONNX Runtime's have no common type
            raise UserError(
                f"{self._name} is damaged or not a segmenter of tools/export_onnx.py"
                f" ({_reason(error)}): choose another file"
            ) from error

    def __reduce__(self) -> tuple[Any, ...]:
        return OnnxGraph, self._arguments

    def run(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns logits, N×(n+1)×H×W float32, and labels, N×H×W uint8, of N×3×H×W float32, RGB.

        Raises a UserError if the graph does not take the images, or returns something else.
        """
        count, _, *size = images.shape
        try:
            logits, labels = self._session.run([LOGITS, LABELS], {IMAGE: images})
            if logits.shape != (count, len(self.class_names), *size) or logits.dtype != np.float32:
                shape = "×".join(map(str, logits.shape))
                raise ValueError(f"its logits are {shape} {logits.dtype}")
        except Exception as error:  # see above
            raise UserError(
                f"{self._name} cannot segment an image of {'×'.join(map(str, size))} pixels"
                f" ({_reason(error)}): write it again with tools/export_onnx.py"
            ) from error
        return logits, labels

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """Returns logits, N×(n+1)×H×W float32, of N×3×H×W uint8, RGB."""
        logits, _ = self.run(images.float().numpy())
        return torch.from_numpy(logits)


def check_classes(names: object, palette: object) -> tuple[Names, Palette]:
    """Returns the names and colours of a file; a ValueError unless there is a colour for each."""
    colours = np.array(palette)
    if (
        not isinstance(names, list)
        or not all(isinstance(name, str) for name in names)
        or len(names) > IGNORE
        or colours.shape != (len(names), 3)
        or colours.dtype.kind != "i"
        or not 0 <= colours.min() <= colours.max() <= 255
    ):
        raise ValueError("no names with a colour each")
    "".join(names).encode()  # half a surrogate pair is a ValueError
    return tuple(names), tuple(map(tuple, colours.tolist()))


def check_crf(given: object) -> CrfOptions | None:
    """Returns the constants of a file's CRF, or none; an error unless they are as in settings."""
    if given is None:
        return None
    crf = CrfOptions(**given)
    if {type(each) for each in astuple(crf)} - {int, float} or type(crf.iterations) is float:
        raise TypeError("constants that are not numbers")
    check(crf)
    return crf


def resize_scores(
    scores: torch.Tensor, size: tuple[int, int], align_corners: bool, antialias: bool = False
) -> torch.Tensor:
    """Resizes logits, N×C×h×w, to a height and a width, bilinearly."""
    if tuple(scores.shape[2:]) == size:
        return scores
    how = {"align_corners": align_corners, "antialias": antialias}
    return functional.interpolate(scores, size, mode="bilinear", **how)


def _reason(error: Exception) -> str:
    """Returns what an error says; those of ONNX Runtime begin with a number and a name."""
    if isinstance(error, KeyError):
        return f"no {error.args[0]} in its metadata"
    return shown(str(error).split(" : ", 3)[-1].rstrip("."))
