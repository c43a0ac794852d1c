"""What one stage would do for one split."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class PlannedStage:
    """What a stage would do for a split.

    Attributes:
        stage: its name.
        split: the split, or "" for a stage that has none.
        images: how many images it is about; none for a stage that looks at what is there.
        cached: results that are there; none where it depends on what comes before.
        to_compute: images that would be computed; none for a stage that looks at what is there.
        after: the stage that has to run before it is certain which; "" where it is certain now.
        is_most: whether ``to_compute`` is the most there can be.
        seconds: estimated computing time; none where nothing like it was ever measured.
        with_tags: whether maps come from the pass in which images are tagged, at no time of their
            own.
        key: what the folder of the results is called; "" where it depends on what comes before.
    """

    stage: str
    split: str
    images: int | None = None
    cached: int | None = None
    to_compute: int | None = None
    after: str = ""
    is_most: bool = False
    seconds: float | None = None
    with_tags: bool = False
    key: str = ""
