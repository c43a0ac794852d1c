"""The gallery of a report: every image with all that was computed for it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.cams.stage import Cams, read_cams
from pipeline.datasets.sample import Sample
from pipeline.datasets.vocabulary import IGNORE
from pipeline.engine.batches import ahead
from pipeline.engine.store import StageFolder
from pipeline.files.images import limit_longest_side
from pipeline.files.label_images import read_labels
from pipeline.masks.stage import pseudo_mask
from pipeline.report import layers
from pipeline.report.material import Material
from pipeline.report.measured import (
    UNREADABLE,
    ImageFigures,
    describe_problem,
    read_mask_labels,
)
from pipeline.report.selection import Selection

MOST_CHARACTERS = 88_000
"""Of an image with all that is laid over it, so that 200 stay below 20 MB with what is around."""

_LEAST_SHRINKING, _MOST_SHRINKING, _SMALLEST_SIDE = 0.9, 0.5, 32
_MOST_AHEAD = 4  # images that are rendered ahead of the file
_RUNNERS_UP = 3  # classes that were no tags and are listed all the same
RIGHT, WRONG, MISSED, UNKNOWN, RUNNER_UP = "right", "wrong", "missed", "tag", "not a tag"


@dataclass(frozen=True)
class TagRow:
    """A class of an image with its score.

    Attributes:
        index: of the class.
        score: in [0, 1]; none where the image was not tagged.
        verdict: "right", "wrong", "missed", "tag" where the truth is not known, or "not a tag".
    """

    index: int
    score: float | None
    verdict: str


@dataclass(frozen=True)
class Panel:
    """One picture that is laid over a photograph.

    Attributes:
        layer: its kind; unique within an image but for the maps.
        title: what stands above it.
        picture: a ``data:`` address; "" for the photograph alone.
        facts: what stands below it and replaces it for who cannot see it.
        places: where names stand in it.
    """

    layer: str
    title: str
    picture: str
    facts: str
    places: Sequence[layers.Place] = ()


@dataclass(frozen=True)
class Card:
    """One image of the gallery.

    Attributes:
        figures: what it is worth.
        reason: why it was chosen of many; "" where all are shown.
        width: of its pictures.
        height: the same.
        photograph: a ``data:`` address.
        rows: its tags, the missed classes and the next ones, the highest score first.
        panels: the pictures, the photograph first.
    """

    figures: ImageFigures
    reason: str
    width: int
    height: int
    photograph: str
    rows: Sequence[TagRow]
    panels: Sequence[Panel]

    @property
    def marks(self) -> list[str]:
        """What the image can be filtered by beside its classes."""
        verdicts = {row.verdict for row in self.rows}
        found = [f"with-{verdict}" for verdict in (WRONG, MISSED) if verdict in verdicts]
        if self.figures.tags == ():
            found.append("without-tags")
        return [*found, self.reason.replace(" ", "-")] if self.reason else found


@dataclass(frozen=True)
class _Artefacts:
    """What lies on disk for one image; each may be missing."""

    image: np.ndarray
    cams: Cams | None
    argmax: np.ndarray | None
    mask: np.ndarray | None
    unfiltered: np.ndarray | None
    prediction: np.ndarray | None
    truth: np.ndarray | None


def build_cards(
    selection: Selection, material: Material, problems: dict[str, str]
) -> Iterator[Card]:
    """Yields the images of a report one after the other, so that few are in memory at a time.

    Args:
        selection: which ones.
        material: where everything lies.
        problems: receives id → reason for those that cannot be shown.
    """

    def build(figures: ImageFigures) -> Card | str:
        try:
            return _build_card(figures, material, selection.reasons.get(figures.sample.id, ""))
        except UNREADABLE as error:
            return describe_problem(error)

    for figures, found in ahead(selection.images, build, material.workers, _MOST_AHEAD):
        if isinstance(found, str):
            problems[figures.sample.id] = found
        else:
            yield found


def tag_rows(figures: ImageFigures) -> list[TagRow]:
    """Returns an image's tags, the classes that were missed, and the next ones by their scores."""
    tags, truth = set(figures.tags or ()), figures.truth
    wanted = tags | set(truth or ())
    scores = figures.scores
    if scores is not None and figures.threshold is not None:
        others = [k for k in np.argsort(-scores, kind="stable").tolist() if k not in wanted]
        wanted |= set(others[:_RUNNERS_UP])
    rows = [
        TagRow(k, None if scores is None else float(scores[k]), _verdict(k, figures))
        for k in sorted(wanted)
    ]
    return sorted(rows, key=lambda row: -(row.score or 0))


def _verdict(index: int, figures: ImageFigures) -> str:
    tagged = index in (figures.tags or ())
    if figures.truth is None or figures.tags is None:
        return UNKNOWN if tagged or figures.tags is None else RUNNER_UP
    if index in figures.truth:
        return RIGHT if tagged else MISSED
    return WRONG if tagged else RUNNER_UP


