"""ONNX files in the form of export_onnx, written by hand, which takes no seconds."""

import json

import numpy as np

from tests.segmenter.tiny_training import CLASS_NAMES, PALETTE

FREE = ("batch", 3, "height", "width")
WEIGHT = np.array([[-1, -1, -1], [3, 0, 0], [0, 0, 3]], np.float32) / 100
"""Of each label, on red, green and blue: dark is background."""

METADATA = {
    "class_names": json.dumps(["background", *CLASS_NAMES]),
    "palette": json.dumps(PALETTE),
    "align_corners": "false",
    "limits": '{"longest_side": 1024, "patches": null}',
}


def write_graph(path, shape=FREE, metadata=METADATA, outputs=("logits", "labels"), **changes):
    """A network of one layer, which labels a pixel by its colour alone; returns the path."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    kind = changes.get("kind", TensorProto.FLOAT)
    weight = changes.get("weight", WEIGHT)[:, :, None, None]
    logits, labels = outputs
    nodes = [
        helper.make_node("Conv", ["image", "weight"], ["scores"]),
        helper.make_node("Cast", ["scores"], [logits], to=kind),
        helper.make_node("ArgMax", ["scores"], ["index"], axis=1, keepdims=0),
        helper.make_node("Cast", ["index"], [labels], to=TensorProto.UINT8),
    ]
    graph = helper.make_graph(
        nodes,
        "colours",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, shape)],
        [
            helper.make_tensor_value_info(logits, kind, None),
            helper.make_tensor_value_info(labels, TensorProto.UINT8, None),
        ],
        [changes.get("initializer", numpy_helper.from_array(weight, "weight"))],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    helper.set_model_props(model, metadata)
    onnx.save(model, path)
    return path


def scores_of(image):
    """The logits of the network, 3×H×W, of an image, H×W×3."""
    return np.einsum("kc,hwc->khw", WEIGHT, image.astype(np.float32))
