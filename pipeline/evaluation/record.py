"""``metrics.json``: what was measured, and on what."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from itertools import chain, count
from pathlib import Path

from pipeline.engine.kinds import measured_kinds
from pipeline.engine.lineage import RunResults
from pipeline.engine.records import MANIFEST_SHAPE
from pipeline.evaluation.about import About
from pipeline.evaluation.currency import REMOVED, Currency
from pipeline.files.atomic import (
    Complete,
    cannot_write,
    fits,
    link_or_copy,
    read_json,
    write_atomically,
)
from pipeline.files.lock import FolderLock

_NUMBER = int | float | None
_NUMBERS = {str: {str: _NUMBER}}
_LEVEL = {
    **dict.fromkeys(("map", "f1", "precision", "recall", "kept"), _NUMBER),
    **dict.fromkeys(("miou", "miou_union", "miou_images"), _NUMBER),
    **dict.fromkeys(("map_classes", "left_out", "background_beta"), _NUMBER),
    **dict.fromkeys(("per_class", "variants"), _NUMBERS),
    "map_of_ties": [int | float],
    "chosen_by_ground_truth": {str: _NUMBER},
    "initial_weights": dict,
}
_OF_CLASS = dict.fromkeys(("precision", "recall", "f1", "best_f1"), _NUMBER)
_OF_CLASS |= {"best_threshold": int | float}
_CALIBRATION = Complete(threshold=_NUMBER, f1=_NUMBER, per_class={str: Complete(_OF_CLASS)})
_FIGURES = {
    **_LEVEL,
    **dict.fromkeys(("image_set", "ground_truth", "results", "measured_on", "corrections"), str),
    "images": int,
    "supervised": bool,
    "levels": [_LEVEL],
    "calibration": _CALIBRATION,
    "read": {str: str},
}
_RUN = {
    **_FIGURES,
    **{key: MANIFEST_SHAPE[key] for key in ("split", "key", "configuration", "versions")},
    **{key: MANIFEST_SHAPE[key] for key in ("made_from", "counterparts", "legend")},
    "about": dict,
    "experiments": [str],
    "settings": {str: dict},
}
_REQUIRED = ("stage", "split", "key", "images", "about", "configuration")
_REQUIRED += ("image_set", "ground_truth", "experiments", "settings")

_WAIT = 60.0  # seconds for another run, which takes a moment


@contextmanager
def changing_metrics(path: Path) -> Iterator["MetricsFile"]:
    """Gives ``metrics.json`` as it is now, which other runs may have written to, and writes it.

    A damaged file is kept under another name, see ``damage``. Raises a UserError if writing fails.
    """
    lock = FolderLock(path.parent, _WAIT)
    try:
        lock.acquire()
    except OSError as error:
        raise cannot_write(path, error) from error
    try:
        file = MetricsFile(path)
        if file.damage:
            names = (path.with_name(f"{path.name}.damaged{n}") for n in chain([""], count(2)))
            aside = next(name for name in names if not name.exists())
            link_or_copy(path, aside)
            file.damage += f": it was put aside as {aside.name}, and what is intact was kept"
        yield file
        latest = {stage: splits for stage, splits in file.latest.items() if splits}
        content = {"latest": latest, "runs": file.runs}
        write_atomically(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")
    finally:
        lock.release()


class MetricsFile:
    """``metrics.json``: the latest figures, and every run's with its configuration.

    Attributes:
        root: the folder that it lies in.
        latest: stage → split → figures.
        runs: figures with the configuration that led to them; see :meth:`put`.
        damage: names the damaged parts of the file, which are skipped, or "".
        withheld: a sentence on the figures that :meth:`withhold` removed, for each reason.
    """

    def __init__(self, path: Path):
        """Reads the file, or starts an empty one."""
        self.root, content = path.parent, read_json(path)
        is_intact = content is not None or not path.exists()
        latest, runs = (content or {}).get("latest", {}), (content or {}).get("runs", [])
        if not fits(latest, {str: dict}):
            is_intact, latest = False, {}
        if not isinstance(runs, list):
            is_intact, runs = False, []
        self.latest: dict = {
            stage: {split: f for split, f in splits.items() if fits(f, _FIGURES, ["images"])}
            for stage, splits in latest.items()
            if stage in measured_kinds()
        }
        runs_kept = (run for run in runs if fits(run, _RUN, _REQUIRED))
        self.withheld: list[str] = []
        self.runs: list[dict] = [run for run in runs_kept if run["stage"] in measured_kinds()]
        kept = len(self.runs) + sum(map(len, self.latest.values()))
        damaged = len(runs) + sum(map(len, latest.values())) - kept
        entries = "1 damaged entry" if damaged == 1 else f"{damaged} damaged entries"
        self.damage = f"{path} has {entries}" if damaged else ""
        if not is_intact:
            self.damage = f"{path} is damaged"

    def withhold(self, currency: Currency) -> None:
        """Removes figures that are not of what lies there, and marks those of removed results."""
        keys: dict[str, dict[str, None]] = {}

        def is_current(stage: str, split: str, figures: dict, remark: str = "") -> bool:
            if (remark := remark or currency.remark(stage, split, figures)) == REMOVED:
                figures["remark"], remark = REMOVED, ""
            if remark:
                sentence = f"{stage} of split {split} ({{}}): {remark}"
                keys.setdefault(sentence, {})[figures.get("key", "")] = None
            return not remark

        for stage, splits in self.latest.items():
            self.latest[stage] = {
                split: figures
                for split, figures in splits.items()
                if is_current(stage, split, figures, currency.refuse_other(stage, split, figures))
            }
        self.runs = [run for run in self.runs if is_current(run["stage"], run["split"], run)]
        self.withheld = [sentence.format(", ".join(found)) for sentence, found in keys.items()]

    def find(self, stage: str, split: str, key: str) -> dict | None:
        """Returns the run of a key, if it was measured."""
        wanted = (stage, split, key)
        return next((r for r in self.runs if (r["stage"], r["split"], r["key"]) == wanted), None)

    def put(self, results: RunResults, figures: Mapping, about: About, settings: Mapping) -> None:
        """Records figures of results as the latest of their stage and split.

        The ``settings`` are those of :func:`~pipeline.evaluation.about.settings_behind`.
        """
        stage, split, key = results.name, results.split, results.key
        old = self.find(stage, split, key) or {}
        self.latest.setdefault(stage, {})[split] = {"key": key, **figures}
        versions = results.manifest.get("versions", {})
        run = {
            "stage": stage,
            "split": split,
            "key": key,
            **{k: v for k, v in results.stage.about.items() if k != "command"},
            "counterparts": results.manifest.get("counterparts", ()),
            # One configuration may belong to several experiments, and to none ("") as well; a later
            # one must not take it away.
            "experiments": sorted({*old.get("experiments", ()), about.experiment}),
            "about": replace(about, commit=versions.get("commit", "")).plain,
            "versions": versions,
            **figures,
            "settings": settings,
            "configuration": results.stage.settings,
        }
        self.runs = [r for r in self.runs if r is not old] + [run]
