"""ONNX files as the networks of segmenters."""

import json
import pickle
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional

from pipeline.datasets.settings import CrfOptions
from pipeline.errors import UserError
from pipeline.segmenter.predict import Segmenter, scale_image
from tests.segmenter.tiny_graphs import METADATA, WEIGHT, scores_of, write_graph
from tests.segmenter.tiny_segmenters import noise
from tests.segmenter.tiny_training import CLASS_NAMES, PALETTE


@pytest.fixture(scope="module")
def segmenter(tmp_path_factory):
    return Segmenter.from_run(write_graph(tmp_path_factory.mktemp("graph") / "model.onnx"))


def resized(scores, size):
    tensor = torch.from_numpy(scores)[None]
    return functional.interpolate(tensor, size, mode="bilinear")[0].numpy()


@pytest.mark.parametrize("shape", [(40, 48), (33, 57), (1, 1)])
def test_a_graph_is_a_segmenter(segmenter, shape):
    assert segmenter.class_names == ("background", *CLASS_NAMES)
    assert segmenter.palette == tuple(PALETTE)
    image = noise(*shape)
    logits = segmenter.logits(image)
    assert logits.shape == (3, *shape) and logits.dtype == np.float32
    np.testing.assert_allclose(logits, scores_of(image), atol=1e-5)
    assert np.array_equal(segmenter(image), logits.argmax(0))


def test_scales_and_mirror_images_are_averaged(segmenter):
    image, scales = noise(30, 45), (0.5, 1.0)
    views = [resized(scores_of(scale_image(image, scale)), (30, 45)) for scale in scales]
    wanted = torch.from_numpy(np.stack(views)).softmax(1).mean(0).numpy()
    # The network looks at single pixels, so that mirror images add the same.
    np.testing.assert_allclose(segmenter.probabilities(image, scales), wanted, atol=1e-5)
    np.testing.assert_allclose(segmenter.probabilities(image, (1.0,), True).sum(0), 1, atol=1e-5)


def test_a_graph_of_one_size_resizes_images_and_scores(tmp_path):
    segmenter = Segmenter.from_run(write_graph(tmp_path / "m.onnx", (1, 3, 32, 40)))
    image = noise(64, 120)
    smaller = np.asarray(Image.fromarray(image).resize((40, 32), Image.Resampling.BICUBIC))
    wanted = resized(scores_of(smaller), (64, 120))
    np.testing.assert_allclose(segmenter.logits(image), wanted, atol=1e-5)
    exact = noise(32, 40)
    np.testing.assert_allclose(segmenter.logits(exact), scores_of(exact), atol=1e-5)
    assert np.array_equal(segmenter.probabilities(image, (1,)), segmenter.probabilities(image))
    with pytest.raises(UserError, match="32×40, so scales would change"):
        segmenter.probabilities(image, (0.5, 1.0))


def test_labels_of_a_graph_pass_the_crf_that_it_names(tmp_path):
    path = write_graph(tmp_path / "m.onnx", **described(crf={"iterations": 3}))
    segmenter, image = Segmenter.from_run(path), noise(30, 45)
    assert segmenter.crf == CrfOptions(iterations=3)
    refined = segmenter.refine(image, segmenter.probabilities(image), segmenter.crf).argmax(0)
    assert np.array_equal(segmenter(image), refined)
    assert not np.array_equal(refined, segmenter.logits(image).argmax(0))


def test_a_graph_can_be_sent_to_another_process(segmenter):
    sent = pickle.loads(pickle.dumps(segmenter))
    assert np.array_equal(sent.logits(noise(9, 9)), segmenter.logits(noise(9, 9)))
    options = sent.network._session.get_session_options()
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"


def external():
    """Weights in a file that lies beside the graph."""
    from onnx import TensorProto

    tensor = TensorProto(name="weight", data_type=TensorProto.FLOAT, dims=[3, 3, 1, 1])
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="weights.bin")
    return tensor


def described(**changes):
    return {"metadata": METADATA | {k: json.dumps(v) for k, v in changes.items()}}


