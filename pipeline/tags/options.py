"""What the settings of taggers are derived from, and the settings of tags that are given.

Nothing here imports NumPy, so that a command that computes nothing starts at once.
"""

from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

from omegaconf import MISSING, OmegaConf

from pipeline.clip.settings import MethodOptions
from pipeline.configuration.registry import Quirk, methods, register
from pipeline.configuration.settings import setting
from pipeline.files.text import given_path

CWR_STOP = Quirk("cwr_stop", "an empty box ends CWR for all later classes")
"""The quirk of :class:`pipeline.tags.reidentification.Cwr`."""


@dataclass
class TagOptions(MethodOptions):
    """What every choice of ``tags=`` has.

    Attributes:
        min_score: the score that a tag must exceed in any case.
        variants: rows of the ablation to store as well.
        absent_as_zero: whether classes that no image shows count as 0 in the mAP; otherwise they
            are left out.
        corrections: a table of images with their corrected tags, which replace those found; a
            report saves one. The cache key holds its contents for each split, not its name.
    """

    min_score: float = setting(0.0, at_least=0, at_most=1)
    variants: list[str] = setting(
        [], changes="nothing", why="further rows of scores, beside those that count"
    )
    absent_as_zero: bool = setting(
        False, changes="figures", why="scores are measured with it, not computed"
    )
    corrections: str | None = setting(
        None, changes="images", why="the key holds the contents of the file, for each split"
    )


@dataclass
class ScoredTagOptions(TagOptions):
    """What every tagger has that scores images.

    Attributes:
        alpha: α of each image's threshold, θ_img = min + α·(max − min) of its scores.
        fit_split: the split that methods which learn, without labels, learn from; null takes the
            split that the segmenter is trained on.
        refit: whether to learn again after the images of ``fit_split`` changed.
        standardise: how scores are standardised before they are compared with ``z``: "image" over
            the classes of each image, "class" over the images of ``fit_split``; an empty list keeps
            the threshold of ``alpha``.
        z: the standardised score that a tag must exceed. No value is published; 0 is the best of
            ``experiment=z``.
    """

    alpha: float = setting(0.5, at_least=0, at_most=1)
    fit_split: str | None = None
    refit: bool = setting(
        False, changes="nothing", why="every result holds what was learned", stage="tags"
    )
    standardise: list[str] = setting([], choices=("image", "class"))
    z: float = setting(0.0, at_least=-1000, at_most=1000)

    templates = ""
    """The set of prompt templates by which the class names are embedded, if that is how it tags."""

    uses_alpha = False
    """Whether scores depend on ``alpha``, and not only the tags that follow from them."""

    def without_effect(self, prefix: str) -> Iterator[str]:
        """Yields a note on each setting that was given and changes nothing."""
        if self.z != type(self).z and not self.standardise:
            yield f"{prefix}.z has no effect without {prefix}.standardise"
        if "class" not in self.standardise and not self.method.learns:
            learning = [f"{prefix}={method.name}" for method in methods(prefix) if method.learns]
            needs = f"give {' or '.join([*learning, f'{prefix}.standardise=[class]'])}"
            for name in filter(partial(getattr, self), ("fit_split", "refit")):
                yield f"{prefix}.{name} has no effect, because nothing is learned here: {needs}"


@dataclass
class GroundTruthOptions(TagOptions):
    """``tags=ground_truth``: the classes that the data set says are in the image."""

    min_score: float = setting(
        0.0, at_least=0, at_most=1, changes="nothing", why="given tags have no scores"
    )


@dataclass
class TagListOptions(TagOptions):
    """``tags=file``: a list with an image id and class indices from 0 on each line, or scores.

    Attributes:
        path: a list in the format of ``tags.txt``; or scores of classes: a ``.csv`` table, the
            ``.json`` of COCO or Label Studio, or a folder of labelme's files.
        min_score: the score that a tag must exceed in any case; null for 0.5.
        alpha: α of each image's threshold; null for 0. A list has no scores, and ignores both.
        join: class → further names in the file, one or a list, that count as this class.
    """

    path: str = setting(MISSING, is_path=True)
    min_score: float | None = setting(None, at_least=0, at_most=1)
    alpha: float | None = setting(None, at_least=0, at_most=1)
    join: Any = setting(None, changes="images", why="what is read is part of each image's input")

    values, colours, palette = None, None, "index"  # of label PNGs, which hold no tags

    @property
    def thresholds(self) -> Mapping[str, float]:
        """What turns scores into tags; {} for a list."""
        path = given_path(self.path, "tags.path")
        is_list = path.suffix.lower() not in (".csv", ".json")
        with suppress(OSError):  # what has so long a name is no folder
            is_list = is_list and not path.is_dir()
        if is_list:
            return {}
        given = {"alpha": (self.alpha, 0.0), "min_score": (self.min_score, 0.5)}
        return {name: default if v is None else v for name, (v, default) in given.items()}

    def without_effect(self, prefix: str) -> Iterator[str]:
        """Yields a note on each setting that was given and changes nothing."""
        for name in ("alpha", "min_score", "join"):
            if not self.thresholds and getattr(self, name) is not None:
                yield f"{prefix}.{name} has no effect on a list, which has no scores"


# A data set may set the minimum score of all taggers; for the scores in a file it stays null.
OmegaConf.register_new_resolver(
    "of_taggers",
    lambda score, _parent_: None if OmegaConf.get_type(_parent_) is TagListOptions else score,
    replace=True,
)

register("tags", "ground_truth", GroundTruthOptions, is_stage=True, reads=("classes",))(
    "pipeline.tags.given:GroundTruthTags"
)

register("tags", "file", TagListOptions, label="tags of a file", is_stage=True, reads=("classes",))(
    "pipeline.tags.given:ListedTags"
)
