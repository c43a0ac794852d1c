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
from torch import nn

from pipeline.exchange.model_card import write_card
from pipeline.segmenter.export import Shape
from pipeline.segmenter.optimization import configure_schedule
from pipeline.segmenter.predict import Segmenter
from pipeline.segmenter.stage import CHOSEN_BY
from tests import REPOSITORY
from tests.report.measured import measured, write_runs
from tests.segmenter.tiny_graphs import METADATA, scores_of, write_graph
from tests.segmenter.tiny_segmenters import noise
from tests.segmenter.tiny_training import PALETTE

FREE, FIXED = Shape(None, None, None), Shape(1, 32, 40)
TAGS = {"method": "tagclip", "alpha": 0.5, "clip": {"model": "ViT-B-16"}, "corrections": "f00"}
SETTINGS = {
    "name": "light",
    "algorithm": 2,
    "iterations": 60,
    "warmup_iterations": 1500,
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
    "initial_weights": {"source": "https://somewhere/resnet18.pth"},
}


@pytest.fixture
def segmenter():
    names = ("background", "red|ish", "blue")
    return Segmenter(SimpleNamespace(modules=list, patches=None), names, tuple(PALETTE))


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
    schedule = configure_schedule(SimpleNamespace(**SETTINGS, power=1, minimum_learning_rate=0), 1)
    ran = json.dumps(SETTINGS | {"warmup_iterations": schedule[0]["end"]})
    assert yaml.safe_load(settings) == json.loads(ran.replace("f00", corrected))
    assert settings.startswith("name: light\nalgorithm: 2\niterations: 60\n")
    assert "https://somewhere/resnet18.pth" in text and "openai" in text


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


def test_restrictions_of_the_code_are_named(segmenter, tmp_path):
    class SegformerHead(nn.Module):
        """As mmsegmentation's."""

    plain = write_card("m.onnx", segmenter, FIXED, tmp_path, best=False)
    segmenter.network.modules = lambda: [SegformerHead()]
    restricted = write_card("m.onnx", segmenter, FIXED, tmp_path, best=False)
    assert "mmsegmentation, Apache 2.0" in plain and "NVIDIA's licence" in restricted


@pytest.mark.parametrize("shape", [FREE, FIXED])
def test_the_program_of_a_card_runs(segmenter, tmp_path, monkeypatch, shape):
    monkeypatch.chdir(tmp_path)
    Image.fromarray(noise(64, 80)).save("photograph.jpg")
    write_graph("model.onnx", ("batch", 3, shape.height or "height", shape.width or "width"))
    card = write_card("model.onnx", segmenter, shape, tmp_path, best=False)
    (program,) = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    found = {}
    exec(program, found)
    wanted = scores_of(np.asarray(found["image"])).argmax(0)
    assert found["image"].size == ((80, 64) if shape is FREE else (40, 32))
    assert (found["labels"][0] == wanted).mean() > 0.999


@pytest.mark.parametrize(("patches", "size"), [(None, (1024, 768)), ([16, 300], (320, 240))])
def test_the_program_beside_an_exported_file_runs_alone(tmp_path, monkeypatch, patches, size):
    image, place = noise(1200, 900), tmp_path / "turned.png"
    exif = Image.Exif()
    exif[0x0112] = 6  # turned to the right, to 900×1200
    Image.fromarray(image).transpose(Image.Transpose.ROTATE_90).save(place, exif=exif)
    metadata = {**METADATA, "patches": json.dumps(patches)}
    graph = write_graph(tmp_path / "model.onnx", metadata=metadata)
    mask = tmp_path / "mask.png"
    monkeypatch.setattr(sys, "argv", ["segment.py", str(graph), str(place), str(mask)])
    found = runpy.run_path(str(REPOSITORY / "examples" / "segment.py"))
    assert found["small"].size == size[::-1] and found["labels"].shape == (1, *size)
    segmenter = Segmenter.from_run(graph)
    assert (segmenter(np.asarray(found["small"])) == found["labels"][0]).mean() > 0.999
    with Image.open(mask) as written:
        assert written.size == (900, 1200) and written.getpalette()[3:6] == [*PALETTE[1]]
    program = (REPOSITORY / "examples" / "segment.py").read_text()
    imported = {*re.findall(r"^(?:import|from) (\w+)", program, re.MULTILINE)}
    assert imported == {"json", "sys", "numpy", "onnxruntime", "PIL"}
