"""What a dry run shows: a table of what would be computed."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from pipeline.engine.plan import PlannedStage
from pipeline.files.text import in_words

COLUMNS = ("stage", "split", "images", "cached", "to compute", "estimated time", "folder key")


def plan_table(planned: Sequence[PlannedStage]) -> Table:
    """Returns a table with a row for every stage and split, in the order of the run."""
    table = Table(title="dry run: nothing is computed or written")
    for column in COLUMNS:
        table.add_column(column, justify="right" if column in COLUMNS[2:6] else "left")
    for row in planned:
        table.add_row(
            row.stage,
            row.split or "–",
            _count(row.images),
            _count(row.cached),
            what_to_compute(row),
            _time(row),
            row.key or (f"known after {row.after}" if row.after else "–"),
        )
    return table


def total_time(planned: Sequence[PlannedStage]) -> str:
    """Returns the time of all stages, in words."""
    known = sum(row.seconds or 0 for row in planned)
    unmeasured = [row.stage for row in planned if row.to_compute and row.seconds is None]
    if not any(row.to_compute for row in planned):
        return "nothing to compute: everything is in the cache"
    if not unmeasured:
        return f"estimated time: {in_words(known)}"
    names = ", ".join(dict.fromkeys(unmeasured))
    if not known:
        return "estimated time: unknown, since nothing like it was measured here"
    return f"estimated time: {in_words(known)} without {names}, never measured here"


def what_to_compute(row: PlannedStage) -> str:
    """Says how many images a stage would compute, as "all, after tags"."""
    if row.to_compute is None:
        return "what there is"
    if not row.to_compute:
        return "0"
    count = "all" if row.to_compute == row.images else f"{row.to_compute:,}"
    after = f", after {row.after}" if row.after else ""
    return f"{'up to ' * row.is_most}{count}{after}"


def _count(number: int | None) -> str:
    return "–" if number is None else f"{number:,}"


def _time(row: PlannedStage) -> str:
    if not row.to_compute:
        return "–"
    if row.shares_pass:
        return f"with {row.shares_pass}"
    return "unknown" if row.seconds is None else in_words(row.seconds)
