"""What a run would compute, found out without computing or writing anything."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from pipeline.datasets.scenes import load_recipe
from pipeline.planning.planned_round import PlannedRound
from pipeline.planning.planned_stage import PlannedStage
from pipeline.project import Project
from pipeline.rounds import rounds_of


@contextmanager
def without_writing(config: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Gives a configuration under which reading a data set leaves nothing behind.

    Masks that have to be drawn, and the demo's scenes where they were never rendered, go to a
    temporary folder.

    Args:
        config: the whole configuration, as plain dictionaries.
    """
    dataset = config["dataset"]
    with TemporaryDirectory() as folder:
        changes = {"cache": str(Path(folder) / "masks")}
        if dataset["name"] == "demo" and not _is_rendered(dataset):
            changes["root"] = str(Path(folder) / "scenes")
        yield {**config, "dry_run": True, "dataset": {**dataset, **changes}}


def _is_rendered(dataset: Mapping[str, Any]) -> bool:
    recipe = load_recipe()
    root = Path(dataset["root"]).expanduser() / f"v{recipe['version']}"
    return all(
        (root / split / f"{index:05d}.json").is_file()
        for split, count in recipe["splits"].items()
        for index in range(min(count, dataset["limit"] or count))
    )


def plan(project: Project, stages: Sequence[str]) -> Iterator[PlannedStage]:
    """Yields what each of some stages would do for each split, in the order of the run.

    Args:
        project: what would be worked on, of a configuration of :func:`without_writing`.
        stages: in their order.

    Raises:
        UserError: what the run would end with, as a missing input of a stage that is not among
            them; what comes before it was yielded.
    """
    before = None
    *earlier, last = rounds_of(project)
    for one in (*earlier, last):
        before = PlannedRound(one, stages, before)
        for stage in stages:
            if stage != "report" or one is last:
                yield from before.plan(stage)
