"""Writes a network as a single ONNX file that takes images without preprocessing."""

import importlib.util
import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from pipeline.configuration.settings import plain
from pipeline.errors import UserError, tell
from pipeline.files.own_files import OwnFiles
from pipeline.segmenter.architecture import first_line
from pipeline.segmenter.onnx_network import IMAGE, LABELS, LOGITS, OnnxGraph
from pipeline.segmenter.predict import Segmenter

_MAX_PIXELS = 4096 * 4096
_PACKAGES = ("onnx", "onnxscript", "onnxruntime")
_AXES = {0: "batch", 2: "height", 3: "width"}  # of the input
_MAX_BYTES = 2**31 - 2**24  # of a single file, less what describes the graph
# ONNX Runtime and PyTorch round differently, and weights may be rounded to fp16.
_MIN_AGREEMENT = {False: 0.999, True: 0.99}  # share of labels, by whether they are
_MAX_DIFFERENCE = {False: 0.001, True: 0.02}  # of logits, relative to the largest


class Shape(NamedTuple):
    """The number and the size of the images that a graph takes; none stands for any."""

    batch: int | None
    height: int | None
    width: int | None


def export_onnx(
    segmenter: Segmenter,
    path: Path,
    height: int,
    width: int,
    *,
    dynamic: bool = False,
    half: bool = False,
) -> Shape:
    """Writes a segmenter as an ONNX graph that includes pre- and postprocessing.

    The input ``image`` is N×3×H×W float32, RGB in [0, 255]: normalisation, channel order and
    padding are part of the graph. The outputs are ``logits``, N×(n+1)×H×W float32, and ``labels``,
    N×H×W uint8. The metadata hold ``class_names`` and ``palette`` as JSON, the background first.

    PyTorch's exporter based on ``torch.export`` writes the graph. ONNX Runtime then runs it, and
    the file is written only if its outputs agree with the network. The dynamic graphs of some
    networks, such as those that pool to a fixed grid, work for a single size and fail this test.

    Returns the shape of the graph's input: one image of ``height`` and ``width``, in pixels. If
    ``dynamic``, it takes any number and size of images; if the network does not allow that, one
    image of any size, or else of this size. If ``half``, weights are rounded to fp16, and what this
    changes is printed. Raises a UserError if packages are missing, the size is not positive or too
    large, or the network cannot be written, or not as a single file.
    """
    if missing := [name for name in _PACKAGES if importlib.util.find_spec(name) is None]:
        raise UserError(
            f"writing ONNX needs {' and '.join(missing)}: pip install {' '.join(missing)}"
        )
    if not isinstance(segmenter.network, nn.Module):
        raise UserError("this segmenter is an ONNX file already: give a checkpoint of stage=train")
    if min(height, width) < 1:
        raise UserError(f"{height}×{width} is not a size of images: give pixels above 0")
    if height * width > _MAX_PIXELS:
        raise UserError(
            f"{height}×{width} pixels are more than the {_MAX_PIXELS} for which a graph can be"
            " tried: give a smaller size, and let the graph be dynamic for larger images"
        )
    fixed = Shape(1, height, width)
    wanted = [Shape(None, None, None), Shape(1, None, None)] if dynamic else []
    output = OwnFiles(path.parent, "export_onnx.py")
    output.refuse_foreign([path])
    network = _WithLabels(segmenter.network).eval()
    size = sum(each.nbytes for each in network.state_dict().values()) / (1 + half)
    tell(f"note: the file will hold about {size / 1e6:.0f} MB")
    if size > _MAX_BYTES:
        raise UserError(
            f"a network of {size / 1e9:.1f} GB does not fit into an ONNX file, which holds 2.1 GB:"
            f" {'choose a smaller backbone' if half else 'give --half'}"
        )
    for shape in [*wanted, fixed]:
        try:
            model, images = _export(network, segmenter, shape, fixed)
            if size * (1 + half) < _MAX_BYTES:
                _compare(model, segmenter, images, half=False)
            break
        except Exception as error:  # the exporter and ONNX Runtime raise many types
            if shape != fixed:
                continue
            cause = error
            while cause.__cause__ is not None:  # the exporter wraps it in advice for its developers
                cause = cause.__cause__
            raise UserError(
                f"the segmenter's network cannot be written as ONNX ({first_line(cause)}): choose"
                " another segmenter"
            ) from error
    if half:
        _round_weights(model.graph)
        try:
            notes = _compare(model, segmenter, images, half)
        except ValueError as error:
            raise UserError(f"with weights rounded to fp16, {error}: leave out --half") from error
        for note in notes:
            tell(f"note: {note}")
    output.write(path, model.SerializeToString())
    return shape


