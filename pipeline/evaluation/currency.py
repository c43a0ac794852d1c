"""Whether figures are of what lies there now: of these results, this ground truth, these settings.

Beside results lies what each image was measured on, to judge figures without the data set.
"""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pipeline.engine.records import MANIFEST, photograph_and_result
from pipeline.engine.results import Results
from pipeline.engine.sample import Labels, Sample, content_of
from pipeline.errors import UserError
from pipeline.files.atomic import (
    Complete,
    canonical_json,
    read_json,
    remove_abandoned,
    write_atomically,
)
from pipeline.files.fingerprints import fingerprint

MEASURED_ON = "measured_on.json"

REMOVED = "results removed"
"""Marks figures of results that are no longer there."""

_SHAPE = Complete(images={str: [str]}, files={str: str}, settings=dict)


@dataclass(frozen=True)
class MeasuredOn:
    """What figures are measured on.

    Attributes:
        images: image id → the fingerprints of its photograph and result, and of its ground truth.
        files: photographs, and files of ground truth → the fingerprint of each that can be read.
        settings: those of the measurement.
    """

    images: Mapping[str, list[str]]
    files: Mapping[str, str]
    settings: Mapping[str, Any]

    @classmethod
    def of(
        cls,
        results: Results,
        samples: Iterable[Sample],
        settings: Mapping[str, Any],
        lists: Iterable[Path] = (),
    ) -> "MeasuredOn":
        """Returns what figures are measured on now; ``lists`` hold ground truth of many images."""
        images, files = {}, {str(path): content_of(path) for path in lists}
        for sample in samples:
            mask = sample.mask
            origin, truth = ([mask.file, *mask.origin], mask.contents) if mask else ([], [])
            origin += getattr(sample.labels, "args", ())  # of a function that reads them
            given = (v for v in [sample.image, *origin] if isinstance(v, Path))
            paths = (path for path in given if str(path) not in files)
            files |= {str(path): content for path in paths if (content := content_of(path))}
            made = photograph_and_result(results.entries[sample.id])
            images[sample.id] = [*made, fingerprint([truth, _labels(sample)])]
        return cls(images, files, settings)

    @property
    def key(self) -> str:
        """The fingerprint by which figures name it."""
        return fingerprint(self.images, self.settings)

    @property
    def results(self) -> str:
        """The fingerprint of the results alone."""
        return fingerprint({image_id: made for image_id, (*made, _) in self.images.items()})

    def write(self, folder: Path) -> None:
        """Writes it beside the results."""
        remove_abandoned(folder)  # of an evaluation that was killed; the stage will not come by
        write_atomically(folder / MEASURED_ON, canonical_json(asdict(self)))

    def describe_change(self, now: "MeasuredOn") -> str:
        """Returns why figures are others now, or ""."""
        if self.images.keys() != now.images.keys():
            return "measured on other images"
        pairs = [(then, now.images[image_id]) for image_id, then in self.images.items()]
        for what, part in (("results", slice(2)), ("ground truth", slice(2, 3))):
            if any(then[part] != after[part] for then, after in pairs):
                return f"measured before its {what} changed"
        return "measured with other settings" if self.settings != now.settings else ""


def _labels(sample: Sample) -> Labels | str | None:
    try:
        return sample.labels() if callable(sample.labels) else sample.labels
    except UserError as error:
        return str(error)


@dataclass
class Currency:
    """Judges the figures in the ``metrics.json`` of one output directory.

    Attributes:
        root: the output directory.
        now: split, stage and key of the run's results → what they would be measured on now, or why
            they cannot be; none for results of the same run on a split that it does not work on.
            Without a run, the folders tell what figures were measured on.
    """

    root: Path
    now: Mapping[tuple[str, str, str], MeasuredOn | str | None] = field(default_factory=dict)
    _changes: dict[Path, tuple[str, str]] = field(default_factory=dict)

    def remark(self, stage: str, split: str, figures: Mapping[str, Any]) -> str:
        """Returns why figures are not those of what lies there, :data:`REMOVED`, or ""."""
        place = split, stage, figures.get("key", "")
        folder, now = self.root.joinpath(*place), self.now.get(place)
        if not (folder / MANIFEST).is_file():
            return REMOVED
        if isinstance(now, str):
            return now
        if folder not in self._changes:
            self._changes[folder] = _find_change(folder, now)
        key, change = self._changes[folder]
        if key != figures.get("measured_on"):
            change = "measured before these results were last evaluated"
        return f"{change}: run stage=evaluate" if change else ""

    def refuse_other(self, stage: str, split: str, figures: Mapping[str, Any]) -> str:
        """Returns why figures are not those of the run, or of the same run on another split."""
        if not self.now or (split, stage, figures.get("key")) in self.now:
            return ""
        where = "" if (split, stage, "") in self.now else f" with dataset.split={split}"
        return f"measured with other settings than those of this run: run stage=evaluate{where}"


def _find_change(folder: Path, now: MeasuredOn | None) -> tuple[str, str]:
    """Returns the key of what results were measured on, and which of it is another by now."""
    if (content := read_json(folder / MEASURED_ON, _SHAPE)) is None:
        return "", ""
    measured_on, results = MeasuredOn(**content), Results(folder)
    if now is not None:
        return measured_on.key, measured_on.describe_change(now)
    for image_id, (*made, _) in measured_on.images.items():
        entry = results.entries.get(image_id)
        if not entry or photograph_and_result(entry) != made or not results.is_current(image_id):
            return measured_on.key, "measured before its results changed"
    if any(content_of(Path(p)) not in (content, "") for p, content in measured_on.files.items()):
        return measured_on.key, "measured before its photographs or ground truth changed"
    return measured_on.key, ""
