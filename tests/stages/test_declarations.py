"""What each method declares: its key, resources and weights follow from that."""

from __future__ import annotations

import pytest

from pipeline.configuration.registry import methods
from tests.methods import DENSE

TAGGING = ("classes", "tag_names", "backgrounds")
PIAA = ("empty_class", "piaa_batch", "open_border", "cwr_stop")
EXCEL = ("open_border", "imagenet_norm", "token_norm", "head_sum")
DECLARED = {
    "tags=tagclip": (True, ("open_border", "cwr_stop"), TAGGING),
    "tags=clip": (True, (), TAGGING),
    "tags=piaa": (True, PIAA, TAGGING),
    "tags=ground_truth": (False, (), ("classes",)),
    "tags=file": (False, (), ("classes",)),
    "cams=clip_es": (True, ("open_border",), ("cam_names", "backgrounds")),
    "cams=excel": (True, EXCEL, ("cam_names", "backgrounds")),
    "cams=file": (False, (), ("classes",)),
    "masks=crf": (False, ("crf_bgr", "crf_fp16"), ()),
    "masks=pamr": (False, (), ()),
    "masks=par": (False, (), ()),
    "masks=regions": (False, (), ()),
    "masks=file": (False, (), ("classes",)),
    "masks=ground_truth": (False, (), ("classes",)),
    "masks=dense": (True, ("position_scale",), ()),
}
DECLARED |= {
    f"cams={name}": (True, ("open_border",), ("cam_names", "backgrounds")) for name in DENSE
}
"""Choice → whether CLIP looks, the quirks that are read, the parts of the vocabulary."""


@pytest.mark.parametrize("choice", DECLARED)
def test_methods_declare_what_they_depend_on(choice):
    [method] = [m for m in methods() if f"{m.group}={m.name}" == choice]
    quirks = tuple(quirk.name for quirk in method.quirks)
    assert (method.uses_clip, quirks, (*method.reads,)) == DECLARED[choice]


def test_the_methods_are_all_listed():
    ours = {f"{m.group}={m.name}" for m in methods() if m.is_ours}
    assert ours == DECLARED.keys()