class _WithLabels(nn.Module):
    """A network that also returns the label of every pixel."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns logits, N×(n+1)×H×W, and labels, N×H×W uint8, of N×3×H×W in [0, 255]."""
        logits = self.network(image)
        return logits, logits.argmax(1).to(torch.uint8)


def _export(
    network: nn.Module, segmenter: Segmenter, shape: Shape, example: Shape
) -> tuple[Any, list[np.ndarray]]:
    """Returns a graph with classes and colours, and images on which to compare it."""
    import onnx

    device = next(network.parameters()).device
    batch = example.batch if shape.batch else 2  # the exporter takes a size of 1 for a constant
    pixels = torch.zeros(batch, 3, example.height, example.width, device=device)
    free = {axis: name for (axis, name), size in zip(_AXES.items(), shape) if size is None}
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            network,
            (pixels,),
            dynamo=True,
            verbose=False,
            input_names=[IMAGE],
            output_names=[LOGITS, LABELS],
            opset_version=18,  # the oldest that PyTorch's exporter writes without a conversion
            dynamic_shapes={IMAGE: free} if free else None,
        )
    model = program.model_proto
    del model.graph.value_info[:]  # shapes of intermediate values, by generated names
    side, patches, _ = segmenter.network.limits.for_photographs()
    onnx.helper.set_model_props(
        model,
        {
            "class_names": json.dumps(segmenter.class_names, ensure_ascii=False),
            "palette": json.dumps(segmenter.palette),
            "size": json.dumps(shape._asdict()),  # null stands for any
            "limits": json.dumps({"longest_side": side, "patches": patches}),
            "crf": json.dumps(plain(segmenter.crf)),
            "align_corners": json.dumps(segmenter.network.align_corners),
            "input": "image: N×3×H×W float32, RGB in [0, 255]",
            "output": "logits: N×(n+1)×H×W float32; labels: N×H×W uint8, 0 the first class name",
        },
    )
    # Outputs are compared on several images, and of several sizes, where these are free.
    height, width = example.height, example.width
    sizes, count, rng = [(height, width)], 1 if shape.batch else 3, np.random.default_rng(0)
    if shape.height is None:
        sizes += [(height // 2 + 3, width + 21), (height + 13, width // 2 + 5)]
    return model, [rng.integers(0, 256, (count, *size, 3), dtype=np.uint8) for size in sizes]


def _round_weights(graph: Any) -> None:  # noqa: ANN401
    """Rounds the weights of a graph to fp16, from which it makes fp32 when it is read."""
    from onnx import TensorProto, helper, numpy_helper

    casts, fp32 = [], TensorProto.FLOAT
    for weight in graph.initializer:
        if weight.data_type == fp32 and len(weight.dims) > 1:
            name, rounded = weight.name, numpy_helper.to_array(weight).astype(np.float16)
            casts.append(helper.make_node("Cast", [f"{name}_fp16"], [name], to=fp32))
            weight.CopyFrom(numpy_helper.from_array(rounded, f"{name}_fp16"))
    nodes = [*casts, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)


def _compare(
    model: Any,  # noqa: ANN401
    segmenter: Segmenter,
    images: Sequence[np.ndarray],
    half: bool,
) -> list[str]:
    """Returns how a graph's outputs differ on arrays of images; a ValueError if it is too much."""
    import onnx

    onnx.checker.check_model(model)
    graph, found = OnnxGraph(model.SerializeToString()), []
    for several in images:
        pixels = np.ascontiguousarray(several.transpose(0, 3, 1, 2), np.float32)
        logits, labels = graph.run(pixels)
        with torch.inference_mode():  # of images as large as they are, see Segmenter.logits
            taken = [segmenter.network(torch.from_numpy(each[None])) for each in pixels]
        wanted = torch.cat(taken).cpu().numpy()
        difference = np.abs(logits - wanted).max() / np.abs(wanted).max()
        agreement = float((labels == wanted.argmax(1)).mean())
        size = "×".join(map(str, several.shape[1:3]))
        changes = f"{1 - agreement:.2%} of its labels differ, and scores by up to {difference:.2%}"
        found.append(f"on images of {size} pixels {changes}")
        # Labels alone would not do: a network may give all pixels of random images the same label.
        if agreement < _MIN_AGREEMENT[half] or not difference < _MAX_DIFFERENCE[half]:
            raise ValueError(found[-1])
    return found
