"""Diagrams as SVG in the text colour and font of the page, for its light and dark modes."""

import io
import re
import warnings
from collections.abc import Callable, Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pipeline.evaluation.metrics import Confusion, to_indicator
from pipeline.report.page.images import ImageFigures

_SERIES = ("#2f6fde", "#e07b00", "#7a8699")
"""The colours of series: distinct in brightness too, and legible on light and dark."""

_INK = "#010203"  # replaced by the page's text colour in the SVG
_STYLE = {
    "svg.fonttype": "none",  # text stays text: it can be searched, read aloud and restyled
    "text.color": _INK,
    "axes.edgecolor": _INK,
    "axes.labelcolor": _INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "font.size": 9,
    "legend.frameon": False,
    # Names of classes are not formulas, whatever characters they contain.
    "text.parse_math": False,
}
_MAX_NUMBERED = 24  # classes; the cells of larger matrices contain no numbers
_BINS = 40


def draw_confusion(confusion: Confusion, names: Sequence[str], predicted: str) -> str:
    """Draws a confusion matrix as SVG, each row as shares of its label's pixels.

    Labels in neither the ground truth nor the prediction, which ``predicted`` names, are left out.
    """
    matrix = confusion.matrix
    used = np.flatnonzero(matrix.sum(0) + matrix.sum(1))
    matrix = matrix[np.ix_(used, used)]
    shares = matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    labels = [names[k] for k in used]
    numbered = len(labels) <= _MAX_NUMBERED
    side = max(2.5, len(labels) * (0.42 if numbered else 0.17))

    def draw(axes: Axes) -> None:
        # Opacity instead of brightness, so that an empty cell has the page's own background.
        colour = matplotlib.colors.to_rgb(_SERIES[0])
        cells = np.dstack([np.broadcast_to(colour, (*shares.shape, 3)), np.sqrt(shares)])
        axes.imshow(cells, interpolation="none")
        axes.set_xticks(range(len(labels)), labels, rotation=90)
        axes.set_yticks(range(len(labels)), labels)
        axes.set_xlabel(predicted)
        axes.set_ylabel("ground truth")
        axes.tick_params(length=0, labelsize=9 if numbered else 7)
        axes.spines[:].set_visible(False)
        for row, column in np.argwhere(shares >= 0.005) if numbered else ():
            share = shares[row, column]
            ink = "white" if share > 0.7 else _INK
            text = f"{100 * share:.0f}"
            axes.text(column, row, text, color=ink, ha="center", va="center", fontsize=8)

    return _to_svg(draw, side + 1.2, side + 1.2, predicted)


def find_confused(confusion: Confusion, max_pairs: int = 10) -> list[tuple[int, int, int, float]]:
    """Returns the pairs of labels that are confused in most pixels, the worst first.

    Each is a true label, the label that its pixels received, their number, and share of its pixels.
    """
    wrong = confusion.matrix.copy()
    np.fill_diagonal(wrong, 0)
    shares = wrong / np.maximum(confusion.matrix.sum(1, keepdims=True), 1)
    order = np.argsort(-wrong, axis=None, kind="stable")[:max_pairs].tolist()
    pairs = [divmod(place, len(wrong)) for place in order]
    return [(*pair, int(wrong[pair]), float(shares[pair])) for pair in pairs if wrong[pair]]


def draw_margins(images: Sequence[ImageFigures]) -> str:
    """Draws how far scores are above or below their image's threshold; "" without thresholds."""
    if not (decided := [f for f in images if f.scores is not None and f.threshold is not None]):
        return ""
    margins = np.array([f.scores - f.threshold for f in decided])
    known = np.array([f.truth is not None for f in decided])
    shown = to_indicator([f.truth or () for f in decided], margins.shape[1])
    series = {
        "classes that the image shows": margins[shown],
        "classes that it does not show": margins[known][~shown[known]],
        "classes of images without labels": margins[~known].ravel(),
    }
    bins = np.linspace(min(-0.05, margins.min()), max(0.05, margins.max()), _BINS + 1)

    def draw(axes: Axes) -> None:
        for (label, values), colour in zip(series.items(), _SERIES, strict=True):
            if len(values):
                style = {"color": colour, "log": True}
                axes.hist(values, bins, alpha=0.3, **style)
                axes.hist(values, bins, histtype="step", linewidth=1.8, label=label, **style)
        axes.axvline(0, color=_INK, linewidth=1.2, linestyle=(0, (4, 3)))
        place = {"xycoords": ("data", "axes fraction"), "textcoords": "offset points", "va": "top"}
        axes.annotate("threshold", (0, 1), xytext=(4, -2), **place)
        axes.set_xlabel("score minus the threshold of the image")
        axes.set_ylabel("pairs of image and class")
        axes.yaxis.set_major_formatter("{x:,.0f}")
        axes.yaxis.set_minor_formatter("")
        axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2)

    return _to_svg(draw, 7, 3.4, "margins")


def _to_svg(draw: Callable[[Axes], None], width: float, height: float, name: str) -> str:
    buffer = io.StringIO()
    with matplotlib.rc_context({**_STYLE, "svg.hashsalt": name}), warnings.catch_warnings():
        # The font has no letters of some scripts; the reader's browser has.
        warnings.simplefilter("ignore", UserWarning)
        figure = Figure((width, height), layout="constrained")
        draw(figure.add_subplot())
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :].replace(_INK, "currentColor")
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, count=1, flags=re.DOTALL)
    # All diagrams number their groups alike, and ids must be unique in a page.
    return re.sub(r'<g id="[^"]*"', "<g", svg)
