"""Tags, CAMs, masks and CLIP's features of images from Python, as the stages compute them.

>>> from pipeline import Labeller
>>> labeller = Labeller(["cat", "person", "cup"], clip="vit_b16")
>>> labelling = labeller("photograph.jpg")
>>> labelling.names, labelling.mask
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar, overload

import numpy as np
from PIL import Image

from pipeline.api.configuration import check_texts, compose_folder, configure, is_list
from pipeline.api.labelling import Labelling
from pipeline.cams.cams import Cams
from pipeline.clip.dimensions import block_window
from pipeline.configuration.plugins import import_plugins
from pipeline.datasets.vocabulary import build_vocabulary
from pipeline.errors import ImageError, UserError, refusing_exit, shown
from pipeline.files import images
from pipeline.files.images import AnyImage, limit_longest_side, to_image
from pipeline.masks.labels import ignore_unsure
from pipeline.stages.builder import Builder
from pipeline.tags.stage import ScoredTags
from pipeline.tags.tagger import ScoredTagOptions

if TYPE_CHECKING:
    from torch import Tensor

    from pipeline.clip.compute.kept import KeptFeatures
    from pipeline.clip.shared_pass import SharedPass

AnyImages = Sequence[AnyImage] | Iterator[AnyImage]  # arrays are iterable, too
Tags = Sequence[int | str] | None
"""Classes by their indices from 0, or by their names; none asks the tagger."""

TagsOfEach = Sequence[Sequence[int | str]] | None

Found = TypeVar("Found")
_Step = Callable[[Iterable["_Image"]], Iterator["_Image"]]

_LOADING = threading.RLock()  # a labeller's own could not be pickled


def load_image(path: str | Path) -> np.ndarray:
    """Reads a JPEG, PNG, WebP, GIF, BMP or TIFF file as ``dataset=folder`` does: H×W×3 uint8, RGB.

    It is turned upright by its EXIF orientation, which the stages ignore with ``compat=released``,
    as :func:`pipeline.files.images.decode_image` does.

    Raises:
        ImageError: the file is not an image, is damaged, or is too large.
    """
    return images.decode_image(Path(path), apply_exif=True)


@dataclass(eq=False)
class _Image:
    """An image of a call, its place in it and its name in messages, and what was found so far."""

    place: int
    name: str
    given: AnyImage
    pixels: np.ndarray
    tags: tuple[int, ...] | None
    scores: np.ndarray | None = None
    shared_pass: SharedPass | None = None
    cams: np.ndarray | None = None  # not yet rounded to float16
    mask: np.ndarray | None = None


class Labeller:
    """TagCLIP, CLIP-ES and the CRF from Python, with the results of the stages.

    An image is a path, a picture of Pillow, or a uint8 array: grey, RGB or RGBA; see
    :func:`pipeline.files.images.to_image`, which raises a UserError for anything else. Several, in
    any iterable, give a list of results in their order. Nothing is written. The CLIP is loaded, and
    the names embedded, when they are first needed. Threads can share a labeller; to other processes
    it is sent without what it has loaded.

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
        batch_size: int | None = None,
        overrides: Sequence[str] = (),
        plugins: Sequence[str] = (),
        keep: int | Labeller = 0,
    ) -> None:
        """Chooses names, weights and settings; they are those of ``dataset=folder``.

        Args:
            classes: the class names, or the path of a file with them, as for ``dataset.classes``.
            clip: a choice of ``clip=``, as ``"vit_b16"``, whose weights are downloaded once where
                no checkpoint is given; none stands for ``"file"`` with a checkpoint and for
                ``"vit_b16"`` without.
            checkpoint: the file of the weights, or the folder of a model that has several.
            backgrounds: names of what is not a class; none takes those of ``dataset=folder``.
            batch_size: of CLIP, as ``runtime.batch_size``: none takes 1 on a CPU, 16 on a GPU.
                Fewer images are padded to it.
            overrides: further settings as the command line takes them, as ``"masks=argmax"``,
                ``"tags.min_score=0"``, ``"runtime.device=cuda"``, ``"compat=released"``.
            plugins: modules with your own methods, which ``overrides`` can choose.
            keep: bytes of memory for what CLIP finds in images and names. A labeller with other
                names or thresholds that is given this one shares its CLIP, and what is kept is not
                computed again.

        Raises:
            UserError: whatever in it cannot be used.
        """
        texts = {"backgrounds": backgrounds or (), "overrides": overrides, "plugins": plugins}
        for name, each in texts.items():
            check_texts(name, each)
        import_plugins(plugins)
        clip = clip or ("file" if checkpoint else "vit_b16")
        given = {
            "clip.checkpoint": checkpoint and str(checkpoint),
            "dataset.backgrounds": backgrounds,
            "runtime.batch_size": batch_size,
        }
        words = [f"clip={clip}", *overrides]
        known = isinstance(keep, Labeller) and keep._composed  # noqa: SLF001
        self._composed = known if known and known[0] == words else (words, compose_folder(words))
        self._config = configure(classes, given, self._composed[1])
        options = self._config.tags
        method, is_scored = options.method, isinstance(options, ScoredTagOptions)
        if method.learns or (is_scored and options.standardise):
            raise UserError(
                f"tags={method.name} and tags.standardise learn from the images of a split: run"
                " stage=tags, or choose another tagger here"
            )
        for group in ("tags", "masks"):
            if getattr(self._config, group).corrections is not None:
                raise UserError(
                    f"{group}.corrections names images of a split: give the tags of an image to"
                    " cams() and mask() here"
                )
        if self._config.cams.learns_from:
            raise UserError("cams.bank is learned from pictures: run stage=all, or leave it out")
        vocabulary = build_vocabulary(self._config.dataset)
        self._keep = keep._keep if isinstance(keep, Labeller) else keep  # noqa: SLF001
        self._builder = Builder(self._config, vocabulary, kept=_kept(self._keep))
        if isinstance(keep, Labeller):
            shared = keep._builder.clip  # noqa: SLF001
            if replace(self._builder.clip, kept=shared.kept) == shared:
                vars(self._builder)["clip"] = shared  # whose files need not be read again
        self._stages = self._builder.per_split("")
        remedies = {
            "tags": "give tags to cams() and mask(), and choose a tagger here",
            "cams": "choose a method here",
            "masks": "choose a refiner here",
        }
        for name, remedy in remedies.items():
            stage = self._stages[name]
            if reads_regions := stage.region_folder is not None:
                remedy = f"leave {name}.regions=slic here"
            if reads_regions or not stage.takes_any_image:
                raise UserError(f"{stage.chosen} reads files of images by their names: {remedy}")
        for stage in self._stages.values():
            stage.check()
        self.classes, self.palette = vocabulary.classes, vocabulary.palette
        self._models: dict[str, Any] = {}

    @overload
    def __call__(self, image: AnyImage) -> Labelling: ...
    @overload
    def __call__(self, image: AnyImages) -> list[Labelling]: ...
    def __call__(self, image: AnyImage | AnyImages) -> Labelling | list[Labelling]:
        """Returns scores, tags, CAMs and mask of an image; of a list or an iterator, a list."""

        return self._compute(image, None, [*self._locating(), self._label], self._labelling)

    def step_by_step(self, image: AnyImage) -> Iterator[Labelling]:
        """Yields what is known of an image after its tags, after its CAMs and after its mask.

        CAMs and mask are none before.
        """
        found = _Image(0, "", image, to_image(image), None)
        for step in [*self._locating(), self._label]:
            [found] = step([found])
            yield self._labelling(found)

    def _labelling(self, found: _Image) -> Labelling:
        names = tuple(self.classes[tag] for tag in found.tags)
        cams = None if found.cams is None else found.cams.astype(np.float16)
        threshold = self._stages["tags"].threshold(found.scores)
        about = found.given, self.classes, self.palette, threshold
        return Labelling(found.scores, found.tags, names, cams, found.mask, *about)

    @overload
    def scores(self, image: AnyImage) -> np.ndarray: ...
    @overload
    def scores(self, image: AnyImages) -> list[np.ndarray]: ...
    def scores(self, image: AnyImage | AnyImages) -> np.ndarray | list[np.ndarray]:
        """Returns how much every class is in an image, n float32 in [0, 1]."""
        return self._compute(image, None, [self._score], lambda found: found.scores)

    @overload
    def tags(self, image: AnyImage) -> tuple[int, ...]: ...
    @overload
    def tags(self, image: AnyImages) -> list[tuple[int, ...]]: ...
    def tags(self, image: AnyImage | AnyImages) -> tuple[int, ...] | list[tuple[int, ...]]:
        """Returns the classes in an image, indices from 0, sorted."""
        return self._compute(image, None, [self._score], lambda found: found.tags)

    @overload
    def cams(self, image: AnyImage, tags: Tags = ...) -> np.ndarray: ...
    @overload
    def cams(self, image: AnyImages, tags: TagsOfEach = ...) -> list[np.ndarray]: ...
    @overload
    def cams(self, image: AnyImage, tags: Tags = ..., *, as_tensors: Literal[True]) -> Tensor: ...
    @overload
    def cams(
        self, image: AnyImages, tags: TagsOfEach = ..., *, as_tensors: Literal[True]
    ) -> list[Tensor]: ...
    def cams(self, image: Any, tags: Any = None, *, as_tensors: bool = False) -> Any:
        """Returns where classes are, K×h×w float16 in [0, 1] on CLIP's grid of patches.

        The K ``tags`` are indices or names, and of several images a list for each; none asks
        :meth:`tags`. With ``as_tensors``, CAMs are float32 on the labeller's device.

        Raises:
            UserError: a class that is not among the names, or is named twice.
        """

        def result(found: _Image) -> np.ndarray | Tensor:
            if not as_tensors:
                return found.cams.astype(np.float16)
            import torch

            return torch.tensor(found.cams, dtype=torch.float32, device=self._builder.device)

        return self._compute(image, tags, self._locating(tags), result)

    @overload
    def mask(self, image: AnyImage, tags: Tags = ...) -> np.ndarray: ...
    @overload
    def mask(self, image: AnyImages, tags: TagsOfEach = ...) -> list[np.ndarray]: ...
    def mask(self, image: Any, tags: Any = None) -> Any:
        """Returns the pseudo mask of an image, H×W uint8, from ``tags`` as :meth:`cams` takes them.

        0 is the background, k+1 class k, and 255 where the CRF is less sure than
        ``masks.confidence``, which is 0 unless it is given.

        Raises:
            UserError: a class that is not among the names, or is named twice; or tags where masks
                are not made from them.
        """
        from_cams = self._stages["masks"].from_cams
        if not from_cams and tags is not None:
            raise UserError(f"{self._stages['masks'].chosen} reads no tags: leave them out")
        steps = [*(self._locating(tags) if from_cams else ()), self._label]
        return self._compute(image, tags, steps, lambda found: found.mask)

    def near_synonyms(self) -> list[list[str]]:
        """Returns the pairs of classes whose names CLIP hardly tells apart (cosine above 0.95)."""
        stage = self._stages["tags"]
        return stage.near_synonyms() if isinstance(stage, ScoredTags) else []

    def features(self, image: AnyImage | AnyImages, blocks: Sequence[int] = (0,)) -> list[Tensor]:
        """Returns CLIP's patch tokens after blocks, before its last norm and its projection.

        Args:
            image: an image, or B images of one size, which are a batch.
            blocks: their numbers from 1, or offsets from the last block, which is 0.

        Returns:
            Of each block B×h×w×D, float32 whatever ``runtime.precision``, without gradients, on the
            labeller's device.

        Raises:
            UserError: a block that CLIP does not have, or images with other grids of patches.
        """
        import torch

        if not is_list(blocks) or not all(type(block) is int for block in blocks):
            raise UserError(f"blocks={shown(blocks)} is not a list of numbers: give it, as [-1, 0]")
        encoder = self._model("clip")
        numbers = [block_window("blocks", (block, block), encoder.depth)[0] for block in blocks]
        found = self._compute(image, None, [], lambda image: self._limited(image.pixels))
        batch = found if isinstance(found, list) else [found]
        grids = {encoder.patch_grid(image) for image in batch}
        if len(grids) != 1:
            sizes = " and ".join(f"{rows}×{columns}" for rows, columns in sorted(grids)) or "no"
            raise UserError(f"images of {sizes} patches are not a batch: crop them to one size")
        pixels = torch.stack([*map(encoder.prepare, batch)]).to(encoder.device)
        tokens = encoder.tokens_after(pixels, numbers)  # its weights are frozen
        return [encoder.patches(tokens[number]).unflatten(1, *grids) for number in numbers]

    def _compute(
        self,
        given: AnyImage | AnyImages,
        tags: Tags | TagsOfEach,
        steps: Sequence[_Step],
        result: Callable[[_Image], Found],
    ) -> Found | list[Found]:
        """Returns the result of an image after some steps, or a list of those of several."""
        forms = str | os.PathLike | Image.Image | np.ndarray
        if isinstance(given, forms) or not isinstance(given, Iterable):
            given, one = [given], [tags] if isinstance(tags, str | int | np.integer) else tags
            return self._compute(given, None if tags is None else [one], steps, result)[0]
        given = list(given)
        known = [None] * len(given)
        if tags is not None:
            fits = isinstance(tags, Sequence) and len(tags) == len(given)
            if not fits or not all(is_list(each) or isinstance(each, np.ndarray) for each in tags):
                raise UserError(
                    f"tags={shown(tags)} are not of {len(given)} images: give a list for each"
                )
            known = [*map(self._indices, tags)]

        def decode() -> Iterator[_Image]:
            for place, image in enumerate(given):
                name = f"images[{place}]" if len(given) > 1 else ""
                try:
                    yield _Image(place, name, image, to_image(image), known[place])
                except UserError as error:
                    raise UserError(f"{name} {error}".lstrip()) from error

        images = decode()
        for step in steps:
            images = step(images)
        found = {image.place: result(image) for image in images}  # they come in any order
        return [found[place] for place in sorted(found)]

    def _locating(self, tags: Tags | TagsOfEach = None) -> list[_Step]:
        """Returns the steps up to CAMs, which share a pass of CLIP with tags if they can."""
        if tags is not None:
            return [self._locate]
        if all(self._stages[name].options.shares_pass for name in ("tags", "cams")):
            return [partial(self._score, cam_hooks=self._model("cams").hooks), self._locate_in_pass]
        return [self._score, self._locate]

    def _score(self, images: Iterable[_Image], **hooks: Any) -> Iterator[_Image]:  # noqa: ANN401
        stage = self._stages["tags"]
        named = ((image, self._limited(image.pixels)) for image in images)
        with refusing_exit(stage.chosen):
            for image, scored in self._model("tags").stream(named, **hooks):
                found = _checked(scored, image)
                checked = stage.checked(found, image.name)
                image.scores, image.shared_pass = checked["scores"], found.shared_pass
                image.tags = stage.choose(image.scores)
                yield image

    def _locate_in_pass(self, images: Iterable[_Image]) -> Iterator[_Image]:
        with refusing_exit(self._stages["cams"].chosen):
            method = self._model("cams")
            for image in images:
                try:
                    cams = method.cams_of_pass(image.shared_pass, image.tags)
                except ImageError as error:
                    cams = error
                image.shared_pass = None  # a large one
                yield self._with_cams(image, cams)

    def _locate(self, images: Iterable[_Image]) -> Iterator[_Image]:
        named = ((image, self._limited(image.pixels), image.tags) for image in images)
        with refusing_exit(self._stages["cams"].chosen):
            for image, cams in self._model("cams").stream(named):
                yield self._with_cams(image, cams)

    def _with_cams(self, image: _Image, cams: np.ndarray | ImageError) -> _Image:
        image.cams = self._stages["cams"].checked(_checked(cams, image), image.tags, image.name)
        return image

    def _label(self, images: Iterable[_Image]) -> Iterator[_Image]:
        stage, refine = self._stages["masks"], self._model("masks")
        for image in images:
            needed = size = image.pixels.shape[:2]
            if stage.from_cams:
                needed = Cams(np.array(image.tags, np.int64), image.cams.astype(np.float16), size)
            with refusing_exit(stage.chosen):
                found = refine(self._limited(image.pixels), needed)
            image.mask, probability = stage.checked(found, size, image.name)
            if probability is not None and (confidence := self._config.masks.confidence):
                image.mask = ignore_unsure(image.mask, probability, confidence)
            yield image

    def _model(self, name: str) -> Any:  # noqa: ANN401
        """Returns what computes a stage, loaded once in a process; "clip" is the image tower."""
        with _LOADING:
            if name not in self._models:
                is_clip = name == "clip"
                found = self._builder.clip.encoder if is_clip else self._stages[name].load({})
                self._models[name] = found
            return self._models[name]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_models": {}, "_composed": None}  # which is large

    def _limited(self, image: np.ndarray) -> np.ndarray:
        """Returns the image at the size at which it is looked at."""
        return limit_longest_side(image, self._config.images.longest_side)

    def _indices(self, tags: Tags) -> tuple[int, ...]:
        indices = []
        for tag in tags:
            index = self.classes.index(tag) if tag in self.classes else tag
            is_number = isinstance(index, int | np.integer) and not isinstance(index, bool)
            if not is_number or not 0 <= index < len(self.classes):
                known = ", ".join(self.classes)
                raise UserError(f"there is no class {tag}: give names or indices of {known}")
            if index in indices:
                raise UserError(f"class {self.classes[index]} is named twice: leave one out")
            indices.append(int(index))
        return tuple(indices)


def _kept(limit: int) -> KeptFeatures | None:
    if type(limit) is not int or limit < 0:
        raise UserError(f"keep={shown(limit)} is not a number of bytes or a labeller: give one")
    if not limit:
        return None
    from pipeline.clip.compute.kept import KeptFeatures

    return KeptFeatures(limit)


def _checked(found: Found | ImageError, image: _Image) -> Found:
    if isinstance(found, ImageError):
        raise UserError(f"{image.name or 'the image'} {found}")
    return found
