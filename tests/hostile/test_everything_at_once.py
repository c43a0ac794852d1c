"""One folder with every kind of file: each ends as a result or as a line with the reason."""

from __future__ import annotations

import os
import re

import numpy as np
import pytest
from PIL import Image

from tests.hostile.conftest import assert_one_sentence, failures
from tests.hostile.files import KINDS, deep_png, encode, photograph, raw_png, write
from tests.small_runs import TINY_SEGMENTER, latest

LONGEST_SIDE = 96
STAGES = ("tags", "cams", "masks", "predictions")

TURNED = Image.Exif()
TURNED[0x0112] = 6

GOOD = {
    **{name: encode(photograph(k), kind) for k, (name, kind) in enumerate(zip("abcde", KINDS))},
    "CMYK": encode(photograph().convert("CMYK")),
    "palette": encode(photograph().convert("P"), "PNG"),
    "alpha": encode(photograph().convert("RGBA"), "PNG"),
    "grey and alpha": encode(photograph().convert("LA"), "PNG"),
    "grey 16": deep_png(np.arange(40 * 56).reshape(40, 56, 1) * 29, 0),
    "RGB 16": deep_png(np.arange(40 * 56 * 3).reshape(40, 56, 3) * 9, 2),
    "turned": encode(photograph(), exif=TURNED),
    "animation": encode(photograph(), "WebP", save_all=True, append_images=[photograph(4)]),
    "GIF": encode(photograph(), "GIF", save_all=True, append_images=[photograph(4)]),
    "one pixel": encode(photograph().resize((1, 1)), "PNG"),
    "line": encode(photograph().resize((4000, 1)), "PNG"),
    "column": encode(photograph().resize((1, 4000)), "PNG"),
    os.fsdecode(b"!caf\xe9"): encode(photograph(5)),
    " leading and trailing ": encode(photograph(6)),
    "-dash": encode(photograph(6)),
    "line\nbreak\ttab": encode(photograph(7)),
    "'quotes\" & $(touch x) `y`; *?": encode(photograph(8)),
    "100% %20 %s {} [red]": encode(photograph(9)),
    "e\u0301": encode(photograph(11)),
    "\u6771\u4eac/\U0001f408": encode(photograph(12)),
    "x" * 251: encode(photograph(13)),
    "/".join(["deep"] * 40) + "/x": encode(photograph(14)),
}
"""Id → content of the files that are images."""

SIZES = {
    "turned": (56, 40),
    "one pixel": (1, 1),
    "line": (1, 4000),
    "column": (4000, 1),
}
"""Height and width of the images that are not 40×56 pixels."""

BAD = {
    **{f"cut {kind}": encode(photograph(), kind)[:-150] for kind in KINDS},
    "empty": b"",
    "text": b"this is no image",
    "PostScript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n",
    "bomb": raw_png(12_000, 9_000, 8, 2),
    "huge": raw_png(2**31 - 1, 2**31 - 1, 8, 6),
}
"""Id → content of the files that are not."""


@pytest.fixture
def hostile_folder(root):
    for name, content in (GOOD | BAD).items():
        write(root, f"{name}.jpg", content)
    write(root, "a.png", GOOD["a"])
    write(root, "\u00e9.jpg", encode(photograph(10)))
    os.mkfifo(root / "pipe.jpg")
    (root / "dangling.jpg").symlink_to("nothing")
    (root / "self.jpg").symlink_to("self.jpg")
    (root / "loop").symlink_to(root)
    (root / "folder.jpg").mkdir()
    return root


def test_every_file_is_an_image_or_a_reason(run_on, hostile_folder, out):
    arguments = (
        f"images.longest_side={LONGEST_SIDE}",
        "dataset.max_pixels=100_000_000",
        "runtime.max_failures=100",
        *TINY_SEGMENTER,
    )
    finished = run_on("stage=all", *arguments)
    assert finished.code == 0, finished.errors
    lines = finished.errors.splitlines()
    others = [line for line in lines if not line.startswith(("left out: ", "stage "))]
    tiny, nothing = others  # the tiny CLIP is random
    assert tiny.startswith("note: CLIP hardly tells apart cat and person, ")
    assert nothing == "note: nothing was measured, since no image has ground truth"
    named = failures(latest(out, "tags"))
    assert named.keys() == {*BAD, "a.png", "pipe", "dangling", "self", "folder.jpg/", "\u00e9"}
    for reason in named.values():
        assert reason.isprintable() and 15 < len(reason) < 200 and str(out.parent) not in reason
    assert "12000×9000 pixels are more than dataset.max_pixels=100000000" in named["bomb"]
    with np.load(latest(out, "tags") / "scores.npz") as arrays:
        assert set(arrays["ids"].tolist()) == set(GOOD)
        assert np.isfinite(arrays["scores"]).all()
    for stage, ending in (("cams", "npz"), ("masks", "png"), ("predictions", "png")):
        folder = latest(out, stage)
        files = {p.relative_to(folder).as_posix() for p in folder.rglob(f"*.{ending}")}
        before = {".single_scale/"} if stage == "predictions" else set()  # without the CRF
        assert files == {f"{step}{i}.{ending}" for i in GOOD for step in {"", *before}}
    for image_id in GOOD:
        height, width = SIZES.get(image_id, (40, 56))
        with np.load(latest(out, "cams") / f"{image_id}.npz") as arrays:
            assert arrays["size"].tolist() == [height, width]
            assert np.isfinite(arrays["cams"]).all()
        for stage in ("masks", "predictions"):
            with Image.open(latest(out, stage) / f"{image_id}.png") as mask:
                assert mask.size == (width, height)
    assert not (hostile_folder / "x").exists()

    again = run_on("stage=all", *arguments)
    assert again.code == 0, again.errors
    assert set(re.findall(r"(\d+) computed now", again.output)) == {"0"}


def test_more_than_are_allowed_end_the_run_with_one_sentence(run_on, hostile_folder, out):
    finished = run_on("stage=[tags,cams]")
    assert_one_sentence(finished, "were left out of tags", f"{latest(out, 'tags').resolve()}")


def test_what_was_mended_or_removed_is_named_no_more(run_on, root, out):
    write(root, "a.jpg", GOOD["a"])
    write(root, "a.png", GOOD["a"])
    write(root, "torn.jpg", BAD["cut PNG"])
    write(root, "removed.jpg", b"")
    assert run_on("stage=tags").code == 0
    assert failures(latest(out, "tags")).keys() == {"a.png", "torn", "removed"}
    write(root, "torn.jpg", GOOD["b"])
    (root / "a.png").unlink()
    (root / "removed.jpg").unlink()
    assert run_on("stage=tags").code == 0
    assert failures(latest(out, "tags")) == {}


@pytest.mark.parametrize("name", ["[/red]", "[red]"])
def test_an_output_folder_may_have_any_name(run_on, root, tmp_path, name):
    write(root, "a.jpg", GOOD["a"])
    finished = run_on("stage=tags", f"output_dir='{tmp_path}/{name}'")
    assert finished.code == 0 and f"{tmp_path}/{name}" in finished.output
