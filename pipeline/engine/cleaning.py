"""Finds and removes folders that no current result depends on."""

from __future__ import annotations

import shutil
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from pipeline.engine.folder import ENTRIES, LATEST, REMOVED, key_of
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
    """Returns id → files, of the results of images that the data set no longer has."""
    entries, root = Journal(folder / ENTRIES).entries, folder.resolve()
    removed = {line["id"] for line in read_json_lines(folder / REMOVED)}
    return {
        image_id: [
            folder / name
            for name in entries[image_id].get("files", {})
            if (folder / name).resolve().is_relative_to(root)
        ]
        for image_id in sorted(removed & entries.keys())
    }


def remove_orphans(folder: Path) -> int:
    """Removes the results of images that the data set no longer has; returns their number.

    Raises:
        UserError: another process holds the folder's lock.
        OSError: a file cannot be removed.
    """
    lock = FolderLock(folder)
    lock.acquire()
    try:
        journal, orphans = Journal(folder / ENTRIES), find_orphans(folder)
        for image_id, files in orphans.items():
            for path in files:
                path.unlink(missing_ok=True)
                with suppress(OSError):  # other results are beside it
                    path.parent.rmdir()
            del journal.entries[image_id]
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
