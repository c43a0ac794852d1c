"""Diagrams as SVG in the text colour and font of the page, for its light and dark modes."""

import io
import re
import warnings
from collections.abc import Sequence

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from pipeline.evaluation.metrics import Confusion

_CELLS = "#2f6fde"  # legible on light and dark
_INK = "#010203"  # replaced by the page's text colour in the SVG
_STYLE = {
    "svg.fonttype": "none",  # text stays text: it can be searched, read aloud and restyled
    "text.color": _INK,
    "axes.edgecolor": _INK,
    "axes.labelcolor": _INK,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "font.size": 9,
    # Names of classes are not formulas, whatever characters they contain.
    "text.parse_math": False,
}
_MAX_NUMBERED = 24  # classes; the cells of larger matrices contain no numbers


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
    buffer = io.StringIO()
    with matplotlib.rc_context({**_STYLE, "svg.hashsalt": predicted}), warnings.catch_warnings():
        # The font lacks the letters of some scripts; the reader's browser has them.
        warnings.simplefilter("ignore", UserWarning)
        figure = Figure((side + 1.2, side + 1.2), layout="constrained")
        axes = figure.add_subplot()
        # Opacity instead of brightness, so that an empty cell has the page's own background.
        colour = matplotlib.colors.to_rgb(_CELLS)
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
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    return _for_page(buffer.getvalue())


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


def _for_page(svg: str) -> str:
    """Returns an SVG file as an element in the page's text colour."""
    svg = svg[svg.index("<svg") :].replace(_INK, "currentColor")
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, count=1, flags=re.DOTALL)
    # All diagrams number their groups alike, and ids must be unique in a page.
    return re.sub(r'<g id="[^"]*"', "<g", svg)
