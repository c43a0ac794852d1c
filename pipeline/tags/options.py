"""What the settings of taggers are derived from.

Nothing here imports NumPy, so that a command that computes nothing starts at once.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

from pipeline.engine.registry import method_of
from pipeline.engine.settings import setting


@dataclass
class TagOptions:
    """What every choice of ``tags=`` has.

    Attributes:
        min_score: the score that a tag must exceed in any case.
        variants: rows of the ablation to store as well.
        absent_as_zero: classes that no image shows count 0 in the mAP; else they are left out.
        corrections: a table of images with the tags that they have in place of those found, as a
            report saves it. The key holds its content, for each split, and not its name.
    """

    min_score: float = setting(0.0, at_least=0, at_most=1)
    variants: list[str] = setting(
        [], changes="nothing", why="further rows of scores, beside those that count"
    )
    absent_as_zero: bool = setting(
        False, changes="nothing", why="scores are measured with it, not computed"
    )
    corrections: str | None = setting(
        None, changes="nothing", why="the key holds what the file says of the split"
    )


@dataclass
class ScoredTagOptions(TagOptions):
    """What every tagger has that scores images.

    Attributes:
        alpha: α of each image's threshold, θ_img = min + α·(max − min) of its scores.
        fit_split: the split that is learned from, without labels, where something is learned; none
            takes the split that a segmenter is trained on.
        refit: whether it is learned again when the images of that split have changed.
        standardise: over what scores are standardised before they are compared with ``z``: "image"
            for the classes of each image, "class" for the images of ``fit_split``; empty keeps α.
        z: what a class's standardised score must exceed to be a tag. None is published; 0 is the
            best of ``experiment=z``.
    """

    alpha: float = setting(0.5, at_least=0, at_most=1)
    fit_split: str | None = None
    refit: bool = setting(
        False, changes="nothing", why="a fingerprint of what was learned is part of every result"
    )
    standardise: list[str] = setting([], choices=("image", "class"))
    z: float = setting(0.0, at_least=-1000, at_most=1000)

    def without_effect(self, prefix: str) -> Iterator[str]:
        """Yields a note on each setting that was given and changes nothing."""
        if self.z != type(self).z and not self.standardise:
            yield f"{prefix}.z has no effect without {prefix}.standardise"
        if "class" not in self.standardise and not method_of(self).learns:
            needs = f"give {prefix}=piaa or {prefix}.standardise=[class]"
            for name in filter(partial(getattr, self), ("fit_split", "refit")):
                yield f"{prefix}.{name} has no effect, because nothing is learned here: {needs}"
