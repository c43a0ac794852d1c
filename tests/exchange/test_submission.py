"""The archive for PASCAL VOC's server."""

import io
import os
import tarfile

import numpy as np
import pytest
from PIL import Image

from pipeline.datasets.vocabulary import voc_palette
from pipeline.errors import UserError
from pipeline.exchange.voc_submission import write_submission
from pipeline.files.images import encode_png

IDS = ["2008_000006", "2008_000001", "2011_003241"]


@pytest.fixture
def devkit(tmp_path):
    """A miniature of VOC 2012's test set, and predictions beside it."""
    images, lists = tmp_path / "VOC2012/JPEGImages", tmp_path / "VOC2012/ImageSets/Segmentation"
    for folder in (images, lists, tmp_path / "predictions"):
        folder.mkdir(parents=True)
    (lists / "test.txt").write_text("".join(f"{image_id}\n" for image_id in IDS))
    rng = np.random.default_rng(0)
    for number, image_id in enumerate(IDS):
        shape = (20 + number, 30)
        Image.fromarray(rng.integers(0, 255, (*shape, 3), np.uint8)).save(
            images / f"{image_id}.jpg"
        )
        labels = rng.integers(0, 21, shape, np.uint8)
        (tmp_path / "predictions" / f"{image_id}.png").write_bytes(encode_png(labels, [(9, 9, 9)]))
    (tmp_path / "predictions" / "2007_000033.png").write_bytes(b"not of the test set")
    return tmp_path


def pack(run_tool, devkit, *arguments):
    return run_tool(
        "voc_submission.py",
        *("--predictions", devkit / "predictions"),
        *("--list", devkit / "VOC2012/ImageSets/Segmentation/test.txt"),
        *("--output", devkit / "results.tgz"),
        *arguments,
    )


@pytest.mark.parametrize("competition", ["comp5", "comp6"])
def test_the_archive_is_as_the_server_takes_it(run_tool, devkit, competition):
    chosen = [] if competition == "comp6" else ["--competition", competition]
    finished = pack(run_tool, devkit, *chosen)
    assert finished.code == 0 and finished.errors == ""
    assert finished.output == (f"3 masks for {competition} written to {devkit / 'results.tgz'}\n")
    with tarfile.open(devkit / "results.tgz", "r:gz") as archive:
        members = archive.getmembers()
        folder = f"results/VOC2012/Segmentation/{competition}_test_cls"
        assert [m.name for m in members] == [f"{folder}/{i}.png" for i in sorted(IDS)]
        for member in members:
            assert member.isfile() and member.mtime == 0 and member.uid == 0
            with Image.open(archive.extractfile(member)) as mask:
                assert mask.mode == "P"
                assert mask.getpalette() == [c for colour in voc_palette(256) for c in colour]
                labels = np.asarray(mask)
            with Image.open(devkit / "predictions" / member.name.split("/")[-1]) as own:
                assert np.array_equal(labels, np.asarray(own))


def test_the_bytes_depend_on_the_labels_alone(devkit):
    predictions, targets = devkit / "predictions", [devkit / "one.tgz", devkit / "other.tgz"]
    write_submission(predictions, IDS, targets[0])
    for path in predictions.iterdir():
        os.utime(path, (0, 10**9))
    with Image.open(predictions / f"{IDS[0]}.png") as mask:
        grey = Image.fromarray(np.asarray(mask))
    grey.save(predictions / f"{IDS[0]}.png", compress_level=0)
    write_submission(predictions, IDS[::-1], targets[1])
    assert targets[0].read_bytes() == targets[1].read_bytes()


def spoil(path, kind):
    with Image.open(path) as mask:
        labels = np.array(mask)
    if kind == "missing":
        path.unlink()
    elif kind == "damaged":
        path.write_bytes(path.read_bytes()[:50])
    elif kind == "colours":
        Image.fromarray(np.stack([labels] * 3, 2)).save(path)
    elif kind == "jpeg":
        buffer = io.BytesIO()
        Image.fromarray(labels).save(buffer, "JPEG")
        path.write_bytes(buffer.getvalue())
    elif kind == "ignored":
        labels[0, 0] = 255
        Image.fromarray(labels).save(path)
    elif kind == "foreign":
        labels[0, 0] = 21
        Image.fromarray(labels).save(path)
    elif kind == "size":
        Image.fromarray(labels[1:]).save(path)


@pytest.mark.parametrize(
    "kind, sentence",
    [
        ("missing", "2008_000001.png is missing"),
        ("damaged", "2008_000001.png cannot be decoded"),
        ("colours", "2008_000001.png is a PNG of mode RGB: convert it to a palette"),
        ("jpeg", "2008_000001.png cannot be decoded (it is not a PNG file)"),
        ("ignored", "2008_000001: holds label 255, which is not 0 to 20"),
        ("foreign", "2008_000001: holds label 21"),
        ("size", "2008_000001: its mask is 30×20, the image 30×21 pixels"),
    ],
)
def test_masks_that_the_server_would_refuse(run_tool, devkit, kind, sentence):
    spoil(devkit / "predictions/2008_000001.png", kind)
    finished = pack(run_tool, devkit)
    assert finished.code == 2 and sentence in finished.errors
    assert len(finished.errors.splitlines()) == 1
    assert not (devkit / "results.tgz").exists()


def test_sizes_are_compared_where_images_are_known(run_tool, devkit):
    spoil(devkit / "predictions/2008_000001.png", "size")
    (devkit / "VOC2012/JPEGImages").rename(devkit / "elsewhere")
    finished = pack(run_tool, devkit)
    assert finished.code == 0 and "note: sizes were not checked" in finished.errors
    assert pack(run_tool, devkit, "--images", devkit / "elsewhere").code == 2
    assert "is not a folder" in pack(run_tool, devkit, "--images", devkit / "nowhere").errors


def test_lists_that_cannot_be_used(run_tool, devkit):
    target = devkit / "results.tgz"
    with pytest.raises(UserError, match="names no image"):
        write_submission(devkit / "predictions", [], target)
    with pytest.raises(UserError, match="names 2008_000006 twice"):
        write_submission(devkit / "predictions", [*IDS, IDS[0]], target)
    assert "comp7" in pack(run_tool, devkit, "--competition", "comp7").errors
    with pytest.raises(UserError, match="4 of 4 masks.*and 1 more"):
        write_submission(devkit / "elsewhere", ["a", "b", "c", "d"], target)
    (devkit / "VOC2012/ImageSets/Segmentation/test.txt").unlink()
    assert "is not a file" in pack(run_tool, devkit).errors
