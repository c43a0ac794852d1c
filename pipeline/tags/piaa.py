"""PIAA: a tagger that learns a prototype of every class from unlabelled images.

Wang et al., ICML 2026, arXiv 2605.25821; docs/algorithms.md, "Tags: PIAA".
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

import pipeline.dense  # noqa: F401  which registers the methods
from pipeline.clip.frozen import Resources
from pipeline.clip.settings import TEMPLATES
from pipeline.dense.method import DENSE_METHODS
from pipeline.engine.registry import register
from pipeline.engine.settings import setting
from pipeline.errors import ImageError, UserError
from pipeline.tags.bank import learn_prototypes, read_prototypes
from pipeline.tags.batched import BatchedScClip, batch_of
from pipeline.tags.patches import PatchEncoder, Patches
from pipeline.tags.prototypes import Prototypes, combine, scores_of_patches
from pipeline.tags.reidentification import propose, reidentify
from pipeline.tags.tagger import Scored, ScoredTagOptions, Tagger

ENCODERS = ("sclip", "itaclip", "sc_clip")


@dataclass
class PiaaOptions(ScoredTagOptions):
    """``tags=piaa``: PIAA (ICML 2026), with the constants of VOC.

    Attributes:
        min_score: 0, since the scores of an image sum to 1: ``alpha`` is the only threshold.
        alpha: α of each image's threshold. None is published; 0.2 is the best of
            ``experiment=alpha_piaa``.
        encoder: the dense method that gives the features of patches.
        templates: the set of templates; "piaa" is "a photo of a {}".
        with_backgrounds: whether the backgrounds of the data set are learned as further classes.
        crop: whether images are cut to the centre square of CLIP's native size, as published; else
            they have their own size, and nothing of them is left out.
        temperature: the factor of cosine similarities in the probabilities that fill the bank.
        bank_size: K, the patches of least entropy that are kept for each class.
        rescoring_temperature: T, the factor of logits in the probabilities by which patches of the
            bank are kept.
        patch_temperature: what the logits of patches are divided by in their softmax.
        local_factor: α of the softmax over the classes' best patches.
        global_factor: β of the softmax over the class token's cosine similarities.
        global_share: the share of the class token in a score.
        reidentify: whether CWR follows, by the probabilities of patches.
    """

    min_score: float = setting(
        0.0, at_least=0, at_most=1, changes="nothing", why="PIAA's scores sum to 1"
    )
    alpha: float = setting(0.2, at_least=0, at_most=1)
    encoder: str = setting("sclip", choices=ENCODERS)
    templates: str = setting("piaa", choices=TEMPLATES)
    with_backgrounds: bool = False
    crop: bool = False
    temperature: float = setting(60.0, above=0)
    bank_size: int = setting(512, at_least=1)
    rescoring_temperature: float = setting(100.0, above=0)
    patch_temperature: float = setting(500.0, above=0)
    local_factor: float = setting(200.0, above=0)
    global_factor: float = setting(80.0, above=0)
    global_share: float = setting(0.1, at_least=0, at_most=1)
    reidentify: bool = False

    def validate(self, prefix: str) -> None:
        """Refuses a least score."""
        if self.min_score > 0:
            raise UserError(
                f"{prefix}.min_score={self.min_score} would leave hardly a tag, since PIAA's scores"
                f" of an image sum to 1: give {prefix}.min_score=0, and choose by {prefix}.alpha"
            )


def build_patches(options: PiaaOptions, resources: Resources) -> tuple[PatchEncoder, torch.Tensor]:
    """Builds what gives features of patches, and the C×E embeddings that they are compared with."""
    clip, vocabulary = resources.clip, resources.vocabulary
    backgrounds = vocabulary.backgrounds if options.with_backgrounds else ()
    text = clip.embed(vocabulary.tag_names, backgrounds, options.templates)
    together = batch_of(options, resources.quirks)
    method = BatchedScClip() if together else DENSE_METHODS[options.encoder]()
    return PatchEncoder(clip.encoder, method, options.crop, clip.batches, together), text


@dataclass(eq=False)
class Piaa(Tagger):
    """Scores images by prototypes.

    Attributes:
        patches: gives the features of patches.
        text: C×E class embeddings; n classes, then backgrounds if they are learned.
        prototypes: what was learned.
        num_classes: n.
        options: the method's constants.
        open_border: quirk of CWR, see :func:`pipeline.clip.boxes.bounding_box`.
        cwr_stop: quirk of CWR, see :func:`pipeline.tags.reidentification.propose`.
    """

    patches: PatchEncoder
    text: torch.Tensor
    prototypes: Prototypes
    num_classes: int
    options: PiaaOptions
    open_border: bool
    cwr_stop: bool

    def stream(
        self, images: Iterable[tuple[Any, np.ndarray]], variants: Collection[str] = ()
    ) -> Iterator[tuple[Any, Scored | ImageError]]:
        """Scores images as they arrive; there are no variants."""
        for name, patches in self.patches.stream(images):
            if isinstance(patches, ImageError):
                yield name, patches
            else:
                yield name, Scored({"scores": self._of(patches)})

    @torch.no_grad()
    def _of(self, patches: Patches) -> np.ndarray:
        options = self.options
        logits = self.prototypes.logits(patches.features)
        probabilities = scores_of_patches(logits, options.patch_temperature)
        scores = combine(
            probabilities[None],
            (patches.class_token @ self.text.mT)[None],
            options.local_factor,
            options.global_factor,
            options.global_share,
        )[0, : self.num_classes]
        scores = scores.float().cpu()
        if options.reidentify:
            self._reidentify(patches.pixels, probabilities, scores)
        return scores.numpy()

    def _reidentify(
        self, pixels: torch.Tensor, probabilities: torch.Tensor, scores: torch.Tensor
    ) -> None:
        """Replaces the scores of proposed classes by their mean with that of a crop."""
        encoder, size = self.patches.encoder, self.patches.batches.crops
        cut = partial(propose, patch_size=encoder.patch_size, native_size=encoder.native_size)
        quirks = {"open_border": self.open_border, "cwr_stop": self.cwr_stop}
        found = cut(pixels, probabilities, self.num_classes, alpha=self.options.alpha, **quirks)
        for start in range(0, len(found), size):
            batch = found[start : start + size]
            for proposal, of_crop in zip(batch, reidentify(encoder, self.text, batch, size)):
                scores[proposal.class_index] = (scores[proposal.class_index] + of_crop) / 2


@register(
    "tags",
    "piaa",
    PiaaOptions,
    uses_clip=True,
    quirks=("empty_class", "piaa_batch", "open_border", "cwr_stop"),
    batch=batch_of,
    learns=partial(learn_prototypes, build_patches),
    reads=("classes", "tag_names", "backgrounds"),
    source="Wang et al., PIAA, ICML 2026, arXiv 2605.25821",
    section="Tags: PIAA",
)
def build_piaa(options: PiaaOptions, resources: Resources, learned: Path) -> Piaa:
    """Builds PIAA with the prototypes in a folder."""
    patches, text = build_patches(options, resources)
    prototypes = read_prototypes(learned, resources.device)
    quirks = {name: getattr(resources.quirks, name) for name in ("open_border", "cwr_stop")}
    return Piaa(patches, text, prototypes, resources.num_classes, options, **quirks)
