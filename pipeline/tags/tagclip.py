"""TagCLIP, the whole of it: patch-level classification, then DMAR, then CWR (paper, figure 2)."""

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
from pipeline.clip.shared_pass import Listener, Name, Seen, by_grid, look
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
"""The rows of the ablation: CLIP's own class token on the image squeezed to the native size and at
the image's size; the best patch with the last block's attention kept and replaced by the identity;
after DMAR; after CWR."""


@dataclass(frozen=True)
class TagClipSettings:
    """The method's constants, and how much of it is done at a time.

    Attributes:
        attention_blocks: first and last block whose attention DMAR averages, see
            :func:`pipeline.clip.blocks.block_window` (the published 9 to 11 of 12 are −3 to −1).
        votes: blocks that must have an attention above average for it to survive.
        alpha: α of CWR's θ.
        reidentify: whether CWR runs.
        squeeze: whether images are squeezed to the CLIP's native size, where TagCLIP takes them at
            their own.
        open_border: quirk, see :func:`pipeline.clip.boxes.bounding_box`.
        cwr_stop: quirk, see :func:`pipeline.tags.reidentification.propose`.
        batch_size: images that the backbone looks at together.
        crop_batch_size: crops that CWR classifies together.
        most_waiting: images that may wait for others of their size.
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
    most_waiting: int = 32


@dataclass
class _Pending(Generic[Name]):
    """An image whose crops are not all classified yet."""

    name: Name
    scores: dict[str, np.ndarray]
    proposals: list[Proposal]
    seen: Seen | None
    probabilities: list[float] = field(default_factory=list)

    @property
    def is_done(self) -> bool:
        return len(self.probabilities) == len(self.proposals)

    def finish(self, variants: Collection[str]) -> Scored:
        scores = self.scores["dmar"].copy()
        for proposal, probability in zip(self.proposals, self.probabilities):
            scores[proposal.class_index] = (scores[proposal.class_index] + probability) / 2
        found = {**self.scores, "scores": scores, "cwr": scores}
        return Scored({name: found[name] for name in ("scores", *variants)}, self.seen)


class TagClip:
    """Scores the classes of images with a frozen CLIP."""

    def __init__(
        self,
        encoder: ClipEncoder,
        text: torch.Tensor,
        class_count: int,
        settings: TagClipSettings,
    ):
        """Wires the method's parts.

        Args:
            encoder: the image tower.
            text: C×E class embeddings on the encoder's device; n classes, then backgrounds.
            class_count: n.
            settings: the method's constants.

        Raises:
            UserError: ``attention_blocks`` asks for blocks that the encoder does not have.
        """
        self.encoder = encoder
        self.text = text
        self.class_count = class_count
        self.settings = settings
        self.window = block_window(
            "tags.attention_blocks", settings.attention_blocks, encoder.depth
        )

    def __call__(
        self, images: list[np.ndarray], variants: Collection[str] = ()
    ) -> list[dict[str, np.ndarray]]:
        """Scores every class of every image.

        Args:
            images: H×W×3 uint8, RGB, of any sizes.
            variants: rows of the ablation to compute as well, of :data:`VARIANTS`.

        Returns:
            For each image: "scores", n float32 in [0, 1], and the same for each variant.
        """
        found = dict(self.stream(enumerate(images), variants))
        return [found[index].scores for index in range(len(images))]

    @torch.no_grad()
    def stream(
        self,
        images: Iterable[tuple[Name, np.ndarray]],
        variants: Collection[str] = (),
        listen: Callable[[], Listener] | None = None,
    ) -> Iterator[tuple[Name, Scored]]:
        """Scores images as they come, in batches of one size, and crops in batches of any images.

        Args:
            images: names, and H×W×3 uint8, RGB.
            variants: rows of the ablation to compute as well.
            listen: makes what listens to a batch's attentions for the maps, which makes the results
                hold what the backbone has :class:`~pipeline.clip.shared_pass.Seen`.

        Yields:
            Names and results, images of one size in the order in which they came.
        """
        settings = self.settings
        pending: deque[_Pending[Name]] = deque()
        crops: deque[tuple[_Pending[Name], Proposal]] = deque()
        for batch in by_grid(self.encoder, images, settings.batch_size, settings.most_waiting):
            for image in self._look(batch, variants, listen):
                pending.append(image)
                crops.extend((image, proposal) for proposal in image.proposals)
            # Images without a proposal of their own may pile up behind one whose crops wait for
            # others; what they hold is large, and a kill would cost them all.
            most_pending = max(settings.batch_size, settings.crop_batch_size)
            while crops and (len(crops) >= settings.crop_batch_size or len(pending) > most_pending):
                self._look_again(crops)
            while pending and pending[0].is_done:
                image = pending.popleft()
                yield image.name, image.finish(variants)
        while crops:
            self._look_again(crops)
        for image in pending:
            yield image.name, image.finish(variants)

    def _look(
        self,
        batch: list[tuple[Name, np.ndarray]],
        variants: Collection[str],
        listen: Callable[[], Listener] | None,
    ) -> Iterator[_Pending[Name]]:
        """Runs everything up to DMAR on images of one size, and cuts the crops for CWR."""
        encoder, settings, count = self.encoder, self.settings, self.class_count
        names, images = zip(*batch)
        attention = VotedAttention(self.window, settings.votes)
        listeners = [attention, *([listen()] if listen else [])]
        pixels, before = look(
            encoder, images, settings.batch_size, *listeners, squeeze=settings.squeeze
        )
        grid = tuple(side // encoder.patch_size for side in pixels.shape[-2:])

        coarse = self._classify(encoder.value_features(before))
        refined = refine(
            attention.result(), coarse, grid, len(images), open_border=settings.open_border
        )
        found = {
            "coarse": strongest_patch(coarse, count),
            "dmar": strongest_patch(refined, count),
        }
        if "clip_native" in variants or "coarse_last" in variants:
            attended = self._classify(encoder.attended_features(before))
            found["clip_native"] = attended[:, 0, :count]
            found["coarse_last"] = strongest_patch(attended[:, 1:], count)
        found = {variant: scores.float().cpu().numpy() for variant, scores in found.items()}
        heard = listeners[1].result() if listen else None
        for row, (name, image) in enumerate(zip(names, images)):
            scores = {variant: rows[row] for variant, rows in found.items()}
            if "clip" in variants:
                scores["clip"] = global_scores(encoder, self.text, count, [image])[0]
            proposals = self._propose(pixels[row], refined[row]) if settings.reidentify else []
            seen = None if heard is None else Seen.of(grid, before, heard, row)
            yield _Pending(name, scores, proposals, seen)

    def _propose(self, pixels: torch.Tensor, scores: torch.Tensor) -> list[Proposal]:
        return propose(
            pixels,
            scores,
            self.class_count,
            alpha=self.settings.alpha,
            patch_size=self.encoder.patch_size,
            native_size=self.encoder.native_size,
            open_border=self.settings.open_border,
            cwr_stop=self.settings.cwr_stop,
        )

    def _look_again(self, crops: deque[tuple[_Pending[Name], Proposal]]) -> None:
        """Classifies the first crops of a queue, as many as a batch holds."""
        size = self.settings.crop_batch_size
        taken = [crops.popleft() for _ in range(min(size, len(crops)))]
        again = reidentify(self.encoder, self.text, [crop for _, crop in taken], size)
        for (image, _), probability in zip(taken, again.tolist()):
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
        most_waiting=clip.batches.waiting,
        **vars(resources.quirks),
    )
    text = clip.embed(vocabulary.tag_names, vocabulary.backgrounds, options.templates)
    return TagClip(clip.encoder, text, resources.num_classes, settings)
