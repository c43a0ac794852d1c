"""Networks as ONNX files."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from pipeline.datasets.settings import CrfOptions
from pipeline.errors import UserError
from pipeline.segmenter import export
from pipeline.segmenter.export import Shape, export_onnx
from pipeline.segmenter.onnx_network import OnnxGraph
from pipeline.segmenter.predict import Segmenter
from tests.extras import library
from tests.segmenter.test_frozen_tower import SETTINGS, TOWERS, load_tower
from tests.segmenter.tiny_graphs import write_graph
from tests.segmenter.tiny_segmenters import UNET, balanced_segmenter, noise
from tests.segmenter.tiny_training import tiny_settings, train_tiny, write_pairs

GRAPH = SimpleNamespace(SerializeToString=lambda: b"graph")


def assert_same(path, segmenter, images):
    pixels = images.transpose(0, 3, 1, 2).astype(np.float32)
    logits, labels = OnnxGraph(path.read_bytes()).run(pixels)
    wanted = np.stack([segmenter.logits(image) for image in images])
    assert logits.shape == wanted.shape and labels.dtype == np.uint8
    assert np.abs(logits - wanted).max() < 1e-4 * np.abs(wanted).max()
    assert (labels == wanted.argmax(1)).mean() > 0.999
    assert len(np.unique(labels)) == 3, "labels that all agree would prove nothing"


@pytest.mark.large
def test_any_number_of_images_of_any_size(tmp_path):
    import onnx

    segmenter = balanced_segmenter()
    path = tmp_path / "new" / "model.onnx"
    assert export_onnx(segmenter, path, 40, 48, dynamic=True) == Shape(None, None, None)
    assert [p.name for p in path.parent.glob("[!.]*")] == ["model.onnx"], "weights are inside"
    for count, *size in [(1, 40, 48), (1, 33, 57), (2, 71, 20)]:
        assert_same(path, segmenter, np.stack([noise(*size, seed) for seed in range(count)]))
    model = onnx.load(path)
    properties = {entry.key: entry.value for entry in model.metadata_props}
    assert json.loads(properties["class_names"]) == ["background", "red", "blue"]
    assert json.loads(properties["palette"]) == [[0, 0, 0], [255, 0, 0], [0, 0, 255]]
    assert "RGB in [0, 255]" in properties["input"]
    assert json.loads(properties["size"]) == {"batch": None, "height": None, "width": None}
    sides = model.graph.input[0].type.tensor_type.shape.dim
    assert [side.dim_param or side.dim_value for side in sides] == ["batch", 3, "height", "width"]


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("dinotxt3", Shape(1, 33, 90)),
        pytest.param("dinov3", Shape(None, None, None), marks=pytest.mark.large),
        pytest.param("dinotxt3", Shape(None, None, None), marks=pytest.mark.large),
    ],
)
def test_a_tower_with_rotary_positions_is_trained_and_exported(tmp_path, name, shape):
    settings, pairs = tiny_settings(**SETTINGS), write_pairs(tmp_path / "pairs")
    run = train_tiny(pairs, tmp_path / "run", settings, tower=TOWERS[name])
    segmenter = Segmenter.from_run(run)
    assert any("DINOv3" in note for note in segmenter.network.licence_notes)
    path = tmp_path / "m.onnx"
    assert export_onnx(segmenter, path, 33, 90, dynamic=shape.height is None) == shape
    exported = Segmenter.from_run(path)
    for size in [(33, 90), (40, 48)][: 1 if shape.height else 2]:
        found, expected = (each.logits(noise(*size)) for each in (exported, segmenter))
        assert np.abs(found - expected).max() < 1e-4 * np.abs(expected).max()


@pytest.mark.extras
@pytest.mark.parametrize("half", [False, True])
def test_openvino_reads_a_frozen_tower_of_any_size(tmp_path, half):
    core = library("openvino").Core()
    segmenter = balanced_segmenter(load_tower(), **SETTINGS)
    export_onnx(segmenter, tmp_path / "m.onnx", 40, 48, dynamic=True, half=half)
    graph = core.compile_model(
        core.read_model(tmp_path / "m.onnx"), "CPU", {"INFERENCE_PRECISION_HINT": "f32"}
    )
    for size in [(40, 48), (33, 90)]:
        image = noise(*size)
        found = graph({"image": image.transpose(2, 0, 1)[None].astype(np.float32)})
        expected = segmenter.logits(image)
        tolerance = (0.02 if half else 1e-3) * np.abs(expected).max()
        assert np.abs(found["logits"][0] - expected).max() < tolerance
        assert (found["labels"][0] == expected.argmax(0)).mean() > (0.99 if half else 0.999)


def test_a_padded_network_of_one_size(tmp_path):
    segmenter = balanced_segmenter(**UNET)
    segmenter.crf = CrfOptions(iterations=3)
    assert export_onnx(segmenter, tmp_path / "m.onnx", 37, 50) == Shape(1, 37, 50)
    assert_same(tmp_path / "m.onnx", segmenter, noise(37, 50)[None])
    assert Segmenter.from_run(tmp_path / "m.onnx").crf == segmenter.crf


def test_the_size_is_kept_where_the_network_holds_for_one_alone(tmp_path, monkeypatch):
    tried = []

    def only_one_size(network, segmenter, shape, example):
        tried.append(shape)
        if None in shape:
            raise ValueError("no")
        return GRAPH, []

    monkeypatch.setattr(export, "_export", only_one_size)
    monkeypatch.setattr(export, "_compare", lambda *_, **__: [])
    shape = export_onnx(balanced_segmenter(), tmp_path / "m", 8, 9, dynamic=True)
    assert shape == Shape(1, 8, 9)
    assert tried == [Shape(None, None, None), Shape(1, None, None), Shape(1, 8, 9)]


def test_a_graph_that_does_something_else_is_not_kept(tmp_path, monkeypatch):
    segmenter = balanced_segmenter()
    wrong = np.zeros((1, 3, 40, 48), np.float32)
    returned = [(wrong, wrong[:, 0].astype(np.uint8))]
    monkeypatch.setattr(export, "OnnxGraph", lambda _: SimpleNamespace(run=lambda _: returned[-1]))
    monkeypatch.setattr("onnx.checker.check_model", lambda _: None)
    images = [noise(40, 48)[None]]
    with pytest.raises(ValueError, match="of its labels differ"):
        export._compare(GRAPH, segmenter, images, half=False)
    # All labels are right, and the scores are not.
    same = segmenter.logits(noise(40, 48))[None]
    returned.append((3 * same, same.argmax(1)))
    with pytest.raises(ValueError, match="scores by up to 200"):
        export._compare(GRAPH, segmenter, images, half=False)


def test_weights_that_do_not_suit_16_bits_are_refused_at_once(tmp_path, monkeypatch):
    """A graph of any size is not to blame, so none of a single size takes its place."""
    segmenter, tried, compare = balanced_segmenter(), [], export._compare

    def coarse(model, segmenter, images, half):
        found = compare(model, segmenter, images, half)
        if half:
            raise ValueError("12.00% of its labels differ")
        return found

    def one(network, segmenter, shape, example):
        tried.append(shape)
        return make(network, segmenter, shape, example)

    make = export._export
    monkeypatch.setattr(export, "_export", one)
    monkeypatch.setattr(export, "_compare", coarse)
    with pytest.raises(UserError, match="fp16, 12.00% of its labels differ: leave out --half"):
        export_onnx(segmenter, tmp_path / "m.onnx", 40, 48, dynamic=True, half=True)
    assert len(tried) == 1 and not (tmp_path / "m.onnx").exists()


def test_what_the_exporter_refuses_ends_in_one_sentence(tmp_path, monkeypatch):
    def refuse(*arguments, **options):
        try:
            raise RuntimeError("no such operator\nin ten lines")
        except RuntimeError as error:
            raise ValueError("wrapped") from error

    monkeypatch.setattr(torch.onnx, "export", refuse)
    with pytest.raises(UserError, match=r"\(no such operator\): choose another") as caught:
        export_onnx(balanced_segmenter(), tmp_path / "m.onnx", 8, 8)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_a_graph_larger_than_the_memory_is_not_tried(tmp_path):
    with pytest.raises(UserError, match="100000×100000 .* than the 16777216"):
        export_onnx(balanced_segmenter(), tmp_path / "m.onnx", 100_000, 100_000)


def test_missing_packages_are_named_with_the_remedy(tmp_path, monkeypatch):
    segmenter = balanced_segmenter()
    monkeypatch.setattr(export.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="install onnx onnxscript onnxrunt"):
        export_onnx(segmenter, tmp_path / "m.onnx", 8, 8)


def test_the_tool_says_what_the_file_takes(run_tool, trained, tmp_path, monkeypatch):
    free = []  # graphs that the network allows

    def write(network, segmenter, shape, example):
        if None in shape and shape not in free:
            raise ValueError("no")
        return GRAPH, []

    monkeypatch.setattr(export, "_export", write)
    monkeypatch.setattr(export, "_compare", lambda *_, **__: [])
    target = tmp_path / "model.onnx"
    arguments = ["export_onnx.py", "--checkpoint", trained, "--output", target]
    finished = run_tool(*arguments, "--size", 40, 48)
    assert finished.code == 0 and finished.errors == "note: the file will hold about 1 MB\n"
    assert target.read_bytes() == b"graph"
    assert finished.output.splitlines() == [
        "image 1×3×40×48 → logits, labels of 3 classes",
        f"written to {target}, and described in {tmp_path / 'README.md'}",
    ]
    finished = run_tool(*arguments, "--dynamic")
    assert finished.code == 0 and len(finished.errors.splitlines()) == 2
    assert "works for a single size" in finished.errors and "1×3×512×512" in finished.output
    for shape, shown in [((1, None, None), "1×3×H×W"), ((None, None, None), "N×3×H×W")]:
        free.append(shape)
        finished = run_tool(*arguments, "--dynamic")
        assert f"image {shown} → " in finished.output and finished.errors.count("\n") == 1


def test_mistakes_when_exporting_end_in_one_sentence(run_tool, trained, tmp_path):
    arguments = ["export_onnx.py", "--output", tmp_path / "m.onnx"]
    assert "required: --checkpoint" in run_tool(*arguments).errors
    finished = run_tool(*arguments, "--checkpoint", trained, "--size", 0, 48)
    assert finished.code == 2 and "0×48 is not a size" in finished.errors
    finished = run_tool(*arguments, "--checkpoint", tmp_path / "none")
    assert finished.code == 2 and "does not exist" in finished.errors


def test_an_onnx_file_is_not_exported_again(tmp_path):
    segmenter = Segmenter.from_run(write_graph(tmp_path / "m.onnx"))
    with pytest.raises(UserError, match="ONNX file already: give a checkp"):
        export_onnx(segmenter, tmp_path / "n.onnx", 8, 8)


def test_a_readme_describes_one_graph(run_tool, trained, tmp_path, monkeypatch):
    monkeypatch.setattr(export, "_export", lambda *_: (GRAPH, []))
    monkeypatch.setattr(export, "_compare", lambda *_, **__: [])

    def write(name, folder):
        arguments = ["--checkpoint", trained, "--output", folder / name]
        return run_tool("export_onnx.py", *arguments)

    for name in ("a.onnx", "b.onnx", "a.onnx"):
        assert write(name, tmp_path / "ours").code == 0
    assert (tmp_path / "ours" / "README.md").read_text().count("# a.onnx\n") == 1
    assert "# b.onnx\n" in (tmp_path / "ours" / "b.md").read_text()
    (tmp_path / "README.md").write_text("theirs")
    assert f"described in {tmp_path / 'a.md'}" in write("a.onnx", tmp_path).output
    assert (tmp_path / "README.md").read_text() == "theirs"
    (tmp_path / "a.md").write_text("theirs, too")
    monkeypatch.delattr(export, "_export")  # it is refused before the work
    finished = write("a.onnx", tmp_path)
    assert finished.code == 2 and "a.md exists, and tools/export_onnx.py did not" in finished.errors
