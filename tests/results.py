"""Results as a run stores them, of stages that are no more than a name and their settings."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.engine.records import write_result
from pipeline.engine.results import Results
from pipeline.engine.store import Store
from pipeline.engine.writer import Writer
from pipeline.files.fingerprints import fingerprint


def open_writer(
    store: Store | Path,
    split: str,
    stage: str,
    settings: Mapping[str, Any],
    about: Mapping[str, Any] = {},
    run: str | None = None,
) -> Writer:
    """Returns what writes the results of a stage with some settings, in a run of some name."""
    store = store if isinstance(store, Store) else Store(store)
    store.began = run or store.began
    results = Results(store.root / split / stage / fingerprint(settings)[:12], split=split)
    return Writer(results, {**about, "configuration": settings}, store)


def write(
    writer: Writer,
    image_id: str,
    inputs: Mapping[str, str],
    files: Mapping[str, bytes] = {},
    **values: object,
) -> None:
    """Stores an image's result."""
    own_key = writer.results.own_key
    writer.adopt(write_result(writer.path, own_key, image_id, inputs, files, **values))
