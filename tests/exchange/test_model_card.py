"""The README beside an ONNX file."""

import json
import re
import runpy
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import yaml
from PIL import Image

from pipeline.datasets.settings import CrfOptions
from pipeline.exchange.model_card import write_card
from pipeline.files.shipped import PROGRAM
from pipeline.segmenter.export import Shape, export_onnx
from pipeline.segmenter.limits import Limits
from pipeline.segmenter.predict import Segmenter
from pipeline.segmenter.stage import CHOSEN_BY
from tests.report.measured import measured, write_runs
from tests.segmenter.test_frozen_tower import SETTINGS as FROZEN
from tests.segmenter.test_frozen_tower import load_tower
from tests.segmenter.tiny_graphs import METADATA, WEIGHT, write_graph
from tests.segmenter.tiny_segmenters import balanced_segmenter
from tests.segmenter.tiny_training import PALETTE
from tests.small_runs import draw_photograph
from tests.tiers import large_except

FREE, FIXED = Shape(None, None, None), Shape(1, 32, 40)
TAGS = {"method": "tagclip", "alpha": 0.5, "clip": {"model": "ViT-B-16"}, "corrections": "f00"}
SETTINGS = {
    "name": "light",
    "algorithm": 2,
    "iterations": 60,
    "warmup_iterations": 6,
    "masks": {
        "method": "crf",
        "crf": {"iterations": 10},
        "cams": {"method": "clip_es", "tags": TAGS},
    },
}
MANIFEST = {
    "stage": "segmenter",
    "configuration": SETTINGS,
    "legend": {"f00": {"what": "tags", "file": "mine.csv", "images": 20, "date": "2026-11-29"}},
    "images": 400,
    "checkpoint": "iter_20.pth",
    "initial_weights": {"source": "https://somewhere/resnet18.pth", "licence": "apache-2.0"},
}


@pytest.fixture
def segmenter():
    names = ("background", "red|ish", "blue")
    network = SimpleNamespace(limits=Limits(640, [16, 300]), licence_notes=[], crf=None)
    return Segmenter(network, names, tuple(PALETTE))


@pytest.fixture
def folder(tmp_path, figures_are_current):
    """The folder of a network whose predictions were measured, and those of another."""
    path = tmp_path / "out" / "segmenter" / "abc"
    path.mkdir(parents=True)
    (path / "manifest.json").write_text(json.dumps(MANIFEST))
    about = {"dataset": "pets", "pretrained": "openai"}

    def entry(split, key, miou, **settings):
        made_from = {"made_from": {"segmenter": ["", "segmenter", key]}, "key": split + key}
        test = {"test": {"scales": [0.5, 1], "flip": True}, "checkpoint": "last", **settings}
        return (
            measured("predictions", split, 30, about, miou=miou)
            | made_from
            | {"configuration": test}
        )

    entries = [entry("train", "abc", 0.7), entry("val", "abc", 0.6125), entry("val", "other", 0.9)]
    write_runs(
        tmp_path / "out" / "metrics.json", *entries, entry("val", "abc", 0.8, checkpoint="best")
    )
    return path


def test_what_a_run_says_of_its_network(segmenter, folder):
    card = write_card("model.onnx", segmenter, FREE, folder, best=False)
    header, text = re.fullmatch(r"---\n(.*?)---\n(.*)", card, re.DOTALL).groups()
    assert yaml.safe_load(header)["pipeline_tag"] == "image-segmentation"
    assert text.startswith("# model.onnx\n") and "any number of images of any size" in text
    assert "With afseg:" in text and "annotation-free" not in text
    assert re.search(r"\| +1 \| red\\\|ish +\| #ff0000 \|", text), "names are escaped"
    measured = r"\| val +\| +30 \| +61.3 \| test.scales=\[0.5, 1\]; test.flip=true"
    assert re.search(measured, text) and "90.0" not in text and "80.0" not in text
    assert "Data set: pets. Training images: 400." in text
    (settings,) = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    corrected = "tags of 20 images in mine.csv of 2026-11-29"
    assert yaml.safe_load(settings) == json.loads(json.dumps(SETTINGS).replace("f00", corrected))
    assert settings.startswith("name: light\nalgorithm: 2\niterations: 60\n")
    assert "https://somewhere/resnet18.pth. Licence: apache-2.0" in text
    assert "openai. Licence: MIT" in text


