"""Presets that use everything that presets use, from the download to the table."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pipeline.configuration.registry import methods
from tests.presets import cover, every_preset, go_through
from tests.segmenter.test_presets import NEEDS


@pytest.mark.large
@pytest.mark.usefixtures("ours_alone")
def test_all_that_presets_use_runs_to_its_end(tmp_path):
    every = every_preset()
    used = {fact for preset in every for fact in preset.facts}
    ours = {f"{method.group}={method.name}" for method in methods() if method.is_ours}
    assert ours - used == {"tags=file", "cams=file", "masks=file"}, "make presets misses them"
    chosen = cover(every)
    assert {fact for preset in chosen for fact in preset.facts} == used
    small = []
    for each in chosen:
        less = NEEDS.get(each.name.removeprefix("segmenter="), ())
        less = (*less, *["segmenter.test.scales=[1.0]"] * ("train" in each.stages))
        small.append(replace(each, words=(*each.words, *less)))
    assert go_through(small, tmp_path, jobs=1, exports=False) == {}
