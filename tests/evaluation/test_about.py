"""How a table names the quirks that were kept."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from pipeline.engine import kinds
from pipeline.evaluation.about import choices_behind
from pipeline.stages.config import compose, read_config

MASKS, TAGS = (
    SimpleNamespace(kind=k, chain=[], round=1, legend={}) for k in (kinds.MASKS, kinds.TAGS)
)


@pytest.mark.parametrize(
    ("stage", "given", "expected"),
    [
        (MASKS, ["compat=released"], "released"),
        (MASKS, ["compat=clean"], "clean"),
        (TAGS, ["compat=released", "compat.crf_bgr=false"], "released"),  # tags have no CRF
        (MASKS, ["compat=released", "compat.crf_bgr=false"], "released without crf_bgr"),
        (
            TAGS,
            ["compat=released", "compat.exif=false", "compat.cwr_stop=false"],
            "released without exif cwr_stop",
        ),
        (MASKS, ["compat=clean", "compat.exif=true"], "exif"),
    ],
)
def test_quirks_are_named_by_the_preset_and_what_differs(stage, given, expected):
    config = read_config(compose(["dataset=demo", "clip=demo", *given]))
    assert choices_behind(stage, config).compat == expected