def test_a_card_says_who_refines_labels(segmenter, folder):
    plain = write_card("m.onnx", segmenter, FREE, folder, best=False)
    assert "`--crf` refines" in plain and "--no-crf" not in plain
    segmenter.crf = CrfOptions()
    refined = write_card("m.onnx", segmenter, FREE, folder, best=False)
    assert "`--no-crf`" in refined and "not refined" in refined


@pytest.mark.parametrize("masks", [{"method": "file", "path": "sam3.json"}, {"from": "files"}])
def test_given_masks_are_named(masks, segmenter, folder):
    manifest = MANIFEST | {"configuration": {"name": "light", "masks": masks}}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    card = write_card("m.onnx", segmenter, FREE, folder / "iter_5.pth", best=False)
    assert f"Masks that it was trained on: {[*masks.values()][-1]}. Terms of the model" in card
    assert "Masks that it was" not in write_card("m.onnx", segmenter, FREE, folder.parent, False)


@pytest.mark.parametrize("own", [{}, {"decoder": "tokens"}, {"freeze": True}])
def test_weights_that_the_file_holds_are_named(own, segmenter, folder):
    manifest = MANIFEST | {"configuration": {"name": "light", **own}}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    card = write_card("m.onnx", segmenter, FREE, folder / "iter_20.pth", best=False)
    assert ("resnet18.pth, which this file holds" in card) == bool(own)
    assert "Licence: apache-2.0." in card


def test_figures_of_another_checkpoint_are_not_shown(segmenter, folder):
    def figures(path, best=False):
        return re.findall(r"\| +(\d\d\.\d) \|", write_card("m.onnx", segmenter, FREE, path, best))

    assert figures(folder / "iter_20.pth") == figures(folder) == ["70.0", "61.3"]
    assert figures(folder / "best_mIoU_iter_10.pth") == figures(folder, True) == ["80.0"]
    assert figures(folder / "iter_10.pth") == []
    (folder / CHOSEN_BY).write_text('{"validation_interval": 2, "data": "f"}')
    assert figures(folder, best=True) == [], "measured with a best one that something else chose"


def test_a_checkpoint_alone_says_less(segmenter, tmp_path):
    card = write_card("m.onnx", segmenter, FIXED, tmp_path / "iter_5.pth", best=False)
    assert "one image of 32×40 pixels" in card and "Not measured" in card
    assert "Data set: not known. Training images: not known." in card
    assert "Initial weights: not known" in card


def test_restrictions_of_the_network_are_named(segmenter, tmp_path):
    plain = write_card("m.onnx", segmenter, FIXED, tmp_path, best=False)
    segmenter.network.licence_notes = ["SegformerHead is under NVIDIA's licence"]
    restricted = write_card("m.onnx", segmenter, FIXED, tmp_path, best=False)
    assert "mmsegmentation, Apache 2.0, and this project, MIT.\n" in plain
    assert "* SegformerHead is under NVIDIA's licence.\n" in restricted


@pytest.mark.parametrize(
    ("shape", "words"),
    [(FREE, "640 pixels a side and 300 patches"), (FIXED, "640 pixels")],
)
def test_a_card_names_the_limits_of_its_own_network(segmenter, tmp_path, shape, words):
    card = write_card("m.onnx", segmenter, shape, tmp_path, best=False)
    assert f"shrunk to at most {words}" in card and "1,024" not in card


def program_of(graph, shape=FREE):
    """The program that a card shows for a graph, in a file beside it."""
    segmenter = Segmenter.from_run(graph)
    segmenter.network.licence_notes = []
    card = write_card(graph.name, segmenter, shape, graph.parent, best=False)
    (program,) = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    path = graph.with_name("segment.py")
    path.write_text(program)
    return path


def run_program(program, graph, photograph, monkeypatch):
    """Returns the labels that it writes."""
    mask = graph.with_name("mask.png")
    monkeypatch.setattr(sys, "argv", [program.name, str(graph), str(photograph), str(mask)])
    runpy.run_path(str(program))
    with Image.open(mask) as written:
        assert written.getpalette()[3:6] == [*PALETTE[1]]
        return np.asarray(written)


