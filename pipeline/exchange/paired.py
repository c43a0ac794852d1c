"""The results of a stage in two chains, A and B: figures with intervals, and where they differ."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.cams.cams import read_cams
from pipeline.engine.kinds import CAMS, TAGS
from pipeline.engine.progress import track
from pipeline.engine.records import PHOTOGRAPH
from pipeline.engine.sample import Sample
from pipeline.errors import ImageError, UserError
from pipeline.evaluation import bootstrap
from pipeline.evaluation.metrics import Confusion, to_indicator
from pipeline.exchange.artefacts import Artefact
from pipeline.masks.labels import label_pixels, read_pseudo_mask
from pipeline.report.page.images import confuse, for_each_readable
from pipeline.report.tables.markdown import percent
from pipeline.report.tables.runs import METRIC_LABELS
from pipeline.tags.scores import decode_scores

_SHOWN = 8  # images that gained most, and as many that lost most


@dataclass(frozen=True)
class ImagePair:
    """The results of an image in both runs."""

    sample: Sample
    changed: float  # the share of pixels whose labels differ; of tags, that of the classes
    tally: np.ndarray | None  # 2×3×k, see pipeline.evaluation.bootstrap; none without ground truth
    tags: Sequence[Sequence[int]] = ()
    scores: np.ndarray | None = None  # 2×n float32, of tags


class Pair:
    """The results of a stage on a split in both chains, image by image.

    Attributes:
        a: those of A.
        both: those of A and B.
        others: how many images cannot be compared: one has a result of another photograph, or none.
        images: what was compared.
        known: those of the images that have ground truth.
        tallies: theirs, N×2×3×k.
        of_tags: whether tags were compared, not labels.
    """

    def __init__(self, a: Artefact, b: Artefact, measurement: Sequence[Mapping[str, Any]]):
        """Prepares; for the settings of a measurement see :mod:`pipeline.stages.config`.

        Raises a UserError if the classes differ, or there is no image of both.
        """
        self.a, self.both, self.of_tags = a, (a, b), a.kind is TAGS
        self._betas = [settings["background_betas"] for settings in measurement]
        self._absent_as_zero = measurement[0]["absent_as_zero"]
        what = f"{a.kind.stage} of split {a.split}"
        if a.classes != b.classes:
            raise UserError(
                f"{what} have different classes in the two runs: run both with one list"
            )
        both = ({i: e["inputs"].get(PHOTOGRAPH) for i, e in x.entries.items()} for x in self.both)
        ours, theirs = both
        self._ids = {i for i, photograph in ours.items() if theirs.get(i) == photograph}
        self.others = len({**ours, **theirs}) - len(self._ids)
        if not self._ids:
            raise UserError(f"{what}: the two runs share no image: run both on the same images")

    def compare(self, samples: Sequence[Sample], workers: int, problems: dict[str, str]) -> None:
        """Measures images; ``problems`` receives id → reason for those that cannot be read."""
        chosen = [sample for sample in samples if sample.id in self._ids]
        self.others += len(self._ids) - len(chosen)  # those that the data set no longer has
        work = self._compare_tags if self.of_tags else self._compare_labels
        if self.a.kind is CAMS:
            self._betas = [[self._best_beta(side, chosen, workers)] for side in (0, 1)]
        with track(f"compare {self.a.kind.stage} {self.a.split}", len(chosen)) as advance:
            self.images = [*for_each_readable(chosen, work, workers, problems, advance)]
        self.known = [image for image in self.images if image.tally is not None]
        self.tallies = np.array([image.tally for image in self.known])

    def _best_beta(self, side: int, samples: Sequence[Sample], workers: int) -> float | None:
        """Returns β of the background; of several, ground truth chooses, as in evaluation."""
        betas, scores = self._betas[side], []
        for beta in betas if len(betas) > 1 else ():
            confusion = Confusion(len(self.a.names))

            def work(sample: Sample, beta: float | None = beta) -> np.ndarray:
                self._refuse_changed(sample)
                labels = self._cam_labels(side, sample, beta)
                truth = sample.mask.read() if sample.mask is not None else None
                return confuse(truth, labels, len(self.a.names)).matrix

            for matrix in for_each_readable(samples, work, workers, {}):
                confusion.matrix += matrix
            scores.append(confusion.miou())
        return betas[int(np.nanargmax(scores))] if any(np.isfinite(scores)) else betas[0]

    def _cam_labels(self, side: int, sample: Sample, beta: float | None) -> np.ndarray:
        cams = read_cams(self.both[side].path / f"{sample.id}.npz")
        return label_pixels(cams, cams.size, beta)[0]

    def labels(self, sample: Sample) -> list[np.ndarray]:
        """Reads the labels of an image in both runs as they are measured, H×W uint8 each."""
        if self.a.kind.is_labels:
            return [read_pseudo_mask(artefact.path, sample.id)[1] for artefact in self.both]
        return [self._cam_labels(side, sample, self._betas[side][0]) for side in (0, 1)]

    def _refuse_changed(self, sample: Sample) -> None:
        for artefact in self.both:
            artefact.refuse_changed(sample.id, sample.image)

    def _compare_labels(self, sample: Sample) -> ImagePair:
        self._refuse_changed(sample)
        both, tally = self.labels(sample), None
        if both[0].shape != both[1].shape:
            raise ImageError("its results have different sizes: run both with one compat.exif")
        if sample.mask is not None:
            truth, number = sample.mask.read(), len(self.a.names)
            counts = [confuse(truth, labels, number).matrix for labels in both]
            tally = np.array([[n.diagonal(), n.sum(1), n.sum(0)] for n in counts])
            tally = tally if tally[:, 1].any(1).all() else None  # all of it may be ignored
        return ImagePair(sample, float((both[0] != both[1]).mean()), tally)

    def _compare_tags(self, sample: Sample) -> ImagePair:
        self._refuse_changed(sample)
        both, tally = [artefact.entries[sample.id]["tags"] for artefact in self.both], None
        a, b = to_indicator(both, len(self.a.classes))
        if sample.has_ground_truth:
            [truth] = to_indicator([sample.ground_truth_labels], len(a))
            tally = np.array([[truth & tags, truth, tags] for tags in (a, b)], int)
        scores = np.stack([decode_scores(x.entries[sample.id]["scores"]) for x in self.both])
        return ImagePair(sample, float((a != b).mean()), tally, both, scores)

    def rows(self) -> Iterator[list[str]]:
        """Yields a row for each figure: its name, A, B, the difference, images and split."""
        name, about = self.a.kind.name, (f"{len(self.known or self.images):,}", self.a.split)
        if not self.known:
            share = percent(float(np.mean([image.changed for image in self.images] or 0)))
            what = "classes" if self.of_tags else "pixels"
            yield [f"{name}: {what} that differ", "", "", share, *about]
            return
        found = self._figures(np.ones((1, len(self.known)), int))
        intervals = bootstrap.difference_intervals(self._figures, len(self.known))
        for metric, ((a, b),) in found.items():
            change = f"{points(b - a)} [{', '.join(map(points, intervals[metric]))}]"
            yield [f"{name}: {METRIC_LABELS[metric]}", percent(a), percent(b), change, *about]

    def _figures(self, weights: np.ndarray) -> dict[str, np.ndarray]:
        """Returns the figures of A and B, R×2 each, from how often each image counts, R×N."""
        flat = self.tallies.reshape(len(self.tallies), -1).astype(np.float64)
        sums = (weights @ flat).reshape(len(weights), *self.tallies.shape[1:])
        found = bootstrap.figures(sums, self.of_tags)
        if self.of_tags:
            scores = np.stack([image.scores for image in self.known], 1)
            positive, zero = self.tallies[:, 0, 1] > 0, self._absent_as_zero
            # Decisions rank nothing.
            if positive.any() and not any(np.isin(each, (0, 1)).all() for each in scores):
                map_ = bootstrap.mean_average_precisions(scores, positive, weights, zero)
                return {"map": map_, **found}
        return found

    def ranked(self) -> dict[str, dict[str, list[str]]]:
        """Returns title → id → figures, of the images that gained and lost most, or differ most."""
        if not self.known:
            most = sorted(self.images, key=lambda image: -image.changed)[: 2 * _SHOWN]
            return {"Differ most": {i.sample.id: [percent(i.changed)] for i in most if i.changed}}
        main, *_ = bootstrap.figures(self.tallies, self.of_tags).values()
        order = np.argsort(main[:, 0] - main[:, 1], kind="stable").tolist()
        rows = [(self.known[k].sample.id, *main[k].tolist()) for k in order]
        gained, lost = [r for r in rows if r[2] > r[1]], [r for r in rows[::-1] if r[2] < r[1]]
        return {
            title: {i: [percent(a), percent(b), points(b - a)] for i, a, b in chosen[:_SHOWN]}
            for title, chosen in {"Gained most": gained, "Lost most": lost}.items()
        }


def points(difference: float) -> str:
    """Returns a difference of shares in points, with its sign and one decimal."""
    rounded = round(100 * difference, 1)
    return f"{rounded:+.1f}".replace("-", "−") if rounded else "0.0"
