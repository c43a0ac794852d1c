"""The kinds of results: what evaluation, tables, reports and exports need of a stage.

They stand apart from the stages, since what reads only figures starts without PyTorch.
"""

from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass, field
from typing import Literal


@dataclass(frozen=True, eq=False)
class Kind:
    """The kind of a stage's results; the class of the stage names it.

    Attributes:
        stage: the name of its folder, of its entries in ``metrics.json`` and of its settings within
            those of later stages.
        name: its name in tables; by default that of the stage.
        title: its name where there is room; by default the name.
        holds: what it stores of an image: "tags" (with scores), "cams", "masks" (labels, measured
            before a filter that may set some to 255), "labels", or nothing, "".
        group: the group of methods, one of which computes it; "" if no method is chosen.
        method: the column of tables that names the method; by default the group, or else the name.
        figures: column of tables → metric, "map" and others of tags or "miou" of labels and CAMs.
            The first stands for the stage; without any it is not measured.
    """

    stage: str
    name: str = ""
    title: str = ""
    _: KW_ONLY
    holds: Literal["tags", "cams", "masks", "labels", ""] = ""
    group: str = ""
    method: str = ""
    figures: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        name = self.name or self.stage
        object.__setattr__(self, "name", name)
        object.__setattr__(self, "title", self.title or name)
        object.__setattr__(self, "method", self.method or self.group or name)

    @property
    def metric(self) -> str:
        """The metric that stands for it."""
        return next(iter(self.figures.values()))

    @property
    def is_labels(self) -> bool:
        """Whether it stores a label image, ``<id>.png``, of each image."""
        return self.holds in ("masks", "labels")

    @property
    def layer(self) -> str:
        """The word for its result of one image."""
        return self.stage.removesuffix("s")

    @property
    def unfiltered(self) -> str:
        """The word for the labels of one image as they are measured, before a filter."""
        return f"unfiltered {self.layer}"


INTERMEDIATE = Kind("")
"""Results of a stage for another one alone, such as a bank of features."""

TAGS = Kind("tags", holds="tags", group="tags", figures={"mAP": "map", "F1": "f1"})
CAMS = Kind(
    "cams",
    "CAMs",
    "class activation maps",
    holds="cams",
    group="cams",
    figures={"mIoU CAMs": "miou"},
)
MASKS = Kind(
    "masks", title="pseudo masks", holds="masks", group="masks", figures={"mIoU masks": "miou"}
)
NETWORK = Kind("segmenter", "network")
PREDICTIONS = Kind(
    "predictions", "segmenter", holds="labels", method="network", figures={"mIoU segmenter": "miou"}
)

_KINDS = (TAGS, CAMS, MASKS, NETWORK, PREDICTIONS)
"""All kinds in the order of the pipeline; a further one stands here."""


def kinds() -> tuple[Kind, ...]:
    """Returns all kinds in the order of the pipeline; the settings of each hold earlier ones'."""
    return _KINDS


def measured_kinds() -> dict[str, Kind]:
    """Returns stage → kind of all results that are measured, in the order of the pipeline."""
    return {kind.stage: kind for kind in _KINDS if kind.figures}


def label_kinds() -> list[Kind]:
    """Returns the kinds that store a label image of each image."""
    return [kind for kind in _KINDS if kind.is_labels]


def groups() -> tuple[str, ...]:
    """Returns the groups of methods, in the order of the pipeline."""
    return tuple(kind.group for kind in _KINDS if kind.group)


def figure_columns() -> dict[str, tuple[Kind, str]]:
    """Returns column of tables → kind and metric, in the order of the pipeline."""
    return {c: (kind, metric) for kind in _KINDS for c, metric in kind.figures.items()}
