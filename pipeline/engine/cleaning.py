"""Finds and removes folders that no current result depends on."""

import shutil
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from pipeline.engine.folder import ENTRIES, FAILURES, LATEST, REMOVED, key_of
from pipeline.engine.result_folder import files_of, read_manifest, remove_files
from pipeline.engine.store import Store, read_kept
from pipeline.errors import UserError
from pipeline.files.atomic import TEMPORARY, canonical_json, read_json_lines
from pipeline.files.journal import Journal
from pipeline.files.lock import FolderLock


def find_removable(store: Store) -> list[tuple[Path, dict]]:
    """Returns the folders that no current result depends on, each with its manifest, oldest first.

    Those stay to which ``latest`` points, the folders that they were made from by their
    configuration, and the folders that accompany one of these for comparison.
    """
    folders = store.folders()
    latest = {
        link.resolve()
        for pattern in (f"*/{LATEST}", f"*/*/{LATEST}")
        for link in store.root.glob(pattern)
    }
    kept = [manifest for path, manifest in folders if path.resolve() in latest]
    needed = {key for manifest in kept for key in _keys_in(manifest.get("configuration", {}))}
    needed |= {
        path.name for path, manifest in folders if needed & {*manifest.get("accompanies", ())}
    }
    return [
        (path, manifest)
        for path, manifest in folders
        if path.name not in needed and path.resolve() not in latest
    ]


def _keys_in(configuration: Mapping[str, Any]) -> Iterator[str]:
    """Yields the key of a configuration, and of every configuration within it."""
    yield key_of(configuration)
    for value in configuration.values():
        if isinstance(value, Mapping):
            yield from _keys_in(value)


def remove(store: Store, folder: Path, manifest: Mapping[str, Any]) -> None:
    """Removes a stage's folder, unless a run is writing to it, or wrote to it or needs it by now.

    ``manifest`` is the one that :func:`find_removable` gave.

    Raises:
        UserError: another process holds its lock, or it is not as it was.
        OSError: it cannot be removed.
    """
    lock = FolderLock(folder)
    lock.acquire()
    try:
        if (folder, manifest) not in find_removable(store):
            raise UserError(f"{folder} was used by a run in the meantime")
        shutil.rmtree(folder)
    finally:
        lock.release()


def find_orphans(folder: Path) -> dict[str, list[Path]]:
    """Returns id → files, of results that no stage reads.

    They are of images that the data set no longer has, or that an earlier stage skipped.
    """
    entries, split = Journal(folder / ENTRIES).entries, folder.parents[1]
    keys = _keys_in(read_manifest(folder).get("configuration", {}))
    names = [(key, name) for key in keys for name in (FAILURES, REMOVED)]
    lists = [folder / REMOVED, *(p for key, name in names for p in split.glob(f"*/{key}/{name}"))]
    gone = {line["id"] for path in lists for line in read_json_lines(path)}
    return {i: files_of(folder, entries[i]) for i in sorted(gone & entries.keys())}


def remove_orphans(folder: Path) -> int:
    """Removes the results that :func:`find_orphans` returns; returns the number of images.

    Raises:
        UserError: another process holds the folder's lock, or a file cannot be removed.
    """
    lock = FolderLock(folder)
    lock.acquire()
    try:
        journal, orphans = Journal(folder / ENTRIES), find_orphans(folder)
        for image_id in orphans:
            remove_files(folder, journal.entries.pop(image_id))
        journal.compact()
        (folder / REMOVED).unlink(missing_ok=True)
        return len(orphans)
    finally:
        lock.release()


def find_unused_arrays(store: Store, removed: Collection[Path]) -> list[Path]:
    """Returns text embeddings, also damaged ones, that no folder but those ``removed`` needs."""
    kept = [canonical_json(facts) for path, facts in store.folders() if path not in removed]
    unused = []
    for path in store.root.glob(f"text/{'[0-9a-f]' * 16}.*"):
        with suppress(Exception):  # damaged files raise anything
            words = [canonical_json(word) for word in read_kept(path)[1]]
            if any(all(word in settings for word in words) for settings in kept):
                continue
        unused.append(path)
    return unused


def find_temporary(store: Store) -> list[Path]:
    """Returns temporary files of killed runs outside of the stages' folders."""
    folders = [path for path, _ in store.folders()]
    return [
        path
        for path in store.root.rglob(f"{TEMPORARY}*")
        if not any(path.is_relative_to(folder) for folder in folders)
    ]
