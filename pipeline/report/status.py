"""What is cached below ``output_dir``, and how much of it is there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.filesize import decimal
from rich.table import Table

from pipeline.engine.store import ENTRIES, Store, folder_size, is_complete
from pipeline.files.journal import Journal

COLUMNS = ("split", "stage", "key", "done", "left out", "size", "seconds", "finished", "what")


def status_table(store: Store) -> Table:
    """Returns a table with a row for every key, oldest first; unfinished ones say how far."""
    table = Table(title=str(store.root))
    for column in COLUMNS:
        table.add_column(column, justify="right" if column in COLUMNS[3:7] else "left")
    for path, manifest in store.folders():
        finished = is_complete(manifest)
        split = path.parent.parent.relative_to(store.root).as_posix()
        table.add_row(
            "–" if split == "." else split,
            path.parent.name,
            path.name,
            str(manifest.get("images", "–")) if finished else _progress(path, manifest),
            str(manifest.get("left_out", "–")),
            decimal(folder_size(path)),
            f"{manifest.get('seconds', 0):.0f}",
            manifest["finished"][:16].replace("T", " ") if finished else "no",
            describe(manifest.get("configuration", {})),
        )
    return table


def _progress(path: Path, manifest: Mapping) -> str:
    """Says how many images an unfinished stage has, and of how many."""
    return f"{len(Journal(path / ENTRIES).entries)} of {manifest.get('images', '?')}"


def describe(configuration: dict) -> str:
    """Says in a few words which choices a configuration holds, from its last stage to its first."""
    words: Sequence[tuple[str, str]] = (("name", ""), ("seed", "seed "), ("method", ""))
    found = [
        f"{label}{configuration[key]}" for key, label in words if configuration.get(key) is not None
    ]
    inner = [
        describe(configuration[key])
        for key in ("segmenter", "masks", "cams", "tags")
        if isinstance(configuration.get(key), dict)
    ]
    if configuration.get("masks") == "ground truth":
        inner.append("ground truth")
    return ", ".join(part for part in (*found, *inner) if part)
