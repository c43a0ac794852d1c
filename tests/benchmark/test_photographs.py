"""The hours of a folder of photographs follow from what its parts take."""

from __future__ import annotations

from pipeline.clip.device import Batches
from pipeline.clip.image_tower import ImageTower
from tests.report.measured import rows_of
from tests.tiny_clip import build_tiny_clip
from tools.benchmark import photographs as section

SECONDS = {"read": 0.1, "mask": 0.7, "crop": 8.0, "whole": 2.0}
"""What each part takes on a clock that stands still: four crops take 8 s."""


def test_the_hours_follow_from_a_photograph_and_its_crops(monkeypatch):
    order = ["read", "mask", "read", "mask", *["crop", "whole", "whole"] * 2]
    ticks = iter(SECONDS[part] for part in order)

    def timed(work):
        work()
        return next(ticks)

    model = section.Model("tiny", lambda: ImageTower.of(build_tiny_clip()))
    monkeypatch.setattr(section, "MODELS", [model])
    monkeypatch.setattr(section, "_SIZES", ((64, 48), (720, 540)))
    monkeypatch.setattr(section, "count_cores", lambda: 2)
    monkeypatch.setattr(section, "settle_precision", lambda *_: "bf16")
    monkeypatch.setattr(section, "timed", timed)
    table = section.photographs((4, 2), Batches(1, 4, 8), "cpu", "by_head", repeats=1)
    assert not [*ticks]
    # 2.0 + (2 · 0.1 + 0.7) / 2 = 2.45 s; 4.5 crops take 9 s more. 5,000 photographs: ÷ 0.72.
    figures = ["2.45", "3.4", "11.45", "15.9"]
    assert rows_of(table, "tiny") == [
        ["tiny", size, patches, precision, *figures]
        for precision in ("fp32", "bf16")
        for size, patches in (("64×48", "4×3"), ("720×540", "39×30"))
    ]
