"""The settings of the stage ``report``."""

from dataclasses import dataclass

from pipeline.configuration.settings import setting

_WHY = "a report shows results and changes none"


@dataclass
class ReportSettings:
    """How much ``report.html`` shows.

    Attributes:
        split: the split whose images are shown; null takes the last one with results.
        images: the largest number of images. Of more, the report shows the worst, the best, those
            in which mask and prediction differ most, and an even sample; null shows all.
        longest_side: the longest side, in pixels, of the pictures in the report.
    """

    split: str | None = setting(None, changes="nothing", why=_WHY)
    images: int | None = setting(200, at_least=1, changes="nothing", why=_WHY)
    longest_side: int = setting(480, at_least=1, changes="nothing", why=_WHY)
