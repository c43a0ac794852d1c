"""What has been computed: with its folders, the only code that writes below ``output_dir``."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from pipeline.engine.folder import ENTRIES, FAILURES, LATEST, MANIFEST, StageFolder
from pipeline.errors import UserError
from pipeline.files.atomic import TEMPORARY, is_stale, read_json, write_atomically
from pipeline.files.fingerprints import fingerprint
from pipeline.files.lock import LOCK

__all__ = [
    "ENTRIES",
    "FAILURES",
    "FORMAT",
    "LATEST",
    "MANIFEST",
    "StageFolder",
    "Store",
    "folder_size",
    "is_complete",
    "key_of",
]

FORMAT = 1
"""How folders are laid out; those of another number in ``store.json`` cannot be read."""

_FORMAT_FILE = "store.json"


class Store:
    """The folders below ``output_dir``."""

    def __init__(self, root: Path, wait: float = 0.0):
        """Finds what is there.

        Args:
            root: the output directory; it need not exist.
            wait: seconds to wait for another run that writes to the same folder.

        Raises:
            UserError: it was written by a version that lays folders out in another way.
        """
        self.root = root
        self._wait = wait
        found = (read_json(root / _FORMAT_FILE) or {}).get("format", FORMAT)
        if found != FORMAT:
            age = "an older" if isinstance(found, int) and found < FORMAT else "a newer"
            remedy = "take that version" if age == "an older" else "update this program"
            raise UserError(
                f"{root} was written by {age} version of this program (format {found}, this one"
                f" reads {FORMAT}): choose another output_dir, or {remedy}"
            )

    def folder(
        self,
        split: str,
        stage: str,
        configuration: Mapping,
        becomes_latest: bool = True,
        recipe: str = "",
    ) -> StageFolder:
        """Returns a stage's folder.

        Args:
            split: the split, or "" for a stage that has none.
            stage: the stage.
            configuration: what its result depends on.
            becomes_latest: whether ``latest`` points to it when it is complete.
            recipe: how results are computed from their inputs.
        """
        key = key_of(configuration)
        return StageFolder(
            self.root / split / stage / key,
            stage,
            split,
            key,
            configuration,
            becomes_latest,
            self._wait,
            recipe,
        )

    def begin(self) -> None:
        """Begins a run: removes what killed ones left, and writes down how folders are laid out."""
        self.sweep_up()
        path = self.root / _FORMAT_FILE
        if read_json(path) is None:
            write_atomically(path, json.dumps({"format": FORMAT}) + "\n")

    def sweep_up(self) -> None:
        """Removes halves of files of processes that were killed, this run's workers among them."""
        for pattern in ("", "*/", "*/*/"):  # stages look after their own folders
            for path in self.root.glob(f"{pattern}{TEMPORARY}*"):
                if is_stale(path):
                    path.unlink(missing_ok=True)

    def array(self, kind: str, key: str, make: Callable[[], np.ndarray]) -> np.ndarray:
        """Returns an array that does not belong to an image; it is made once and kept.

        Args:
            kind: the folder below the root.
            key: names all that the array depends on.
            make: computes it.
        """
        path = self.root / kind / f"{key}.npy"
        try:
            found = np.load(path, allow_pickle=False)
            if isinstance(found, np.ndarray):  # and no archive of several
                return found
        except (OSError, ValueError, EOFError, MemoryError):  # not there, or damaged
            pass
        buffer = io.BytesIO()
        np.save(buffer, made := make(), allow_pickle=False)
        write_atomically(path, buffer.getvalue())
        return made

    def manifests(self) -> list[tuple[Path, dict]]:
        """Returns the folder and manifest of every complete stage, oldest first."""
        return [(path, found) for path, found in self.folders() if is_complete(found)]

    def folders(self) -> list[tuple[Path, dict]]:
        """Returns every stage's folder with its manifest, which may be empty; oldest first."""
        found = [
            (path, read_json(path / MANIFEST) or {})
            for pattern in ("*/*", "*/*/*")  # without a split, and with one
            for path in self.root.glob(pattern)
            if (path / LOCK).is_file() and not path.is_symlink()
        ]
        return sorted(found, key=lambda f: f[1].get("finished") or f[1].get("began", ""))


def is_complete(manifest: Mapping) -> bool:
    """Tells whether a stage came to its end; earlier versions wrote no manifest before that."""
    return bool(manifest) and manifest.get("complete", True)


def key_of(configuration: Mapping) -> str:
    """Returns the name of the folder of what depends on a configuration."""
    return fingerprint(configuration)[:12]


def folder_size(path: Path) -> int:
    """Returns the bytes of all files below a folder."""
    return sum(f.stat().st_size for f in path.rglob("*") if f.is_file() and not f.is_symlink())
