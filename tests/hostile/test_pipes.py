"""Pipes under names of results: reading one would block for ever."""

from __future__ import annotations

import os
import zipfile

import numpy as np
import pytest

from pipeline.cams.cams import read_cams
from pipeline.engine.store import Store
from pipeline.errors import ImageError, UserError
from pipeline.files.atomic import read_json
from pipeline.segmenter.checkpoints import (
    complete_checkpoints,
    read_checkpoint,
    resumable_checkpoint,
)


@pytest.fixture
def pipe(tmp_path):
    path = tmp_path / "iter_8.pth"
    os.mkfifo(path)
    return path


def test_a_checkpoint_is_put_aside_and_the_one_before_it_resumes(pipe, capsys):
    before = pipe.with_name("iter_4.pth")
    with zipfile.ZipFile(before, "w") as archive:
        archive.writestr("data.pkl", b"")
    assert complete_checkpoints(pipe.parent) == [before]
    with pytest.raises(UserError, match="iter_8.pth is damaged"):
        read_checkpoint(pipe)
    assert resumable_checkpoint(pipe.parent) == before
    assert {path.name for path in pipe.parent.iterdir()} == {"iter_4.pth", "iter_8.pth.damaged"}
    assert "iter_8.pth is damaged and is now iter_8.pth.damaged" in capsys.readouterr().err


def test_manifests_and_metrics_count_as_missing(pipe):
    assert read_json(pipe) is None


def test_cams_are_damaged(pipe):
    with pytest.raises(ImageError, match="its CAMs are damaged"):
        read_cams(pipe)


def test_text_embeddings_are_put_aside_and_made_again(pipe, tmp_path, capsys):
    (tmp_path / "text").mkdir()
    pipe.rename(tmp_path / "text" / "a.npz")
    assert Store(tmp_path).array("a", lambda: np.ones(3)).tolist() == [1, 1, 1]
    assert {path.name for path in (tmp_path / "text").iterdir()} == {"a.npz", "a.damaged"}
    assert "it is now a.damaged, and made again" in capsys.readouterr().err
