"""Finds and removes folders that no current result depends on."""

import shutil
from collections.abc import Collection, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from pipeline.engine.records import ENTRIES, LATEST, files_of, remove_files
from pipeline.engine.results import FAILURES, REMOVED, Results
from pipeline.engine.store import Store, read_kept
from pipeline.errors import UserError
from pipeline.files.atomic import TEMPORARY, canonical_json, is_stale
from pipeline.files.journal import Journal
from pipeline.files.lock import FolderLock


def find_removable(store: Store) -> list[tuple[Path, dict]]:
    """Returns the folders that no current result depends on, each with its manifest, oldest first.

    What ``latest`` points to stays, with other results of the same runs, such as earlier rounds,
    and what they were made from. So do folders whose manifests do not say what they were made from.
    """
    folders = store.folders()
    links = (link for depth in ("*", "*/*") for link in store.root.glob(f"{depth}/{LATEST}"))
    latest = [Results(link.resolve()) for link in links]
    runs = {result.manifest.get("run") for result in latest}
    complete = ((path, manifest) for path, manifest in folders if manifest.get("complete"))
    rounds = (Results(path) for path, manifest in complete if manifest.get("run") in runs)
    needed = {each.path.name for result in (*latest, *rounds) for each in result.chain}
    return [(path, m) for path, m in folders if "made_from" in m and path.name not in needed]


def remove(store: Store, folder: Path, manifest: Mapping[str, Any]) -> None:
    """Removes a stage's folder, unless a run is writing to it, or wrote to it or needs it by now.

    ``manifest`` is the one that :func:`find_removable` gave. Raises a UserError if another process
    holds the lock or the folder is not as it was, and an OSError if it cannot be removed.
    """
    with FolderLock(folder):
        if (folder, manifest) not in find_removable(store):
            raise UserError(f"{folder} was used by a run in the meantime")
        shutil.rmtree(folder)


def find_orphans(folder: Path) -> dict[str, list[Path]]:
    """Returns id → files of results that none reads: of images since removed, or skipped before."""
    result = Results(folder)
    orphans = result.listed(FAILURES, REMOVED) & result.entries.keys()
    return {i: files_of(folder, result.entries[i]) for i in sorted(orphans)}


def remove_orphans(folder: Path) -> int:
    """Removes the results that :func:`find_orphans` returns; returns the number of images.

    Raises a UserError if another process holds the folder's lock, or a file cannot be removed.
    """
    with FolderLock(folder):
        journal, orphans = Journal(folder / ENTRIES), find_orphans(folder)
        for image_id in orphans:
            remove_files(folder, journal.entries.pop(image_id))
        journal.compact()
        (folder / REMOVED).unlink(missing_ok=True)
        return len(orphans)


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
    stale = filter(is_stale, store.root.rglob(f"{TEMPORARY}*"))
    return [path for path in stale if not any(map(path.is_relative_to, folders))]
