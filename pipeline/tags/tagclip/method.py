"""TagCLIP: patch-level classification, DMAR and CWR (TagCLIP, figure 2)."""

from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from pipeline.clip.device import Batches, to_host
from pipeline.clip.dimensions import block_window
from pipeline.clip.encoder import ClipEncoder
from pipeline.clip.shared_pass import CamHook, OwnValues, SharedPass, batch_by_grid, prepare_batch
from pipeline.tags.baseline.method import global_scores
from pipeline.tags.reidentification import Cwr, Proposal
from pipeline.tags.tagclip import TagClipOptions
from pipeline.tags.tagclip.refinement import VotedAttention, refine
from pipeline.tags.tagger import Scored, Tagger


@dataclass
class _AwaitingCwr:
    """An image after DMAR, with the probabilities of its crops that CWR has classified so far."""

    name: Any
    scores: dict[str, np.ndarray]
    proposals: list[Proposal]
    shared_pass: SharedPass | None
    probabilities: list[float] = field(default_factory=list)

    def finish(self, variants: Collection[str]) -> Scored:
        scores = self.scores["dmar"].copy()
        for proposal, probability in zip(self.proposals, self.probabilities):
            scores[proposal.class_index] = (scores[proposal.class_index] + probability) / 2
        rows = {**self.scores, "scores": scores, "cwr": scores}
        return Scored({name: rows[name] for name in ("scores", *variants)}, self.shared_pass)


@dataclass(eq=False)
class TagClip(Tagger):
    """Scores the classes of images with a frozen CLIP.

    Attributes:
        encoder: the image tower; it must have the ``attention_blocks`` of the options.
        text: C×E class embeddings on the encoder's device; n classes, then backgrounds.
        quirks: ``open_border`` and ``cwr_stop``, see :class:`pipeline.tags.reidentification.Cwr`.
    """

    encoder: ClipEncoder
    text: torch.Tensor
    num_classes: int
    options: TagClipOptions
    batches: Batches
    quirks: SimpleNamespace

    def __post_init__(self):
        depth, options = self.encoder.depth, self.options
        self.window = block_window("tags.attention_blocks", options.attention_blocks, depth)
        self.cwr = Cwr(self.encoder, self.text, self.num_classes, options.alpha, self.quirks)

    @torch.no_grad()
    def stream(
        self,
        images: Iterable[tuple[Any, np.ndarray]],
        variants: Collection[str] = (),
        cam_hooks: Callable[[], Sequence[CamHook]] | None = None,
    ) -> Iterator[tuple[Any, Scored]]:
        """Scores images as they arrive, in batches of one patch grid, whose order is kept.

        The crops of CWR form batches of their own, across images. See :meth:`Tagger.stream`.
        """
        batches = self.batches
        pending: deque[_AwaitingCwr] = deque()
        crops: deque[tuple[_AwaitingCwr, Proposal]] = deque()
        for batch in batch_by_grid(self.encoder, images, batches.images, batches.waiting):
            for image in self._score_patches(batch, variants, cam_hooks):
                pending.append(image)
                crops.extend((image, proposal) for proposal in image.proposals)
            # Images without a proposal could pile up behind one whose crops wait for a full batch.
            # Their tensors are large, and a killed run would lose them all.
            max_pending = max(batches.images, batches.crops)
            while crops and (len(crops) >= batches.crops or len(pending) > max_pending):
                self._classify_crops(crops)
            while pending and len(pending[0].probabilities) == len(pending[0].proposals):
                image = pending.popleft()
                yield image.name, image.finish(variants)
        while crops:
            self._classify_crops(crops)
        for image in pending:
            yield image.name, image.finish(variants)

    def _score_patches(
        self,
        batch: list[tuple[Any, np.ndarray]],
        variants: Collection[str],
        cam_hooks: Callable[[], Sequence[CamHook]] | None,
    ) -> Iterator[_AwaitingCwr]:
        """Runs all steps up to DMAR on images of one patch grid, and cuts the crops for CWR."""
        encoder, text, options = self.encoder, self.text, self.options
        names, images = zip(*batch)
        voted = VotedAttention(self.window, options.votes)
        hooks = cam_hooks() if cam_hooks else ()
        pixels = prepare_batch(encoder, images, self.batches.images, options.squeeze)
        own = OwnValues(encoder)
        batch_pass = SharedPass.over(encoder, pixels, voted, own, cam_hooks=hooks)
        attention, features = batch_pass.for_tags

        def best_patch(scores: torch.Tensor) -> torch.Tensor:
            return scores[..., : self.num_classes].amax(-2)

        coarse = encoder.classify(features, encoder.text_for_patches(text))
        given = attention, coarse, batch_pass.grid, len(images)
        refined = refine(*given, open_border=self.quirks.open_border)
        by_variant = {"coarse": best_patch(coarse), "dmar": best_patch(refined)}
        if "clip_native" in variants or "coarse_last" in variants:
            whole, attended = encoder.classify_attended(batch_pass.last_block_input, text)
            by_variant["clip_native"] = whole[:, : self.num_classes]
            by_variant["coarse_last"] = best_patch(attended)
        refined, *found = to_host(refined, *by_variant.values())
        by_variant = dict(zip(by_variant, found))
        for row, (name, image) in enumerate(zip(names, images)):
            scores = {variant: rows[row] for variant, rows in by_variant.items()}
            if "clip" in variants:
                scores["clip"] = global_scores(encoder, text, self.num_classes, [image])[0]
            proposals = (
                self.cwr.propose(batch_pass.pixels[row], refined[row]) if options.reidentify else []
            )
            shared = batch_pass.copy_image(row) if cam_hooks else None
            yield _AwaitingCwr(name, scores, proposals, shared)

    def _classify_crops(self, crops: deque[tuple[_AwaitingCwr, Proposal]]) -> None:
        """Classifies the first batch of crops in a queue."""
        size = self.batches.crops
        batch = [crops.popleft() for _ in range(min(size, len(crops)))]
        probabilities = self.cwr.classify([crop for _, crop in batch], size)
        for (image, _), probability in zip(batch, probabilities.tolist()):
            image.probabilities.append(probability)
