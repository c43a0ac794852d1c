"""The whole of TagCLIP: patch-level classification, DMAR and CWR (TagCLIP, figure 2)."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Generic

import numpy as np
import torch

from pipeline.clip.blocks import block_window
from pipeline.clip.encoder import ClipEncoder
from pipeline.clip.frozen import Resources
from pipeline.clip.shared_pass import (
    AttentionRecorder,
    Name,
    SharedPass,
    batch_by_grid,
    run_shared_pass,
)
from pipeline.clip.text import TEMPLATES
from pipeline.engine.registry import register
from pipeline.engine.settings import setting
from pipeline.tags.baseline import global_scores
from pipeline.tags.patches import class_probabilities, strongest_patch
from pipeline.tags.refinement import VotedAttention, refine
from pipeline.tags.reidentification import Proposal, propose, reidentify
from pipeline.tags.scored import Scored
from pipeline.tags.tagger import ScoredTagOptions

VARIANTS = ("clip", "clip_native", "coarse_last", "coarse", "dmar", "cwr")
"""The rows of the ablation: CLIP's class token on the image squeezed to the native size, and at the
image's own size; the best patch with block L's attention, and with the identity instead; after
DMAR; after CWR."""


@dataclass(frozen=True)
class TagClipSettings:
    """The method's constants and the sizes of its batches.

    Attributes:
        attention_blocks: first and last block whose attention DMAR averages, see
            :func:`pipeline.clip.blocks.block_window` (the published 9 to 11 of 12 are −3 to −1).
        votes: blocks in which an attention must be above average to be kept.
        alpha: α of CWR's θ.
        reidentify: whether CWR runs.
        squeeze: whether images are squeezed to CLIP's native size; TagCLIP keeps their own.
        open_border: quirk, see :func:`pipeline.clip.boxes.bounding_box`.
        cwr_stop: quirk, see :func:`pipeline.tags.reidentification.propose`.
        batch_size: images in a batch of the shared pass.
        crop_batch_size: crops in a batch of CWR.
        max_waiting: images that may wait for others of their patch grid.
    """

    attention_blocks: Sequence[int] = (-3, -1)
    votes: int = 4
    alpha: float = 0.5
    reidentify: bool = True
    squeeze: bool = False
    open_border: bool = True
    cwr_stop: bool = True
    batch_size: int = 1
    crop_batch_size: int = 4
    max_waiting: int = 32


@dataclass
class _AwaitingCwr(Generic[Name]):
    """An image after DMAR, with the probabilities of its crops that CWR has classified so far."""

    name: Name
    scores: dict[str, np.ndarray]
    proposals: list[Proposal]
    shared_pass: SharedPass | None
    probabilities: list[float] = field(default_factory=list)

    @property
    def is_complete(self) -> bool:
        return len(self.probabilities) == len(self.proposals)

    def finish(self, variants: Collection[str]) -> Scored:
        scores = self.scores["dmar"].copy()
        for proposal, probability in zip(self.proposals, self.probabilities):
            scores[proposal.class_index] = (scores[proposal.class_index] + probability) / 2
        rows = {**self.scores, "scores": scores, "cwr": scores}
        return Scored({name: rows[name] for name in ("scores", *variants)}, self.shared_pass)


class TagClip:
    """Scores the classes of images with a frozen CLIP."""

    def __init__(
        self,
        encoder: ClipEncoder,
        text: torch.Tensor,
        num_classes: int,
        settings: TagClipSettings,
    ):
        """Stores the parts of the method.

        Args:
            encoder: the image tower.
            text: C×E class embeddings on the encoder's device; n classes, then backgrounds.
            num_classes: n.
            settings: the method's constants.

        Raises:
            UserError: the encoder does not have the ``attention_blocks``.
        """
        self.encoder = encoder
        self.text = text
        self.num_classes = num_classes
        self.settings = settings
        self.window = block_window(
            "tags.attention_blocks", settings.attention_blocks, encoder.depth
        )

    def __call__(
        self, images: list[np.ndarray], variants: Collection[str] = ()
    ) -> list[dict[str, np.ndarray]]:
        """Scores the classes of images.

        Args:
            images: H×W×3 uint8, RGB, of any sizes.
            variants: rows of the ablation to compute as well, of :data:`VARIANTS`.

        Returns:
            For each image: "scores", n float32 in [0, 1], and the same for each variant.
        """
        results = dict(self.stream(enumerate(images), variants))
        return [results[index].scores for index in range(len(images))]

    @torch.no_grad()
    def stream(
        self,
        images: Iterable[tuple[Name, np.ndarray]],
        variants: Collection[str] = (),
        listen: Callable[[], AttentionRecorder] | None = None,
    ) -> Iterator[tuple[Name, Scored]]:
        """Scores images as they arrive, in batches of one patch grid.

        The crops of CWR form batches of their own, across images.

        Args:
            images: names, and H×W×3 uint8, RGB.
            variants: rows of the ablation to compute as well.
            listen: builds the attention recorder of a batch; if given, the results hold the shared
                pass for the CAMs.

        Yields:
            Names and results; images of one patch grid keep their order.
        """
        settings = self.settings
        pending: deque[_AwaitingCwr[Name]] = deque()
        crops: deque[tuple[_AwaitingCwr[Name], Proposal]] = deque()
        for batch in batch_by_grid(self.encoder, images, settings.batch_size, settings.max_waiting):
            for image in self._score_patches(batch, variants, listen):
                pending.append(image)
                crops.extend((image, proposal) for proposal in image.proposals)
            # Images without a proposal could pile up behind one whose crops wait for a full batch.
            # Their tensors are large, and a killed run would lose them all.
            max_pending = max(settings.batch_size, settings.crop_batch_size)
            while crops and (len(crops) >= settings.crop_batch_size or len(pending) > max_pending):
                self._classify_crops(crops)
            while pending and pending[0].is_complete:
                image = pending.popleft()
                yield image.name, image.finish(variants)
        while crops:
            self._classify_crops(crops)
        for image in pending:
            yield image.name, image.finish(variants)

    def _score_patches(
        self,
        batch: list[tuple[Name, np.ndarray]],
        variants: Collection[str],
        listen: Callable[[], AttentionRecorder] | None,
    ) -> Iterator[_AwaitingCwr[Name]]:
        """Runs all steps up to DMAR on images of one patch grid, and cuts the crops for CWR."""
        encoder, settings, count = self.encoder, self.settings, self.num_classes
        names, images = zip(*batch)
        attention = VotedAttention(self.window, settings.votes)
        recorders = [listen()] if listen else []
        pixels, inputs = run_shared_pass(
            encoder, images, settings.batch_size, attention, *recorders, squeeze=settings.squeeze
        )
        grid = tuple(side // encoder.patch_size for side in pixels.shape[-2:])

        coarse = self._classify(encoder.value_features(inputs))
        refined = refine(
            attention.result(), coarse, grid, len(images), open_border=settings.open_border
        )
        by_variant = {
            "coarse": strongest_patch(coarse, count),
            "dmar": strongest_patch(refined, count),
        }
        if "clip_native" in variants or "coarse_last" in variants:
            attended = self._classify(encoder.attended_features(inputs))
            by_variant["clip_native"] = attended[:, 0, :count]
            by_variant["coarse_last"] = strongest_patch(attended[:, 1:], count)
        by_variant = {name: scores.float().cpu().numpy() for name, scores in by_variant.items()}
        recorded = recorders[0].result() if recorders else None
        for row, (name, image) in enumerate(zip(names, images)):
            scores = {variant: rows[row] for variant, rows in by_variant.items()}
            if "clip" in variants:
                scores["clip"] = global_scores(encoder, self.text, count, [image])[0]
            proposals = self.propose(pixels[row], refined[row]) if settings.reidentify else []
            shared = None
            if recorded is not None:
                shared = SharedPass.from_batch(grid, inputs, recorded, row)
            yield _AwaitingCwr(name, scores, proposals, shared)

    def propose(self, pixels: torch.Tensor, scores: torch.Tensor) -> list[Proposal]:
        """Cuts the crops of an image for CWR; see :func:`pipeline.tags.reidentification.propose`.

        Args:
            pixels: 3×(P·h)×(P·w) float32.
            scores: S² of the image, N×C.
        """
        return propose(
            pixels,
            scores,
            self.num_classes,
            alpha=self.settings.alpha,
            patch_size=self.encoder.patch_size,
            native_size=self.encoder.native_size,
            open_border=self.settings.open_border,
            cwr_stop=self.settings.cwr_stop,
        )

    def _classify_crops(self, crops: deque[tuple[_AwaitingCwr[Name], Proposal]]) -> None:
        """Classifies the first batch of crops in a queue."""
        size = self.settings.crop_batch_size
        batch = [crops.popleft() for _ in range(min(size, len(crops)))]
        probabilities = reidentify(self.encoder, self.text, [crop for _, crop in batch], size)
        for (image, _), probability in zip(batch, probabilities.tolist()):
            image.probabilities.append(probability)

    def _classify(self, features: torch.Tensor) -> torch.Tensor:
        return class_probabilities(features, self.text, self.encoder.temperature)


@dataclass
class TagClipOptions(ScoredTagOptions):
    """``tags=tagclip``: TagCLIP (AAAI 2024).

    Attributes:
        templates: the set of templates; "tagclip" has the 80 of ImageNet and five of scenes.
        attention_blocks: first and last block that DMAR averages. A number above 0 counts from 1;
            0 and below are offsets from the last block, which is 0.
        votes: blocks that must have an attention above average.
        reidentify: whether CWR runs.
        squeeze: whether images are squeezed to the native square; TagCLIP keeps their own size.
        variants: rows of the ablation to store as well, of :data:`VARIANTS`.
    """

    templates: str = setting("tagclip", choices=TEMPLATES)
    attention_blocks: list[int] = setting([-3, -1])
    votes: int = setting(4, at_least=0)
    reidentify: bool = True
    squeeze: bool = False
    variants: list[str] = setting(
        ["coarse", "dmar", "cwr"],
        choices=VARIANTS,
        changes="nothing",
        why="further rows of scores, beside those that count",
    )


@register(
    "tags",
    "tagclip",
    TagClipOptions,
    uses_clip=True,
    quirks=("open_border", "cwr_stop"),
    variants=VARIANTS,
    shares_pass=True,
)
def build_tagclip(options: TagClipOptions, resources: Resources) -> TagClip:
    """Builds TagCLIP."""
    clip, vocabulary = resources.clip, resources.vocabulary
    settings = TagClipSettings(
        attention_blocks=options.attention_blocks,
        votes=options.votes,
        alpha=options.alpha,
        reidentify=options.reidentify,
        squeeze=options.squeeze,
        batch_size=clip.batches.images,
        crop_batch_size=clip.batches.crops,
        max_waiting=clip.batches.waiting,
        **vars(resources.quirks),
    )
    text = clip.embed(vocabulary.tag_names, vocabulary.backgrounds, options.templates)
    return TagClip(clip.encoder, text, resources.num_classes, settings)
