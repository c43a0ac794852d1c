"""``tools/predict.py``, as a person without knowledge of mmsegmentation uses it."""

import pickle
import shutil
import weakref

import numpy as np
import pytest
import torch
from PIL import Image

from pipeline.datasets.settings import CrfOptions
from pipeline.errors import ImageError
from pipeline.files.own_files import RECORD
from pipeline.masks.labels import resized_argmax
from pipeline.segmenter.checkpoints import last_checkpoint
from pipeline.segmenter.predict import Segmenter
from tests.processes import run_python
from tests.segmenter.tiny_graphs import METADATA, scores_of, write_graph


def read_png(path):
    with Image.open(path) as image:
        assert image.mode == "P"
        return np.asarray(image), image.getpalette()


@pytest.fixture
def predict(run_tool, trained, tmp_path):
    """Runs the tool with results in ``tmp_path / "out"``."""

    def run(*arguments, checkpoint=trained, output=tmp_path / "out"):
        return run_tool("predict.py", "--checkpoint", checkpoint, *arguments, "--output", output)

    return run


def files_in(folder):
    return sorted(
        p.relative_to(folder).as_posix()
        for p in folder.rglob("*")
        if p.is_file() and p.name != RECORD
    )


def test_a_folder_of_photographs(predict, photographs, trained, tmp_path):
    finished = predict(photographs)
    assert finished.code == 0 and finished.errors == ""
    assert "5 images segmented" in finished.output.splitlines()[-1]
    assert str(tmp_path / "out") in finished.output.splitlines()[-1]
    names = ["a", "b", "c", "d", "holiday 2026/e f"]
    wanted = [f"{name}{ending}" for name in names for ending in (".png", "_overlay.jpg")]
    assert files_in(tmp_path / "out") == sorted(wanted)
    segmenter = Segmenter.from_run(trained)
    with Image.open(photographs / "b.png") as image:
        labels, palette = read_png(tmp_path / "out" / "b.png")
        assert np.array_equal(labels, segmenter(np.asarray(image)))
    assert palette[:9] == [0, 0, 0, 255, 0, 0, 0, 0, 255]
    with Image.open(tmp_path / "out" / "holiday 2026" / "e f_overlay.jpg") as picture:
        assert picture.height > picture.width > 300


