"""Folders of photographs."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from pipeline.errors import ImageError, UserError
from pipeline.exchange.artefacts import find_photograph
from pipeline.files.images import COMMON_SUFFIXES, decode_image
from tests.datasets.miniatures import contents, load, write_labels
from tests.extras import library
from tests.small_runs import draw_photograph


def test_a_folder_is_walked_without_following_loops(photographs):
    (photographs / "loop").symlink_to(photographs)
    (photographs / ".hidden.jpg").write_bytes(b"")
    (photographs / ".git").mkdir()
    (photographs / ".git" / "x.jpg").write_bytes(b"")
    (photographs / "notes.txt").write_text("no image")
    (photographs / "B.JPG").write_bytes((photographs / "a.jpg").read_bytes())
    before = contents(photographs)
    dataset = load("folder", photographs, classes=["x"])
    ids = [s.id for s in dataset.splits["all"]]
    assert ids == ["B", "a", "b", "c", "d", "holiday 2026/e f"]
    assert not any(s.has_ground_truth for s in dataset.splits["all"])
    assert contents(photographs) == before


def test_an_empty_folder_is_an_error(tmp_path):
    with pytest.raises(UserError, match="holds no image"):
        load("folder", tmp_path, classes=["x"])


def test_files_that_the_pipeline_wrote_are_skipped(photographs):
    key = photographs / "out" / "all" / "tags" / "0123"
    key.mkdir(parents=True)
    (key / "entries.jsonl").touch()
    Image.new("RGB", (8, 8)).save(photographs / "out" / "examples.png")
    masks = photographs / "out" / "all" / "masks" / "4567"
    write_labels(masks / "a.png", draw_photograph(0, 8, 8)[:, :, 0])
    ids = [s.id for s in load("folder", photographs, classes=["x"]).splits["all"]]
    assert ids == ["a", "b", "c", "d", "holiday 2026/e f"]

    (masks / "entries.jsonl").touch()
    within = load("folder", photographs / "out", classes=["x"]).splits["all"]
    assert [s.id for s in within] == ["examples"]


def test_tiff_bmp_and_the_first_picture_of_a_gif_are_read(tmp_path):
    first, second = (Image.fromarray(draw_photograph(k, 40, 56)) for k in (0, 1))
    for name in ("a.bmp", "b.tif", "c.TIFF"):
        first.save(tmp_path / name)
    shown = first.quantize(200)
    shown.save(tmp_path / "d.gif", save_all=True, append_images=[second])
    samples = load("folder", tmp_path, classes=["x"]).splits["all"]
    assert [s.id for s in samples] == ["a", "b", "c", "d"]
    for sample, wanted in zip(samples, [first, first, first, shown.convert("RGB")]):
        np.testing.assert_array_equal(decode_image(sample.image), np.asarray(wanted))


def test_pixels_that_are_not_integers_are_refused(tmp_path):
    Image.fromarray(np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8)).save(tmp_path / "a.tif")
    with pytest.raises(ImageError, match="floating-point pixels: save it"):
        decode_image(tmp_path / "a.tif")


def test_a_jpeg_wins_over_another_format_of_its_name(photographs):
    """Telephones write HEIC beside JPEG; that is no failure."""
    for name in ("a.tiff", "b.gif", "holiday 2026/e f.bmp", "new.bmp"):
        Image.fromarray(draw_photograph(9, 8, 8)).save(photographs / name)
    dataset = load("folder", photographs, classes=["x"])
    names = [s.image.name for s in dataset.splits["all"]]
    assert names == ["a.jpg", "b.png", "c.webp", "d.jpeg", "e f.jpg", "new.bmp"]
    assert dataset.rejected == {"all": []}
    [note] = dataset.notes
    assert note == (
        f"{photographs / 'a.tiff'} and 2 more were left out, since the JPEG, PNG or WebP file of"
        " that name is used"
    )
    assert find_photograph(photographs, "a").name == "a.jpg"
    assert find_photograph(photographs, "new").name == "new.bmp"
    (photographs / "b.png").rename(photographs / "b.Png")
    assert find_photograph(photographs, "b").name == "b.Png", "in any case, and before b.gif"
    for name, other in (("cafe\u0301.jpg", "caf\u00e9"), ("\u00fc.Gif", "u\u0308")):
        (photographs / "a.tiff").rename(photographs / name)
        assert find_photograph(photographs, other).name == name
        (photographs / name).rename(photographs / "a.tiff")


@pytest.fixture
def without_heif(monkeypatch):
    """As where pillow-heif is not installed."""
    for module in ("datasets.folder", "files.images"):
        monkeypatch.setattr(f"pipeline.{module}.SUFFIXES", COMMON_SUFFIXES)


@pytest.mark.usefixtures("without_heif")
def test_files_that_are_not_images_are_counted_by_suffix(photographs):
    for name in ("1.heic", "2.HEIC", "holiday 2026/3.heic", "notes.txt", "README", ".DS_Store"):
        (photographs / name).write_bytes(b"")
    [note] = load("folder", photographs, classes=["x"]).notes
    assert note == (
        "files that are not images were left out: 3 .heic, 1 without a suffix, 1 .txt;"
        " pip install pillow-heif, and HEIC is read"
    )


@pytest.mark.usefixtures("without_heif")
def test_heic_alone_is_refused_with_the_remedy(tmp_path):
    (tmp_path / "a.HEIC").write_bytes(b"a photograph of a telephone")
    with pytest.raises(UserError, match="1 .heic; pip install pillow-heif"):
        load("folder", tmp_path, classes=["x"])
    with pytest.raises(ImageError, match="pip install pillow-heif"):
        decode_image(tmp_path / "a.HEIC")


@pytest.mark.extras
def test_heic_is_read_where_pillow_heif_is_installed(tmp_path):
    library("pillow_heif")
    image = Image.fromarray(draw_photograph(0, 48, 64))
    image.save(tmp_path / "a.heic", quality=-1, chroma=444, matrix_coefficients=0)  # nothing lost
    [sample] = load("folder", tmp_path, classes=["x"]).splits["all"]
    np.testing.assert_array_equal(decode_image(sample.image), np.asarray(image))
