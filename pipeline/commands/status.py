"""Tables in a terminal: what is cached below ``output_dir``, and what a run would compute."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.filesize import decimal
from rich.table import Column, Table

from pipeline.engine.records import ENTRIES, finished_at
from pipeline.engine.store import folder_size
from pipeline.files.journal import Journal
from pipeline.report.tables.configurations import describe_choices, distinguish, readable

if TYPE_CHECKING:
    from pipeline.engine.plan import PlannedStage


def numbers(*names: str) -> list[Column]:
    """Returns columns of numbers, which are aligned right."""
    return [Column(name, justify="right") for name in names]


def status_table(root: Path, folders: Sequence[tuple[Path, Mapping]]) -> Table:
    """Returns a table with a row for every key, oldest first; unfinished ones say how far.

    Each names its choices, and the settings in which it differs from others of its stage and split.
    The ``folders`` below ``root`` come with their manifests.
    """
    counts = numbers("done", "left out", "size", "seconds")
    table = Table("split", "stage", "key", *counts, "finished", "what", title=str(root))
    differing: dict[Path, str] = {}
    for place in {path.parent for path, _ in folders}:
        configurations = {
            path: readable(manifest.get("configuration", {}), manifest.get("legend", {}))
            for path, manifest in folders
            if path.parent == place
        }
        differing |= zip(configurations, distinguish([*configurations.values()]))
    for path, manifest in folders:
        done = manifest.get("images", "–")
        if not manifest.get("complete"):
            done = f"{len(Journal(path / ENTRIES).entries)} of {manifest.get('images', '?')}"
        split = path.parent.parent.relative_to(root).as_posix()
        choices = describe_choices(manifest.get("configuration", {}))
        table.add_row(
            "–" if split == "." else split,
            path.parent.name,
            path.name,
            str(done),
            str(manifest.get("left_out", "–")),
            decimal(folder_size(path)),
            f"{manifest.get('seconds', 0):.0f}",
            finished_at(manifest) or "no",
            ", ".join(filter(None, [choices, differing[path]])),
        )
    return table


def plan_table(planned: Sequence["PlannedStage"]) -> Table:
    """Returns a table with a row for every stage and split, in the order of the run."""
    counts = numbers("images", "cached", "to compute")
    title = "dry run: nothing is computed or written"
    table = Table("stage", "split", *counts, "folder key", title=title)
    for row in planned:
        table.add_row(
            row.stage,
            row.split or "–",
            *("–" if number is None else f"{number:,}" for number in (row.images, row.cached)),
            what_to_compute(row),
            row.key or (f"known after {row.after}" if row.after else "–"),
        )
    return table


def nothing_to_compute(planned: Sequence["PlannedStage"]) -> str:
    """Says why nothing is to be computed; "" where something is."""
    if any(row.to_compute for row in planned):
        return ""
    if any(row.cached is not None and row.cached < row.images for row in planned):
        return "nothing to compute: what is not in the cache is left out"
    return "nothing to compute: everything is in the cache"


def what_to_compute(row: "PlannedStage") -> str:
    """Says how many images a stage would compute, as "all, after tags" or "8, with tags"."""
    if row.to_compute is None:
        return "all results"
    if not row.to_compute:
        return "0"
    count = "all" if row.to_compute == row.images else f"{row.to_compute:,}"
    when = f", after {row.after}" if row.after else ""
    when = f", with {row.rides_with}" if row.rides_with else when
    return f"up to {count}{when}" if row.is_upper_bound else f"{count}{when}"