def saved(folder, height, width):
    """A photograph as telephones save it: lying on its side."""
    exif = Image.Exif()
    exif[0x0112] = 6  # turned to the right
    image = Image.fromarray(draw_photograph(height, height, width))
    path = folder / f"{height}x{width}.png"
    image.transpose(Image.Transpose.ROTATE_90).save(path, exif=exif)
    return path


SIZES = [(40, 40), (683, 1024), (1100, 1100), (1512, 2016), (40, 1300)]


@pytest.mark.parametrize(
    ("height", "width"), large_except(SIZES[:3], [*SIZES, (3000, 4000), (40, 4000)])
)
@pytest.mark.parametrize(
    ("shape", "limits"),
    [
        (FREE, Limits(1024, None)),
        (FREE, Limits(900, [16, 1200])),
        (FIXED, Limits(1024, [16, 1200])),
    ],
)
def test_the_program_of_a_card_labels_as_predict_does(
    height, width, shape, limits, tmp_path, monkeypatch, run_tool
):
    side, patches, _ = limits
    metadata = {"limits": json.dumps({"longest_side": side, "patches": patches})}
    axes = ("batch", 3, shape.height or "height", shape.width or "width")
    weight = WEIGHT * np.float32([[1.01], [1.02], [1.03]])  # so that no two classes are equal
    graph = write_graph(tmp_path / "model.onnx", axes, METADATA | metadata, weight=weight)
    photograph, out = saved(tmp_path, height, width), tmp_path / "out"
    labels = run_program(program_of(graph, shape), graph, photograph, monkeypatch)
    assert labels.shape == (height, width)
    finished = run_tool("predict.py", "--checkpoint", graph, photograph, "--output", out)
    assert finished.code == 0, finished.errors
    with Image.open(out / f"{photograph.stem}.png") as written:
        assert (np.asarray(written) == labels).mean() > 0.999
    assert (Segmenter.from_run(graph)(photograph) == labels).mean() > 0.999
    assert len(np.unique(labels)) > 1, "labels that all agree would prove nothing"


@pytest.mark.parametrize("mode", ["RGBA", "P", "CMYK"])
def test_the_program_reads_pictures_as_predict_does(mode, tmp_path, monkeypatch):
    graph = write_graph(tmp_path / "model.onnx", ("batch", 3, "height", "width"), METADATA)
    photograph = tmp_path / ("picture.tif" if mode == "CMYK" else "picture.png")
    image = Image.fromarray(draw_photograph(3, 60, 90))
    if mode == "RGBA":
        image.putalpha(Image.linear_gradient("L").resize(image.size))
    elif mode == "P":
        image = image.quantize(8)
        image.info["transparency"] = 0
    image.convert(mode).save(photograph)
    labels = run_program(program_of(graph), graph, photograph, monkeypatch)
    assert (Segmenter.from_run(graph)(photograph) == labels).mean() > 0.999
    assert len(np.unique(labels)) > 1, "labels that all agree would prove nothing"


@pytest.mark.large
@pytest.mark.parametrize("dynamic", [True, False])
def test_the_program_of_a_card_labels_as_the_exported_network_does(dynamic, tmp_path, monkeypatch):
    segmenter = balanced_segmenter(load_tower(), **FROZEN)
    segmenter.network.limits = Limits(1024, [16, 300])
    graph = tmp_path / "model.onnx"
    shape = export_onnx(segmenter, graph, 240, 320, dynamic=dynamic)
    assert shape == (FREE if dynamic else Shape(1, 240, 320))
    program = program_of(graph, shape)
    network = segmenter if dynamic else Segmenter.from_run(graph)
    for size in [*SIZES, (3000, 4000)]:
        photograph = saved(tmp_path, *size)
        labels = run_program(program, graph, photograph, monkeypatch)
        assert (network(photograph) == labels).mean() > 0.999
        assert len(np.unique(labels)) == 3, "labels that all agree would prove nothing"


def test_the_program_needs_no_package_of_ours():
    program = PROGRAM.read_text(encoding="utf-8")
    imported = {*re.findall(r"^(?:import|from) (\w+)", program, re.MULTILINE)}
    assert imported == {"json", "sys", "numpy", "onnxruntime", "PIL"}
