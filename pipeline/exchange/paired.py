"""Two runs on the same images, A and B: figures with intervals, and where their results differ."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.cams.cams import read_cams
from pipeline.engine.folder import LATEST, key_of
from pipeline.engine.kinds import TAGS, kinds, measured_kinds
from pipeline.engine.progress import track
from pipeline.engine.result_folder import read_manifest
from pipeline.engine.sample import Sample
from pipeline.errors import ImageError, UserError, shown
from pipeline.evaluation import bootstrap
from pipeline.evaluation.metrics import to_indicator
from pipeline.evaluation.record import MetricsFile
from pipeline.exchange.artefacts import Artefact, read_artefact
from pipeline.files.fingerprints import fingerprint_image, first_key
from pipeline.masks.labels import label_pixels, read_pseudo_mask
from pipeline.report.markdown import percent
from pipeline.report.measured import confuse, for_each_readable
from pipeline.report.runs import METRIC_LABELS, METRICS

_SHOWN = 8  # images that gained most, and as many that lost most
_REMEDY = "give an output directory, or a stage's folder such as outputs/demo/val/masks/latest"


def find_results(path: Path) -> dict[tuple[str, str], Artefact]:
    """Returns split and stage → the finished results of a stage's folder or an output directory.

    Raises:
        UserError: there are none.
    """
    folders = [path]
    if not read_manifest(path):
        links = (path.glob(f"*/{stage}/{LATEST}") for stage in measured_kinds())
        folders = [folder for found in links for folder in sorted(found)]
    finished = [folder for folder in folders if read_manifest(folder).get("complete")]
    if not finished:
        raise UserError(
            f"{path} contains no finished results: run a stage to its end, or {_REMEDY}"
        )
    return {(a.split, a.kind.stage): a for a in map(read_artefact, finished)}


def find_before_and_after(root: Path) -> Iterator[tuple[Artefact, Artefact]]:
    """Yields the latest results of each split of an output directory, and those before them.

    They are those of the last stage that has both, and those that these were made from.
    """
    for split in sorted({place.parent.parent for place in root.glob(f"*/*/{LATEST}")}):
        for stage in reversed(measured_kinds()):
            after = (split / stage / LATEST).resolve()
            if read_manifest(after).get("complete") and (before := _newest_before(after)):
                ours, theirs = _made_from(before), _made_from(after)
                for name in filter(ours.keys().__contains__, measured_kinds()):
                    if name in theirs and theirs[name] != ours[name]:
                        yield read_artefact(ours[name]), read_artefact(theirs[name])
                break


def _newest_before(after: Path) -> Path | None:
    """Returns the folder with results of the same round that was completed last before another."""
    found = {
        path.parent: read_manifest(path.parent) for path in after.parent.glob("*/manifest.json")
    }
    is_later = "segmenter" in read_manifest(after)["configuration"]
    others = [
        path
        for path, manifest in found.items()
        if path.name not in (LATEST, after.name)
        and manifest.get("complete")
        and "accompanies" not in manifest
        and ("segmenter" in manifest.get("configuration", {})) == is_later
    ]
    return max(others, key=lambda p: (found[p].get("finished", ""), p.name), default=None)


def _made_from(folder: Path) -> dict[str, Path]:
    """Returns the folders of a chain of stages, by their names, as far as this split has them.

    The settings of a stage hold those of the stages before it, of which their keys are made.
    """
    found, settings = {folder.parent.name: folder}, read_manifest(folder).get("configuration", {})
    while before := [k.stage for k in reversed(kinds()) if isinstance(settings.get(k.stage), dict)]:
        settings = settings[before[0]]
        path = folder.parent.parent / before[0] / key_of(settings)
        if read_manifest(path).get("complete"):
            found.setdefault(before[0], path)
    return found


def pair_up(first: Path, second: Path | None = None) -> list[tuple[Artefact, Artefact]]:
    """Returns the results of each stage that two runs have on one split.

    Without a second one, they are the latest results of the first and those before them.

    Raises:
        UserError: there are none, or of other images, classes or ground truth.
    """
    if second is None:
        if not (pairs := [*find_before_and_after(first)]):
            raise UserError(
                f"{first} contains no results older than the latest: give an output directory with"
                " two finished runs, or two runs"
            )
    else:
        a, b = find_results(first), find_results(second)
        pairs = [(a[place], b[place]) for place in a if place in b]
    if not pairs:
        raise UserError(f"{first} and {second} share no stage of one split: {_REMEDY}")
    for pair in pairs:
        _refuse_others(*pair)
    return pairs


def _refuse_others(a: Artefact, b: Artefact) -> None:
    what = f"{a.kind.stage} of split {a.split}"
    if a.path.resolve() == b.path.resolve():
        raise UserError(f"both runs hold the same {what}, {a.path.resolve()}: give another")
    if a.classes != b.classes:
        raise UserError(f"{what} have different classes in the two runs: run both with one list")
    # An input begins with the fingerprint of the photograph.
    ours, theirs = ({i: first_key(e["input"]) for i, e in x.entries.items()} for x in (a, b))
    if others := [i for i in {**ours, **theirs} if ours.get(i) != theirs.get(i)]:
        raise UserError(
            f"{what}: {len(others)} images, such as {shown(min(others))}, are in one run alone or"
            " have another photograph there: run both on the same images"
        )
    if len({figures["ground_truth"] for figures in map(_measured, (a, b)) if figures}) > 1:
        raise UserError(f"{what} were measured by other ground truth: run stage=evaluate for both")


def _measured(artefact: Artefact) -> dict[str, Any]:
    """Returns the figures in ``metrics.json``, or nothing."""
    key, metrics = artefact.manifest.get("key", ""), MetricsFile(artefact.root / METRICS)
    return metrics.find(artefact.kind.stage, artefact.split, key) or {}


@dataclass(frozen=True)
class ImagePair:
    """The results of an image in both runs."""

    sample: Sample
    changed: float  # the share of pixels whose labels differ; of tags, that of the classes
    tally: np.ndarray | None  # 2×3×k, see pipeline.evaluation.bootstrap; none without ground truth
    tags: Sequence[Sequence[int]] = ()


class Pair:
    """The results of a stage on a split in both runs, image by image.

    Attributes:
        a: those of A.
        both: those of A and B.
        images: what was compared.
        known: those of the images that have ground truth.
        tallies: theirs, N×2×3×k.
        of_tags: whether tags were compared, not labels.
    """

    def __init__(self, a: Artefact, b: Artefact, betas: Sequence[float | None] = (None, None)):
        """Prepares; ``betas`` are those of CAMs' background unless ground truth chose them."""
        self.a, self.both, self.of_tags = a, (a, b), a.kind is TAGS
        self._figures = [_measured(artefact) for artefact in (a, b)]
        self._betas = [f.get("background_beta", beta) for f, beta in zip(self._figures, betas)]

    def compare(self, samples: Sequence[Sample], workers: int, problems: dict[str, str]) -> None:
        """Measures images; ``problems`` receives id → reason for those that cannot be read."""
        work = self._compare_tags if self.of_tags else self._compare_labels
        with track(f"compare {self.a.kind.stage} {self.a.split}", len(samples)) as advance:
            self.images = [*for_each_readable(samples, work, workers, problems, advance)]
        self.known = [image for image in self.images if image.tally is not None]
        self.tallies = np.array([image.tally for image in self.known])

    def labels(self, sample: Sample) -> list[np.ndarray]:
        """Reads the labels of an image in both runs as they are measured, H×W uint8 each."""
        if self.a.kind.is_labels:
            return [read_pseudo_mask(artefact.path, sample.id)[1] for artefact in self.both]
        cams = [read_cams(artefact.path / f"{sample.id}.npz") for artefact in self.both]
        return [label_pixels(c, c.size, beta, lambda s: s)[0] for c, beta in zip(cams, self._betas)]

    def _refuse_another(self, sample: Sample) -> None:
        if fingerprint_image(sample.image) != first_key(self.a.entries[sample.id]["input"]):
            raise ImageError("has changed since its results were made: run the stages again")

    def _compare_labels(self, sample: Sample) -> ImagePair:
        self._refuse_another(sample)
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
        self._refuse_another(sample)
        both, tally = [artefact.entries[sample.id]["tags"] for artefact in self.both], None
        a, b = to_indicator(both, len(self.a.classes))
        if sample.has_ground_truth:
            [truth] = to_indicator([sample.ground_truth_labels], len(a))
            tally = np.array([[truth & tags, truth, tags] for tags in (a, b)], int)
        return ImagePair(sample, float((a != b).mean()), tally, both)

    def rows(self) -> Iterator[list[str]]:
        """Yields a row for each figure: its name, A, B, the difference, images and split."""
        name, about = self.a.kind.name, (f"{len(self.known or self.images):,}", self.a.split)
        if not self.known:
            share = percent(float(np.mean([image.changed for image in self.images] or 0)))
            what = "classes" if self.of_tags else "pixels"
            yield [f"{name}: {what} that differ", "", "", share, *about]
            return
        maps = [figures.get("map") for figures in self._figures]  # which needs scores
        if None not in maps:
            yield [f"{name}: mAP", *map(percent, maps), points(maps[1] - maps[0]), *about]
        intervals = bootstrap.difference_intervals(self.tallies, self.of_tags)
        for metric, (a, b) in bootstrap.figures(self.tallies.sum(0), self.of_tags).items():
            change = f"{points(b - a)} [{', '.join(map(points, intervals[metric]))}]"
            yield [f"{name}: {METRIC_LABELS[metric]}", percent(a), percent(b), change, *about]

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
