"""Tags, CAMs and masks of single images from Python, as the stages compute them.

>>> from pipeline import Labeller, load_image
>>> labeller = Labeller(["cat", "person", "cup"], clip="vit_b16")
>>> labelling = labeller(load_image("photograph.jpg"))
>>> labelling.names, labelling.mask
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, overload

import numpy as np

from pipeline.cams.cams import Cams
from pipeline.cams.stage import ComputedCams
from pipeline.datasets.vocabulary import build_vocabulary
from pipeline.engine.registry import import_plugins, method_of
from pipeline.errors import UserError, shown
from pipeline.files import images
from pipeline.files.images import AnyImage, limit_longest_side, to_image
from pipeline.masks.labels import ignore_unsure
from pipeline.stages.builder import Builder
from pipeline.stages.config import compose, read_config
from pipeline.tags.stage import ScoredTags
from pipeline.tags.tagger import problem_with


def load_image(path: str | Path) -> np.ndarray:
    """Reads a JPEG, PNG, WebP, GIF, BMP or TIFF file as ``dataset=folder`` does: H×W×3 uint8, RGB.

    It is turned upright by its EXIF orientation, which the stages ignore with ``compat=released``,
    as :func:`pipeline.files.images.load_image` does.

    Raises:
        ImageError: the file is not an image, is damaged, or is too large.
    """
    return images.load_image(Path(path), apply_exif=True)


@dataclass(frozen=True)
class Labelling:
    """What is in one image, and where.

    Attributes:
        scores: n float32 in [0, 1], one for each class.
        tags: K class indices from 0, sorted; there may be none.
        names: the names of these K classes.
        cams: K×h×w float16 in [0, 1], a CAM for each tag on CLIP's grid of patches.
        mask: H×W uint8 in the image's size; 0 background, k+1 class k, 255 unsure
            (``masks.confidence``).
    """

    scores: np.ndarray
    tags: tuple[int, ...]
    names: tuple[str, ...]
    cams: np.ndarray
    mask: np.ndarray


class Labeller:
    """TagCLIP, CLIP-ES and the CRF for single images, with the results of the stages.

    An image is a path, a picture of Pillow, or a uint8 array: grey, RGB or RGBA; see
    :func:`pipeline.files.images.to_image`, which raises a UserError for anything else. Nothing is
    written. The CLIP is loaded, and the names embedded, when they are first needed.

    Attributes:
        classes: the n class names.
        palette: n+1 colours, RGB triples of 0 to 255, the background's first.
    """

    def __init__(
        self,
        classes: Sequence[str] | str,
        *,
        clip: str | None = None,
        checkpoint: str | Path | None = None,
        backgrounds: Sequence[str] | None = None,
        overrides: Sequence[str] = (),
        plugins: Sequence[str] = (),
    ) -> None:
        """Chooses names, weights and settings; they are those of ``dataset=folder``.

        Args:
            classes: the class names, or the path of a file with them, as for ``dataset.classes``.
            clip: a choice of ``clip=``, as ``"vit_b16"``, whose weights are downloaded once where
                no checkpoint is given; none stands for ``"file"`` with a checkpoint and for
                ``"vit_b16"`` without.
            checkpoint: the file of the weights.
            backgrounds: names of what is not a class; none takes those of ``dataset=folder``.
            overrides: further settings as the command line takes them, as ``"masks=argmax"``,
                ``"tags.min_score=0"``, ``"runtime.device=cuda"``, ``"compat=released"``.
            plugins: modules with methods of your own, which ``overrides`` can choose.

        Raises:
            UserError: whatever in it cannot be used.
        """
        if isinstance(classes, bytes) or not isinstance(classes, str | Sequence):
            raise UserError(f"classes={shown(classes)} is not a list of names: give one, or a file")
        lists = {"backgrounds": backgrounds or (), "overrides": overrides, "plugins": plugins}
        for name, given in lists.items():
            is_list = isinstance(given, Sequence) and not isinstance(given, str | bytes)
            if not is_list or not all(isinstance(each, str) for each in given):
                raise UserError(f"{name}={shown(given)} is not a list of texts: give {name}=['…']")
        import_plugins(plugins)
        clip = clip or ("file" if checkpoint else "vit_b16")
        dataset = ["dataset=folder", "dataset.root=unused", "dataset.classes=[]"]
        composed = compose([*dataset, f"clip={clip}", *overrides])
        # Set after composing, since Hydra's grammar restricts what a path or a name may hold.
        if checkpoint is not None:
            composed.clip.checkpoint = str(checkpoint)
        composed.dataset.classes = classes if isinstance(classes, str) else list(classes)
        if backgrounds is not None:
            composed.dataset.backgrounds = list(backgrounds)
        self._config = read_config(composed)
        options = self._config.tags
        if method_of(options).learns or getattr(options, "standardise", ()):
            raise UserError(
                "tags=piaa and tags.standardise learn from the images of a split: run stage=tags,"
                " or choose another tagger here"
            )
        if options.corrections is not None:
            raise UserError(
                "tags.corrections names images of a split: give the tags of an image to cams() and"
                " mask() here"
            )
        vocabulary = build_vocabulary(self._config.dataset)
        self._stages = Builder(self._config, vocabulary).per_split("")
        tags, cams = self._stages["tags"], self._stages["cams"]
        if not isinstance(tags, ScoredTags):
            raise UserError(
                f"tags={tags.method.name} takes tags from elsewhere: give them to cams() and"
                " mask(), and leave tags=tagclip here"
            )
        if not isinstance(cams, ComputedCams):
            raise UserError(
                f"cams={cams.method.name} takes CAMs from elsewhere: leave cams=clip_es here"
            )
        if self._stages["masks"].reads_files:
            raise UserError("masks.regions names files by images: leave masks.regions=slic here")
        for stage in self._stages.values():
            stage.check()
        self.classes = vocabulary.classes
        self.palette = vocabulary.palette

    @overload
    def __call__(self, image: AnyImage) -> Labelling: ...
    @overload
    def __call__(self, image: Sequence[AnyImage]) -> list[Labelling]: ...
    def __call__(self, image: AnyImage | Sequence[AnyImage]) -> Labelling | list[Labelling]:
        """Returns scores, tags, CAMs and mask of an image, or of each in a list."""
        if isinstance(image, list | tuple):
            return [self(each) for each in image]
        image = to_image(image)
        scores = self.scores(image)
        tags = self._stages["tags"].choose(scores)
        cams = self.cams(image, tags)
        names = tuple(self.classes[tag] for tag in tags)
        from_cams = self._stages["masks"].from_cams
        mask = self._mask(image, tags, cams) if from_cams else self.mask(image)
        return Labelling(scores, tags, names, cams, mask)

    def scores(self, image: AnyImage) -> np.ndarray:
        """Returns how much every class is in an image, n float32 in [0, 1]."""
        ((_, scored),) = self._tagger.stream([((), self._limited(to_image(image)))])
        if problem := problem_with(scored.scores, len(self.classes)):
            raise self._stages["tags"].wrong(problem)
        return scored.scores["scores"]

    def tags(self, image: AnyImage) -> tuple[int, ...]:
        """Returns the classes in an image, indices from 0, sorted."""
        return self._stages["tags"].choose(self.scores(image))

    def cams(self, image: AnyImage, tags: Sequence[int | str] | None = None) -> np.ndarray:
        """Returns where classes are, K×h×w float16 in [0, 1] on CLIP's grid of patches.

        The K ``tags`` are indices or names; none asks :meth:`tags`.

        Raises:
            UserError: a class that is not among the names.
        """
        image = to_image(image)
        tags = self._indices(image, tags)
        ((_, cams),) = self._cam_method.stream([((), self._limited(image), tags)])
        return self._stages["cams"].checked(cams, tags).astype(np.float16)

    def mask(self, image: AnyImage, tags: Sequence[int | str] | None = None) -> np.ndarray:
        """Returns the pseudo mask of an image, H×W uint8, from ``tags`` as :meth:`cams` takes them.

        0 is the background, k+1 class k, and 255 where the CRF is less sure than
        ``masks.confidence``, which is 0 unless it is given.

        Raises:
            UserError: a class that is not among the names, or tags where masks are not made from
                them.
        """
        image = to_image(image)
        if not self._stages["masks"].from_cams:
            if tags is not None:
                raise UserError(f"{self._stages['masks'].chosen} reads no tags: leave them out")
            return self._labelled(image, self._refine(self._limited(image), image.shape[:2]))
        tags = self._indices(image, tags)
        return self._mask(image, tags, self.cams(image, tags))

    @cached_property
    def _tagger(self) -> Any:  # noqa: ANN401
        tagger, _ = self._stages["tags"].load({})
        return tagger

    @cached_property
    def _cam_method(self) -> Any:  # noqa: ANN401
        return self._stages["cams"].load({})

    @cached_property
    def _refine(self) -> Any:  # noqa: ANN401
        if not self._stages["masks"].from_cams:
            return self._stages["masks"].load({})
        refine, _ = self._stages["masks"].load({"cams": Path()})
        return refine

    def _limited(self, image: np.ndarray) -> np.ndarray:
        """Returns the image at the size at which it is looked at."""
        return limit_longest_side(image, self._config.images.longest_side)

    def _indices(self, image: np.ndarray, tags: Sequence[int | str] | None) -> tuple[int, ...]:
        if tags is None:
            return self.tags(image)
        indices = []
        for tag in [tags] if isinstance(tags, str | int | np.integer) else tags:
            index = self.classes.index(tag) if tag in self.classes else tag
            if not isinstance(index, int | np.integer) or not 0 <= index < len(self.classes):
                known = ", ".join(self.classes)
                raise UserError(f"there is no class {tag}: give names or indices of {known}")
            indices.append(int(index))
        return tuple(indices)

    def _mask(self, image: np.ndarray, tags: Sequence[int], cams: np.ndarray) -> np.ndarray:
        stored = Cams(np.array(tags, np.int64), cams, image.shape[:2])
        return self._labelled(image, self._refine(self._limited(image), stored))

    def _labelled(
        self, image: np.ndarray, found: tuple[np.ndarray, np.ndarray | None]
    ) -> np.ndarray:
        """Returns labels, after the confidence filter, from labels and their probability."""
        labels, probability = self._stages["masks"].checked(*found, image.shape[:2])
        confidence = self._config.masks.confidence
        if probability is None or not confidence:
            return labels
        return ignore_unsure(labels, probability, confidence)
