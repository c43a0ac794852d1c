"""The sentence on a head that is not free for every use."""

import pytest

from pipeline.segmenter import architecture
from pipeline.segmenter.architecture import licence_notes
from pipeline.segmenter.mmseg import build_config
from tests.segmenter.test_presets import settings_of
from tests.segmenter.tiny_training import CLASS_NAMES, PALETTE, tiny_settings, train_tiny


def notes_on(settings):
    return licence_notes(build_config(settings, CLASS_NAMES, PALETTE, 0).model)


@pytest.mark.parametrize(
    "preset, override, is_noted",
    [
        ("segformer_b0", None, True),
        ("segformer_b5", None, True),
        ("timm_mlp", None, False),
        ("timm_mlp", "segmenter.overrides.decode_head.type=SegformerHead", True),
        ("light", "segmenter.overrides.decode_head.type=mmseg.SegformerHead", True),
        ("light", None, False),
        ("demo", None, False),
    ],
)
def test_the_class_of_the_head_decides(preset, override, is_noted):
    notes = notes_on(settings_of(preset, *[override] * (override is not None)))
    assert any("NVIDIA" in note for note in notes) == is_noted


def test_a_training_says_it_once(pairs, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(architecture.RESTRICTED, "DepthwiseSeparableASPPHead", "for research alone")
    settings = tiny_settings(iterations=2, checkpoint_interval=1)
    train_tiny(pairs, tmp_path, settings)
    assert capsys.readouterr().err.count("note: for research alone\n") == 1
    (tmp_path / "iter_2.pth").unlink()
    train_tiny(pairs, tmp_path, settings)  # it is resumed
    assert "note" not in capsys.readouterr().err
