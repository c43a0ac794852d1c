"""The gallery of a report: its choice of images, each with everything that was computed for it."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

import numpy as np

from pipeline.cams.cams import Cams, read_cams
from pipeline.datasets.vocabulary import voc_palette
from pipeline.engine.kinds import CAMS, MASKS, PREDICTIONS, label_kinds
from pipeline.engine.sample import Sample, Size, evenly
from pipeline.files.images import limit_longest_side
from pipeline.files.label_images import IGNORE
from pipeline.masks.labels import label_pixels
from pipeline.report.page import painting
from pipeline.report.page.images import ImageFigures, Layers, ReportInputs, for_each_readable

_RUNNERS_UP = 3  # classes that are listed although they are not tags
RIGHT, WRONG, MISSED, UNKNOWN, RUNNER_UP = "right", "wrong", "missed", "tag", "not a tag"

WORST, BEST, DISAGREEING = "worst", "best", "most disagreeing"
DOUBTFUL, SAMPLE = "most doubtful", "even sample"
_PHRASES = {
    WORST: "with the lowest IoU",
    BEST: "with the highest",
    DISAGREEING: "in which mask and prediction differ most",
    DOUBTFUL: "whose tags are the most doubtful",
    SAMPLE: "at even distances from the rest",
}


@dataclass(frozen=True)
class Selection:
    """The images that are shown, in the order of the split."""

    images: list[ImageFigures]
    reasons: dict[str, str]  # id → why it was selected; empty if all images are shown
    description: str  # a sentence on what is shown


def choose_images(images: Sequence[ImageFigures], max_images: int | None) -> Selection:
    """Selects a fifth each: the worst, best, most disagreeing and most doubtful images, and of all.

    If a ranking is not known, without ground truth or predictions, the others share its fifth.
    Without ``max_images``, all are selected.
    """
    if max_images is None or len(images) <= max_images:
        return Selection(list(images), {}, f"All {len(images):,} images are shown.")

    def ranked(name: str) -> list[ImageFigures]:
        known = [image for image in images if getattr(image, name) is not None]
        return sorted(known, key=attrgetter(name))

    rankings = {WORST: ranked("iou"), BEST: ranked("iou")[::-1]}
    rankings[DISAGREEING] = ranked("disagreement")[::-1]
    rankings[DOUBTFUL] = ranked("doubt")[::-1]
    rankings = {reason: ranking for reason, ranking in rankings.items() if ranking}
    share = max_images // (len(rankings) + 1)
    chosen: dict[str, str] = {}
    for reason, ranking in rankings.items():
        new = [image.sample.id for image in ranking if image.sample.id not in chosen]
        chosen |= dict.fromkeys(new[:share], reason)
    rest = [image.sample.id for image in images if image.sample.id not in chosen]
    chosen |= dict.fromkeys(evenly(rest, max_images - len(chosen)), SAMPLE)
    counts = Counter(chosen.values())
    phrases = [f"{counts[reason]} {_PHRASES[reason]}" for reason in (*rankings, SAMPLE)]
    listed = " and ".join(filter(None, [", ".join(phrases[:-1]), phrases[-1]]))
    description = f"{len(chosen):,} of {len(images):,} images are shown: {listed}"
    shown = [image for image in images if image.sample.id in chosen]
    return Selection(shown, chosen, f"{description}; report.images=null shows all.")


@dataclass(frozen=True)
class TagRow:
    """A class of an image with its score in [0, 1], or none if the image was not tagged.

    The verdict is "right", "wrong", "missed", "tag" if the truth is not known, or "not a tag".
    """

    index: int
    score: float | None
    verdict: str


@dataclass(frozen=True)
class Panel:
    """One layer over a photograph."""

    layer: str  # its kind; unique within an image except for CAMs
    title: str  # the words above it
    picture: str  # a data: address; "" for the photograph alone
    facts: str  # the words below it, also read out instead of it
    places: Sequence[tuple[int, float, float]] = ()  # of names in it, see painting.find_places


@dataclass(frozen=True)
class Card:
    """One image of the gallery."""

    figures: ImageFigures
    reason: str  # why it was selected; "" if all images are shown
    width: int  # of its pictures, in pixels
    height: int
    photograph: str  # a data: address
    rows: Sequence[TagRow]  # tags, missed classes and runners-up, the highest score first
    panels: Sequence[Panel]  # the photograph first

    @property
    def correcting(self) -> dict[str, Any] | None:
        """What the page needs to correct the tags; none of an image that has no row for them.

        That is one without tags yet, and one whose id a file in UTF-8 cannot hold.
        """
        figures = self.figures
        if figures.tags is None or any("\ud800" <= c <= "\udfff" for c in "".join(figures.copies)):
            return None
        rows = [(r.index, None if r.score is None else f"{r.score:.2f}") for r in self.rows]
        tags = {"tags": figures.tags, "found": figures.found, "truth": figures.truth}
        return {"ids": figures.copies, **tags, "rows": rows}

    @property
    def marks(self) -> list[str]:
        """The filters, apart from its classes, that it passes."""
        verdicts = {row.verdict for row in self.rows}
        marks = [f"with-{verdict}" for verdict in (WRONG, MISSED) if verdict in verdicts]
        if self.figures.tags == ():
            marks.append("without-tags")
        return [*marks, self.reason.replace(" ", "-")] if self.reason else marks


def build_cards(
    selection: Selection, inputs: ReportInputs, problems: dict[str, str]
) -> Iterator[Card]:
    """Returns the images of a report one after the other, so that few are in memory at a time.

    ``problems`` receives id → reason for those that cannot be shown.
    """
    figures = {image.sample.id: image for image in selection.images}

    def build(sample: Sample) -> Card:
        full_size, original = inputs.read(sample)
        found = inputs.results[CAMS.stage]
        cams = read_cams(found.path / f"{sample.id}.npz") if sample.id in found.entries else None
        layers = inputs.layers(sample)
        if cams is not None:
            layers["argmax"], _ = label_pixels(cams, full_size.shape[:2], inputs.beta)
        image = limit_longest_side(full_size, inputs.settings.longest_side)
        height, width = image.shape[:2]
        photograph = painting.embed(image, painting.PHOTOGRAPH_QUALITY)
        panels = [Panel("photograph", "image", "", f"{original[1]} × {original[0]} pixels")]
        panels += _panels(cams, layers, inputs, (height, width))
        reason, rows = selection.reasons.get(sample.id, ""), tag_rows(figures[sample.id])
        return Card(figures[sample.id], reason, width, height, photograph, rows, panels)

    samples = [image.sample for image in selection.images]
    return for_each_readable(samples, build, inputs.workers, problems)


def tag_rows(figures: ImageFigures) -> list[TagRow]:
    """Returns an image's tags, the missed classes, and the classes with the next best scores."""
    tags, truth, scores = figures.tags, figures.truth, figures.scores
    listed = {*(tags or ()), *(figures.found or ()), *(truth or ())}
    if scores is not None and figures.threshold is not None:
        others = [k for k in np.argsort(-scores, kind="stable").tolist() if k not in listed]
        listed |= set(others[:_RUNNERS_UP])
    rows = []
    for index in sorted(listed):
        is_tag = tags is None or index in tags
        if truth is None or tags is None:
            verdict = UNKNOWN if is_tag else RUNNER_UP
        elif index in truth:
            verdict = RIGHT if is_tag else MISSED
        else:
            verdict = WRONG if is_tag else RUNNER_UP
        rows.append(TagRow(index, None if scores is None else float(scores[index]), verdict))
    return sorted(rows, key=lambda row: -(row.score or 0))


