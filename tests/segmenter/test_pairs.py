import numpy as np
import pytest
from PIL import Image
from tiny_training import write_pairs

from pipeline.segmenter.pairs import check_pairs


@pytest.fixture
def fresh(tmp_path):
    return write_pairs(tmp_path, 2)


def test_sound_pairs(fresh):
    assert check_pairs(fresh, 2) == []


def test_labels_out_of_range(fresh):
    problems = check_pairs(fresh, 1)  # the second mask holds label 2
    assert len(problems) == 1
    assert problems[0].startswith("s/1:") and "[2]" in problems[0]


def test_all_problems_are_listed(fresh):
    fresh[0].image.unlink()
    fresh[0].mask.unlink()
    Image.fromarray(np.full((39, 48), 9, np.uint8)).save(fresh[1].mask)
    problems = check_pairs(fresh, 2)
    assert len(problems) == 4
    assert sum("missing" in problem for problem in problems) == 2
    assert any("48×39, its image 48×40" in problem for problem in problems)
    assert any("[9]" in problem for problem in problems)


@pytest.mark.parametrize("mode", ["RGB", "1", "I;16"])
def test_only_bytes_per_pixel(fresh, mode):
    Image.new(mode, (48, 40)).save(fresh[0].mask)
    assert "not an indexed PNG" in check_pairs(fresh, 2)[0]


def test_jpeg_in_disguise(fresh):
    Image.new("L", (48, 40)).save(fresh[0].mask, format="JPEG")
    assert "JPEG" in check_pairs(fresh, 2)[0]


def test_damaged_files(fresh):
    fresh[0].mask.write_bytes(fresh[0].mask.read_bytes()[:60])
    fresh[1].image.write_bytes(b"nothing")
    problems = check_pairs(fresh, 2)
    assert [problem.split(":")[0] for problem in problems] == ["s/0", "s/1"]


def test_turned_image(fresh):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (40, 48)).save(fresh[0].image, exif=exif)
    assert "its image 40×48" in check_pairs(fresh[:1], 2)[0]
    assert check_pairs(fresh[:1], 2, apply_exif=True) == []