BROKEN = {
    "no metadata": {"metadata": {}},
    "no palette": {"metadata": {"class_names": METADATA["class_names"]}},
    "no limits": {"metadata": {k: v for k, v in METADATA.items() if k != "limits"}},
    "other limits": described(limits={"pixels": 5}),
    "a negative limit": described(limits={"longest_side": -5}),
    "a limit of no patches": described(limits={"patches": [16, 0]}),
    "a limit in words": described(limits={"patches": "16"}),
    "another CRF": described(crf={"steps": 5}),
    "a CRF without end": described(crf={"iterations": 10**6}),
    "half a step of a CRF": described(crf={"iterations": 2.5}),
    "a CRF in words": described(crf={"bilateral_sxy": "67"}),
    "no JSON": {"metadata": METADATA | {"class_names": "['a'"}},
    "nested": {"metadata": METADATA | {"class_names": "[" * 100_000}},
    "numbers": described(class_names=[1, 2, 3]),
    "one name": described(class_names="abc"),
    "no name": described(class_names=[], palette=[]),
    "half a character": described(class_names=["background", "\ud800", "blue"]),
    "short palette": described(palette=[[0, 0, 0]]),
    "no colours": described(palette=[[0, 0, 256]] * 3),
    "huge colours": described(palette=[[0, 0, 10**40]] * 3),
    "256 names": described(class_names=["a"] * 256, palette=[[0, 0, 0]] * 256),
    "a batch of four": {"shape": (4, 3, "height", "width")},
    "a vector": {"shape": (3,)},
    "other outputs": {"outputs": ("scores_", "labels")},
    "weights elsewhere": {"initializer": external},
}


@pytest.mark.parametrize("kind", BROKEN)
def test_an_unusable_graph_is_one_sentence(tmp_path, monkeypatch, kind):
    monkeypatch.chdir(tmp_path)
    WEIGHT.tofile("weights.bin")
    changes = {k: v() if callable(v) else v for k, v in BROKEN[kind].items()}
    with pytest.raises(UserError, match="m.onnx is damaged or not a segm") as caught:
        Segmenter.from_run(write_graph(tmp_path / "m.onnx", **changes))
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500


@pytest.mark.parametrize(
    ("content", "why"), [(b"", "graph"), (b"nothing", "protobuf"), (bytes(1000), "protobuf")]
)
def test_a_damaged_graph_is_one_sentence(tmp_path, content, why):
    (tmp_path / "m.onnx").write_bytes(content)
    with pytest.raises(UserError, match=rf"m.onnx is damaged or not a segmenter .*\(.*{why}"):
        Segmenter.from_run(tmp_path / "m.onnx")


@pytest.mark.parametrize(
    "changes, why",
    [
        ({"weight": WEIGHT[:2]}, "logits are 1×2×9×9 float32"),
        ({"kind": 11}, "logits are 1×3×9×9 float64"),
        ({"shape": ("batch", 4, "height", "width")}, "Got invalid dimensions"),
    ],
)
def test_other_outputs_than_the_metadata_say_are_one_sentence(tmp_path, changes, why):
    segmenter = Segmenter.from_run(write_graph(tmp_path / "m.onnx", **changes))
    with pytest.raises(UserError, match=f"cannot segment an image of 9×9 pixels .*{why}") as caught:
        segmenter(noise(9, 9))
    assert "\n" not in str(caught.value)


def test_missing_packages_are_named_with_the_remedy(tmp_path, monkeypatch):
    path = write_graph(tmp_path / "m.onnx")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(UserError, match="extra export: pip install"):
        Segmenter.from_run(path)


def test_a_gpu_without_its_runtime_is_noted(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("pipeline.segmenter.predict.choose_device", lambda _: "cuda")
    segmenter = Segmenter.from_run(write_graph(tmp_path / "m.onnx"), "auto")
    assert "ONNX Runtime computes on the CPU" in capsys.readouterr().err
    assert segmenter(noise(9, 9)).shape == (9, 9)
