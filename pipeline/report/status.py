"""What is cached: the complete stages below ``output_dir``."""

from __future__ import annotations

from collections.abc import Sequence

from rich.filesize import decimal
from rich.table import Table

from pipeline.store import Store, folder_size

COLUMNS = ("split", "stage", "key", "images", "left out", "size", "seconds", "finished", "what")


def status_table(store: Store) -> Table:
    """Returns a table with a row for every key that was ever complete, oldest first."""
    table = Table(title=str(store.root))
    for column in COLUMNS:
        table.add_column(column, justify="right" if column in COLUMNS[3:7] else "left")
    for path, manifest in store.manifests():
        table.add_row(
            manifest["split"] or "–",
            manifest["stage"],
            manifest["key"],
            str(manifest.get("images", "–")),
            str(manifest.get("left_out", "–")),
            decimal(folder_size(path)),
            f"{manifest.get('seconds', 0):.0f}",
            manifest["finished"][:16].replace("T", " "),
            describe(manifest["configuration"]),
        )
    return table


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
