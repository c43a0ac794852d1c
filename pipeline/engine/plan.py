"""What a run would compute, found out without computing or writing anything."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pipeline.engine.learned import Learned
from pipeline.engine.review import Review
from pipeline.engine.sample import Images
from pipeline.engine.scan import Scan, scan
from pipeline.engine.stage import Stage
from pipeline.engine.store import Store


@dataclass(frozen=True)
class PlannedStage:
    """What a stage would do for a split.

    Attributes:
        stage: its name.
        split: the split, or "" for a stage that has none.
        images: how many images it covers; none for a review.
        cached: how many results exist, or can be reused; none where the key is not known yet.
        to_compute: how many images would be computed; none for a review.
        after: the stage that has to run before it is certain which; "" where it is certain now.
        is_most: whether ``to_compute`` is an upper bound.
        seconds: the estimated computing time; none where nothing like it was ever measured.
        shares_pass: whether the results come from the pass of another stage, at no cost of their
            own; that stage's name, or "".
        key: the name of the folder; "" where it is not known yet.
        note: a sentence without its full stop on what the stage would find changed, or "".
    """

    stage: str
    split: str
    images: int | None = None
    cached: int | None = None
    to_compute: int | None = None
    after: str = ""
    is_most: bool = False
    seconds: float | None = None
    shares_pass: str = ""
    key: str = ""
    note: str = ""


def plan(steps: Sequence[Stage | Review], images: Images, store: Store) -> Iterator[PlannedStage]:
    """Yields what each step would do, in the order of the run.

    Raises:
        UserError: what would stop the run, such as a missing input; the steps before it were
            yielded.
    """
    scans: dict[str, Scan] = {}
    served: dict[str, str] = {}
    commands, folders = {step.command for step in steps}, store.folders()
    for step in steps:
        if isinstance(step, Review):
            step.refuse_nothing(commands)
            yield PlannedStage(step.command, _in_round("", step.round))
        elif step.applies():
            scans[step.label] = scan(step, images, store, scans)
            row = _row(scans[step.label], served.get(step.label, ""), folders)
            yield replace(row, note=step.outlook()) if isinstance(step, Learned) else row
            served |= {each.label: step.name for each in step.serves}


def _row(found: Scan, shares_pass: str, folders: Sequence) -> PlannedStage:
    stage, folder, pending = found.stage, found.folder, len(found.pending)
    timed = len(found.missing) if shares_pass else pending
    settings = folder.configuration if folder else stage.expected
    return PlannedStage(
        stage=stage.shown,
        split=_in_round(stage.where, stage.round),
        images=len(found.samples),
        cached=len(found.usable) - pending if folder else None,
        to_compute=pending,
        after=found.after,
        is_most=folder is None or any(i in folder.entries for i in found.waiting),
        seconds=estimate(stage, settings, timed, folders),
        shares_pass=shares_pass if found.waiting and not found.missing else "",
        key=folder.key if folder else "",
    )


def _in_round(where: str, number: int) -> str:
    return ", ".join(filter(None, (where, f"round {number}" if number > 1 else "")))


def estimate(
    stage: Stage, settings: Mapping[str, Any], images: int, folders: Sequence[tuple[Path, Mapping]]
) -> float | None:
    """Returns how many seconds a stage would take, by the last run like it; none without one.

    Runs are alike in the settings that :attr:`Stage.decisive` names. The manifests of ``folders``,
    which :meth:`Store.folders` returns, tell their times.
    """
    if not images:
        return 0.0
    wanted = _decisive(stage, settings)
    for _, manifest in reversed(folders):
        measured = manifest.get("configuration", {})
        if manifest.get("stage") == stage.name and _decisive(stage, measured) == wanted:
            seconds = stage.estimate(manifest, images)
            if seconds is not None:
                return seconds
    return None


def _decisive(stage: Stage, settings: Mapping[str, Any]) -> list[Any]:
    values = []
    for path in stage.decisive:
        value: Any = settings
        for name in path.split("."):
            value = value.get(name) if isinstance(value, Mapping) else None
        values.append(value)
    return values
