"""The settings of the stage ``report``."""

from dataclasses import dataclass

from pipeline.configuration.settings import setting

_WHY = "a report shows results and changes none"


@dataclass
class ReportSettings:
    """How much ``report.html`` shows.

    Attributes:
        split: the split whose images are shown; none takes the last one with results.
        images: at most so many images. Of more it shows the worst, the best, those in which mask
            and prediction differ most, and an even sample; none shows all.
        longest_side: the longest side of the pictures in it, in pixels.
    """

    split: str | None = setting(None, changes="nothing", why=_WHY)
    images: int | None = setting(200, at_least=1, changes="nothing", why=_WHY)
    longest_side: int = setting(480, at_least=1, changes="nothing", why=_WHY)