def _build_card(figures: ImageFigures, material: Material, reason: str) -> Card:
    found = _read(figures.sample, material)
    side = material.longest_side
    while True:
        image = limit_longest_side(found.image, side)
        height, width = image.shape[:2]
        photograph = layers.encode_photograph(image)
        panels = [Panel("photograph", "photograph", "", f"{width} × {height} pixels")]
        panels += _panels(found, material, height, width)
        size = len(photograph) + sum(len(panel.picture) for panel in panels)
        if size <= MOST_CHARACTERS or max(height, width) <= _SMALLEST_SIDE:
            rows = tag_rows(figures)
            return Card(figures, reason, width, height, photograph, rows, panels)
        # Compressed sizes grow with the sides of outlines, and with the pixels of photographs.
        factor = np.clip((MOST_CHARACTERS / size) ** 0.7, _MOST_SHRINKING, _LEAST_SHRINKING)
        side = max(_SMALLEST_SIDE, int(max(height, width) * factor))


def _read(sample: Sample, material: Material) -> _Artefacts:
    image, _ = material.read(sample)
    cams = argmax = mask = unfiltered = None
    if sample.id in material.cams.entries:
        cams = read_cams(material.cams.path / f"{sample.id}.npz")
        argmax, _ = pseudo_mask(image, cams, None, material.beta)
    if sample.id in material.masks.entries:
        mask = read_labels(material.masks.path / f"{sample.id}.png")
        unfiltered = read_mask_labels(material.masks, sample.id)
    return _Artefacts(
        image=image,
        cams=cams,
        argmax=argmax,
        mask=mask,
        unfiltered=unfiltered,
        prediction=_read_prediction(material.predictions, sample),
        truth=None if sample.mask is None else sample.mask.read(),
    )


def _read_prediction(folder: StageFolder | None, sample: Sample) -> np.ndarray | None:
    if folder is None or sample.id not in folder.entries:
        return None
    return read_labels(folder.path / f"{sample.id}.png")


def _panels(found: _Artefacts, material: Material, height: int, width: int) -> Iterator[Panel]:
    if found.cams is not None:
        maps = found.cams.resized(height, width)
        for index, heat in zip(found.cams.keys.tolist(), maps):
            name = material.vocabulary.classes[index]
            yield Panel("map", f"map of {name}", layers.encode_heat(heat), _describe_heat(heat))
    masks = [
        ("argmax", material.argmax_title, found.argmax),
        ("mask", material.mask_title, found.mask),
        ("prediction", "prediction", found.prediction),
        ("truth", "ground truth", found.truth),
    ]
    for layer, title, labels in masks:
        # Without a CRF the mask is the argmax of the maps.
        if labels is None or title is None:
            continue
        small = layers.resize_labels(labels, height, width)
        picture = layers.encode_labels(small, material.vocabulary.palette)
        facts = _describe_labels(labels, material.vocabulary.classes)
        yield Panel(layer, title, picture, facts, layers.find_places(small))
    pairs = [
        ("mask-truth", "mask", found.unfiltered, "ground truth", found.truth),
        ("prediction-truth", "prediction", found.prediction, "ground truth", found.truth),
        ("mask-prediction", "mask", found.unfiltered, "prediction", found.prediction),
    ]
    for layer, name, first, other, second in pairs:
        if first is None or second is None or first.shape != second.shape:
            continue
        kinds = layers.compare_labels(first, second)
        picture = layers.encode_difference(layers.resize_labels(kinds, height, width))
        yield Panel(layer, f"{name} against {other}", picture, _describe_kinds(kinds, name, other))


def _describe_heat(heat: np.ndarray) -> str:
    row, column = np.unravel_index(heat.argmax(), heat.shape)
    left, top = (column + 0.5) / heat.shape[1], (row + 0.5) / heat.shape[0]
    across = ("left", "centre", "right")[min(2, int(3 * left))]
    down = ("top", "middle", "bottom")[min(2, int(3 * top))]
    share = float((heat > 0.5).mean())
    return f"strongest at {down} {across}, above one half in {_percent(share)}"


def _describe_labels(labels: np.ndarray, classes: Sequence[str]) -> str:
    counts = np.bincount(labels.ravel(), minlength=IGNORE + 1) / labels.size
    order = [label for label in np.argsort(-counts, kind="stable").tolist() if counts[label]]
    names = {0: "background", IGNORE: "ignored"}
    parts = [
        f"{names.get(k) or (classes[k - 1] if k <= len(classes) else f'label {k}')}"
        f" {_percent(counts[k])}"
        for k in sorted(order, key=lambda label: label == 0)
    ]
    return ", ".join(parts)


def _describe_kinds(kinds: np.ndarray, first: str, second: str) -> str:
    counted = max(1, int((kinds != IGNORE).sum()))
    texts = {
        layers.MISSED: f"only in the {second}",
        layers.EXTRA: f"only in the {first}",
        layers.OTHER: "another class",
    }
    shares = {kind: float((kinds == kind).sum()) / counted for kind in texts}
    parts = [f"{_percent(shares[kind])} {text}" for kind, text in texts.items() if shares[kind]]
    return ", ".join(parts) or "no difference"


def _percent(share: float) -> str:
    number = "<0.1" if 0 < share < 0.001 else f"{100 * share:.1f}"
    return f"{number}\N{NO-BREAK SPACE}%"


def classes_with_counts(images: Iterable[ImageFigures]) -> dict[int, int]:
    """Returns how many images every class can be found in, by its index."""
    counts: dict[int, int] = {}
    for figures in images:
        for index in figures.classes:
            counts[index] = counts.get(index, 0) + 1
    return dict(sorted(counts.items()))
