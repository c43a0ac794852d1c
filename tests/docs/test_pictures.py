"""The pictures of the pages, as far as they need neither a run nor a browser."""

from __future__ import annotations

import base64
import io

import nbformat
import numpy as np
import pytest
from PIL import Image

from docs.pictures import execute, shrink
from pipeline.files.images import encode_png

CELL = """
from IPython.display import Image
print("tags train ━━━╸                 120/400 6.6/s 0:00:20 0:00:43")
import warnings
warnings.warn("of this machine")
from pathlib import Path
print("tags      train            400 images  →  " + str(Path("out").absolute()))
Image({png})
"""


def picture() -> bytes:
    """Returns a noisy picture, as photographs are."""
    ramp = np.stack([*np.meshgrid(np.arange(200), np.arange(200)), np.full((200, 200), 80)], -1)
    noise = np.random.default_rng(0).integers(0, 20, ramp.shape)
    return encode_png((ramp + noise).astype(np.uint8))


def test_a_picture_keeps_its_size_and_nearly_its_colours():
    small = Image.open(io.BytesIO(shrink(picture())))
    assert len(shrink(picture())) < len(picture()) / 2
    assert small.mode == "P" and small.size == (200, 200)
    given = np.asarray(Image.open(io.BytesIO(picture()))).astype(int)
    assert np.abs(np.asarray(small.convert("RGB")) - given).mean() < 6


@pytest.mark.large
def test_a_notebook_keeps_its_outputs_but_not_what_depends_on_time(tmp_path):
    cell = nbformat.v4.new_code_cell(CELL.format(png=picture()))
    path = tmp_path / "notebook.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), path)
    execute(path, tmp_path)
    [executed] = nbformat.read(path, as_version=4).cells
    told, shown = executed.outputs
    assert told.text == "tags      train            400 images  →  out\n"
    assert base64.b64decode(shown.data["image/png"]) == shrink(picture())
    assert executed.execution_count == 1 and "execution" not in executed.metadata