def _panels(cams: Cams | None, layers: Layers, inputs: ReportInputs, size: Size) -> Iterator[Panel]:
    """Yields CAMs, labels and differences of labels, as far as there are any, in a size."""
    classes = inputs.vocabulary.classes
    if cams is not None:
        for index, cam in zip(cams.classes.tolist(), cams.resized(*size)):
            row, column = np.unravel_index(cam.argmax(), cam.shape)
            left, top = (column + 0.5) / cam.shape[1], (row + 0.5) / cam.shape[0]
            across = ("left", "centre", "right")[min(2, int(3 * left))]
            down = ("top", "middle", "bottom")[min(2, int(3 * top))]
            share = painting.percent_of_pixels(float((cam > 0.5).mean()))
            facts = f"strongest at {down} {across}, above one half in {share}"
            yield Panel("cam", f"CAM of {classes[index]}", painting.encode_heat(cam), facts)
    titles = {
        "argmax": inputs.argmax_title,
        **{kind.layer: kind.layer for kind in label_kinds()},
        MASKS.layer: inputs.mask_title,
        "truth": "ground truth",
    }
    for layer, title in titles.items():
        # Without a CRF the mask is the argmax of the CAMs, which then has no title.
        if layer in layers and title is not None:
            yield label_panel(layer, title, layers[layer], classes, size)
    mask, prediction = MASKS.unfiltered, PREDICTIONS.unfiltered
    pairs = [
        ("mask-truth", "mask", mask, "ground truth", "truth"),
        ("prediction-truth", "prediction", prediction, "ground truth", "truth"),
        ("mask-prediction", "mask", mask, "prediction", prediction),
    ]
    for layer, name, first, other, second in pairs:
        if {first, second} <= layers.keys() and layers[first].shape == layers[second].shape:
            yield difference_panel(layer, (name, other), (layers[first], layers[second]), size)


def label_panel(
    layer: str, title: str, labels: np.ndarray, classes: Sequence[str], size: Size
) -> Panel:
    """Returns a panel of labels, H×W uint8, in a picture of ``size``."""
    small = painting.resize_labels(labels, *size)
    picture = painting.embed(painting.paint_labels(small, voc_palette(len(classes) + 1)))
    names = {**dict(enumerate(classes, 1)), 0: "background", IGNORE: "ignored"}
    facts = ", ".join(
        f"{names.get(label, f'label {label}')} {painting.percent_of_pixels(share)}"
        for label, share in painting.label_shares(labels).items()
    )
    return Panel(layer, title, picture, facts, painting.find_places(small, classes))


def difference_panel(
    layer: str, names: tuple[str, str], labels: Sequence[np.ndarray], size: Size
) -> Panel:
    """Returns a panel of where two label images of one size differ, by their names."""
    kinds = painting.compare_labels(*labels)
    picture = painting.encode_difference(painting.resize_labels(kinds, *size))
    texts = {
        painting.MISSED: f"only in the {names[1]}",
        painting.EXTRA: f"only in the {names[0]}",
        painting.CONFUSED: "another class",
    }
    counted = max(1, int((kinds != IGNORE).sum()))
    shares = {kind: float((kinds == kind).sum()) / counted for kind in texts}
    parts = [f"{painting.percent_of_pixels(s)} {texts[kind]}" for kind, s in shares.items() if s]
    return Panel(layer, " against ".join(names), picture, ", ".join(parts) or "no difference")