def test_large_turned_photographs_get_labels_of_full_size(predict, trained, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    image = np.random.default_rng(0).integers(0, 255, (60, 90, 3), np.uint8)
    Image.fromarray(image).save(tmp_path / "turned.png", exif=exif)
    assert predict(tmp_path / "turned.png", "--longest-side", 45).code == 0
    labels, _ = read_png(tmp_path / "out" / "turned.png")
    turned = Image.fromarray(np.rot90(image, -1)).resize((30, 45), Image.Resampling.BICUBIC)
    probabilities = Segmenter.from_run(trained).probabilities(np.asarray(turned))
    assert labels.shape == (90, 60)
    assert np.array_equal(labels, resized_argmax(probabilities, 90, 60)[0])


def test_scales_flips_and_the_crf(predict, photographs, trained, tmp_path):
    # The folder comes after an option that takes several values.
    finished = predict("--crf", "--flip", "--no-overlay", "--scales", 0.5, 1, photographs / "b.png")
    assert finished.code == 0, finished.errors
    assert files_in(tmp_path / "out") == ["b.png"]
    with Image.open(photographs / "b.png") as file:
        image = np.asarray(file)
    segmenter = Segmenter.from_run(trained)
    refined = segmenter.refine(image, segmenter.probabilities(image, (0.5, 1), flip=True))
    assert np.array_equal(read_png(tmp_path / "out" / "b.png")[0], refined.argmax(0))


def test_a_network_refines_as_its_run_did_unless_told(predict, photographs, tmp_path):
    described = METADATA | {"crf": '{"iterations": 3}'}
    graph = write_graph(tmp_path / "model.onnx", metadata=described)
    with Image.open(photographs / "b.png") as file:
        image = np.asarray(file.convert("RGB"))
    segmenter = Segmenter.from_run(graph)
    probabilities = segmenter.probabilities(image)
    refined = segmenter.refine(image, probabilities, CrfOptions(iterations=3)).argmax(0)
    assert not np.array_equal(refined, probabilities.argmax(0))
    given = {(): refined, ("--crf",): refined, ("--no-crf",): probabilities.argmax(0)}
    for option, wanted in given.items():
        finished = predict(photographs / "b.png", *option, checkpoint=graph)
        assert finished.code == 0, finished.errors
        assert np.array_equal(read_png(tmp_path / "out" / "b.png")[0], wanted), option


def test_the_crf_in_processes_gives_the_same(predict, photographs, tmp_path, monkeypatch):
    (photographs / "broken.jpg").write_bytes(b"nothing")
    monkeypatch.setattr("joblib.cpu_count", lambda: 1)
    finished = predict(photographs, "--crf", output=tmp_path / "one")
    assert finished.code == 0 and "broken.jpg cannot be decoded" in finished.errors
    asked = []

    def send(items, work, workers):
        """Does what a pool would, and spares the start of processes."""
        asked.append(workers)
        send = pickle.loads(pickle.dumps(work))
        return [(item, send(pickle.loads(pickle.dumps(item)))) for item in items]

    monkeypatch.setattr("joblib.cpu_count", lambda: 8)
    monkeypatch.setattr("pipeline.segmenter.multi_scale.in_processes", send)
    many = predict(photographs, "--crf", "--max-failures", 0, output=tmp_path / "many")
    assert many.code == 2 and "1 of 6 could not be segmented" in many.errors
    assert asked == [3], "no more processes than half as many as images"
    assert len(files_in(tmp_path / "one")) == 10
    assert files_in(tmp_path / "one") == files_in(tmp_path / "many")
    for name in files_in(tmp_path / "one"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "many" / name).read_bytes()


def test_an_image_that_fails_behind_the_network_is_let_go(predict, photographs, monkeypatch):
    """As when its process of the CRF dies; many such images would fill the memory."""
    decoded, kept = [], []

    def fail(images, segmenter, test, workers):
        for name, image in images:
            decoded.append(weakref.ref(image))
            del image
            yield name, ImageError("was too much")
            kept.append(sum(each() is not None for each in decoded))

    monkeypatch.setattr("pipeline.commands.predict.segment_all", fail)
    finished = predict(photographs)
    assert finished.errors.count("was too much") == len(decoded) == 5
    assert max(kept) <= 2, "those that loops are at, however many fail"


def test_files_that_cannot_be_read_are_left_out_and_named(predict, photographs, tmp_path):
    (photographs / "broken.jpg").write_bytes(b"nothing")
    finished = predict(photographs, tmp_path / "nowhere.png", "--max-pixels", 6200)
    assert finished.code == 2
    assert "skipped: " in finished.errors and "broken.jpg cannot be decoded" in finished.errors
    assert "nowhere.png does not exist" in finished.errors
    assert "70×90 pixels are more than --max-pixels 6200" in finished.errors
    assert finished.errors.splitlines()[-1].startswith("error: 5 of 7 could not be segmented")
    assert "2 images segmented" in finished.output
    assert len(list((tmp_path / "out").glob("*.png"))) == 2


@pytest.mark.parametrize(
    "arguments, sentence",
    [
        ([], "there is nothing to segment"),
        (["nowhere"], "there is nothing to segment"),
        (["a.jpg", "--opacity", "2"], "--opacity: 2 is not a number from 0 to 1"),
        (["a.jpg", "--scales", "0"], "above 0"),
        (["a.jpg", "--scales", "1e9"], "up to 100"),
        (["a.jpg", "--max-failures", "-1"], "give 0 or more"),
        (["a.jpg", "--longest-side", "0"], "--longest-side 0 is not a size"),
        (["a.jpg", "--device", "tpu"], "invalid choice"),
        (["a.jpg", "--nonsense"], "--help shows the options"),
        (["a.jpg", "--best"], "no best checkpoint"),
    ],
)
def test_mistakes_end_in_one_sentence(predict, photographs, monkeypatch, arguments, sentence):
    monkeypatch.chdir(photographs)
    finished = predict(*arguments)
    assert finished.code == 2 and sentence in finished.errors
    assert finished.errors.splitlines()[-1].startswith("error: ")
    assert "Traceback" not in finished.errors


def test_a_checkpoint_is_a_file_a_folder_or_a_whole_run(predict, photographs, trained, tmp_path):
    run = tmp_path / "outputs" / "segmenter" / "latest"
    run.mkdir(parents=True)
    shutil.copy(last_checkpoint(trained), run)
    for checkpoint in (run / "iter_5.pth", run, tmp_path / "outputs"):
        assert predict(photographs / "a.jpg", checkpoint=checkpoint).code == 0
    assert "does not exist" in predict(photographs, checkpoint=tmp_path / "no.pth").errors


def test_images_are_not_touched(predict, photographs):
    before = {path: path.read_bytes() for path in photographs.rglob("*") if path.is_file()}
    assert predict(photographs, output=photographs).code == 2
    assert predict(photographs, output=photographs / "seen").code == 0
    assert predict(photographs, output=photographs / "seen").output.startswith("5 images")
    assert all(path.read_bytes() == content for path, content in before.items())


def test_the_exit_code_is_that_of_a_stage(predict, run_stage, photographs, arguments, tmp_path):
    """A few broken images are named and no failure; only broken ones are."""
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "x.jpg").write_bytes(b"nothing")
    shutil.copy(tmp_path / "broken" / "x.jpg", photographs)
    for folder, code in ((photographs, 0), (tmp_path / "broken", 2)):
        finished = predict(folder)
        assert finished.code == code and "x.jpg cannot be decoded" in finished.errors
        finished = run_stage(*arguments, f"dataset.root={folder}", "stage=tags")
        assert finished.code == code and "left out: x: cannot be decoded" in finished.errors


def test_one_image_whose_results_cannot_be_named_does_not_stop_the_others(
    predict, photographs, tmp_path
):
    for name in ("x" * 247 + ".jpg", "a.png/f.jpg", "B_overlay.jpg/g.jpg"):
        (photographs / name).parent.mkdir(exist_ok=True)
        shutil.copy(photographs / "d.jpeg", photographs / name)
    (tmp_path / "other").mkdir()
    (photographs / "elsewhere").symlink_to(tmp_path / "other")
    finished = predict(photographs)
    assert finished.code == 0, finished.errors
    assert finished.output.startswith("5 images segmented")
    skipped = [e for e in finished.errors.splitlines() if e.startswith("skipped: ")]
    assert len(skipped) == 4 and "elsewhere is a link to a folder" in skipped[0]
    assert "a.jpg has the result a.png, which is also the name of a folder" in skipped[1]
    assert "b.png has the result b_overlay.jpg, which is also" in skipped[2]
    assert "xxx.jpg has too long a name for its results: shorten it" in skipped[3]
    assert predict(photographs, "--max-failures", 3, output=tmp_path / "again").code == 2


@pytest.mark.large
def test_an_onnx_file_labels_photographs_as_its_checkpoint(
    predict, run_tool, photographs, trained, tmp_path
):
    checkpoint = torch.load(last_checkpoint(trained), weights_only=True)
    # The network finds background alone: let every class win somewhere.
    means = Segmenter.from_run(trained).logits(photographs / "b.png").mean((1, 2))
    checkpoint["state_dict"]["decode_head.conv_seg.bias"] -= torch.from_numpy(means)
    torch.save(checkpoint, tmp_path / "c.pth")
    graph = tmp_path / "net" / "model.onnx"
    arguments = ["--checkpoint", tmp_path / "c.pth", "--output", graph, "--dynamic", "--size"]
    assert run_tool("export_onnx.py", *arguments, 40, 48).code == 0
    for number, options in enumerate(([], ["--crf", "--flip", "--scales", 0.5, 1])):
        folders = [tmp_path / f"{number}{kind}" for kind in ("network", "graph")]
        for folder, read in zip(folders, (tmp_path / "c.pth", graph)):
            assert predict(photographs, *options, checkpoint=read, output=folder).code == 0
        assert files_in(folders[0]) == files_in(folders[1])
        for path in sorted(folders[0].rglob("*.png")):
            labels, palette = read_png(path)
            other, same = read_png(folders[1] / path.relative_to(folders[0]))
            assert palette == same and (labels == other).mean() > 0.999
        assert len(np.unique(labels)) > 1, "labels that all agree would prove nothing"


_WITHOUT_MMSEGMENTATION = """
import sys

sys.modules |= dict.fromkeys(("mmseg", "mmengine", "mmcv"))  # cannot be imported
from pipeline.commands import predict

predict.run(sys.argv[1:])
"""


def test_an_onnx_file_requires_no_mmsegmentation(photographs, tmp_path):
    graph = write_graph(tmp_path / "model.onnx")
    words = [photographs / "a.jpg", "--checkpoint", graph, "--crf", "--flip", "--scales", 0.5]
    done = run_python("-c", _WITHOUT_MMSEGMENTATION, *words, "--output", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert files_in(tmp_path / "out") == ["a.png", "a_overlay.jpg"]


def test_a_graph_segments_as_a_checkpoint_does(predict, photographs, tmp_path):
    graph = write_graph(tmp_path / "model.onnx")
    assert predict(photographs / "b.png", checkpoint=graph).code == 0
    with Image.open(photographs / "b.png") as image:
        wanted = scores_of(np.asarray(image.convert("RGB"))).argmax(0)
    labels, palette = read_png(tmp_path / "out" / "b.png")
    assert (labels == wanted).mean() > 0.999 and palette[:6] == [0, 0, 0, 255, 0, 0]
    fixed = write_graph(tmp_path / "fixed.onnx", (1, 3, 32, 40))
    finished = predict(photographs, "--scales", 0.5, 1, checkpoint=fixed)
    assert finished.code == 2 and "scales would change nothing" in finished.errors.splitlines()[-1]
    assert predict(photographs, "--flip", checkpoint=fixed).code == 0
    (tmp_path / "no.onnx").write_bytes(b"nothing")
    for wrong in (tmp_path / "no.onnx", tmp_path / "nowhere.onnx"):
        finished = predict(photographs, checkpoint=wrong)
        assert finished.code == 2 and finished.errors.count("\n") == 1, finished.errors
