"""The output directory: the folders of stages, and arrays that belong to no image."""

from __future__ import annotations

import errno
import io
import json
import os
import zipfile
from collections.abc import Callable, Iterable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING
from unicodedata import normalize

from pipeline.engine.records import read_manifest
from pipeline.errors import UserError, shown, tell
from pipeline.files.atomic import (
    TEMPORARY,
    is_stale,
    link_symbolically,
    read_json,
    write_atomically,
)
from pipeline.files.fingerprints import fingerprint
from pipeline.files.lock import LOCK

if TYPE_CHECKING:
    import numpy as np

FORMAT = 2
"""The version of the layout, in ``store.json``; others cannot be read."""

_FORMAT_FILE = "store.json"

_SUM, _ABOUT = "sum", "about"  # the names of what is beside an array


class Store:
    """The folders below ``output_dir``.

    Attributes:
        root: the output directory.
        wait: the seconds to wait for another run that writes to the same folder.
        began: when the run began, which manifests name.
    """

    def __init__(self, root: Path, wait: float = 0.0):
        """Checks the version of the layout.

        The directory need not exist. Raises a UserError if it is not a folder that can be read, or
        a version of this program with another layout wrote it.
        """
        if root.exists() and not root.is_dir():
            raise UserError(f"{root} is not a folder: choose another output_dir")
        if root.is_dir() and not os.access(root, os.R_OK | os.X_OK):  # else it would seem empty
            raise UserError(f"{root} cannot be read: ask its owner, or choose another output_dir")
        self.root, self.wait = root, wait
        self.began = datetime.now(UTC).isoformat(timespec="milliseconds")
        layout = (read_json(root / _FORMAT_FILE) or {}).get("format", FORMAT)
        if layout != FORMAT:
            age = "an older" if isinstance(layout, int) and layout < FORMAT else "a newer"
            raise UserError(
                f"{root} was written by {age} version of this program (format {layout}, this one"
                f" reads {FORMAT}): run it anew in another output_dir, or use that version"
            )

    def check(self, files: Iterable[str]) -> None:
        """Refuses a directory that cannot be written to, without writing to it.

        It is also refused if no run wrote to it yet, and one of the ``files`` that runs write is
        there: it is somebody else's.
        """
        place = next(path for path in (self.root, *self.root.parents) if path.exists())
        if not place.is_dir() or not os.access(place, os.W_OK | os.X_OK):
            is_read_only = os.statvfs(place).f_flag & os.ST_RDONLY
            number = errno.EROFS if is_read_only else errno.EACCES
            why = os.strerror(number if place.is_dir() else errno.ENOTDIR)
            raise UserError(f"cannot write to {self.root}: {why}; choose another output_dir")
        for name in () if (self.root / _FORMAT_FILE).exists() or self.folders() else files:
            if os.path.lexists(self.root / name):
                raise UserError(
                    f"{self.root / name} exists, and no run wrote it: choose another output_dir, or"
                    " move it away"
                )

    def begin(self, files: Iterable[str] = ()) -> None:
        """Begins a run: removes remains of killed runs, and records the version of the layout.

        Raises a UserError as :meth:`check`, or if the file system supports no symbolic links.
        """
        self.check(files)
        self.sweep_up()
        path = self.root / _FORMAT_FILE
        if read_json(path) is None:
            link_symbolically(path, _FORMAT_FILE)  # for a moment: stages will need such links
            write_atomically(path, json.dumps({"format": FORMAT}) + "\n")

    def refuse_equal_names(self, image_ids: Iterable[str]) -> None:
        """Raises a UserError for names that the disk takes for one, but for case or accents."""
        if not (self.root / _FORMAT_FILE.upper()).exists():
            return
        known: dict[str, str] = {}
        for image_id in image_ids:
            first = known.setdefault(normalize("NFC", image_id.casefold()), image_id)
            if first != image_id:
                raise UserError(
                    f"images {shown(first)} and {shown(image_id)} have one name on the disk of"
                    f" {self.root}, which does not distinguish capital letters: rename one of them,"
                    " or choose another output_dir"
                )

    def sweep_up(self) -> None:
        """Removes temporary files of killed processes, workers of this run included."""
        for pattern in ("", "*/", "*/*/"):  # a stage sweeps its own folder
            for path in self.root.glob(f"{pattern}{TEMPORARY}*"):
                if is_stale(path):
                    path.unlink(missing_ok=True)

    def array(self, key: str, make: Callable[[], np.ndarray], *about: str) -> np.ndarray:
        """Returns an array that is made once and kept in the folder ``text`` below the root.

        The file is an archive with a checksum of the array, its type and its shape. One that is
        damaged, or another's, is put aside with a sentence, and the array is made again.

        Args:
            key: the fingerprint of all that the array depends on.
            make: makes it.
            about: strings in the settings of every stage that uses it.
        """
        # A tenth of a second, which a look at folders need not take.
        import numpy as np

        path = self.root / "text" / f"{key}.npz"
        try:
            return read_kept(path)[0]
        except FileNotFoundError:
            pass
        except Exception as error:  # zipfile, zlib and numpy each have errors of their own
            aside = path.with_suffix(".damaged")
            with suppress(OSError):
                path.replace(aside)
            reason = type(error).__name__
            tell(f"note: {path} is damaged ({reason}): it is now {aside.name}, and made again")
        array = make()
        beside = {_SUM: _sum_of(array), _ABOUT: np.array(about, str)}
        write_atomically(path, encode_arrays(**{key: array}, **beside))
        return array

    def folders(self) -> list[tuple[Path, dict]]:
        """Returns every stage's folder with its manifest, which may be empty; oldest first."""
        folders = [
            (path, read_manifest(path))
            for pattern in ("*/*", "*/*/*")  # without a split, and with one
            for path in self.root.glob(pattern)
            if (path / LOCK).is_file() and not path.is_symlink()
        ]
        return sorted(folders, key=lambda f: f[1].get("finished") or f[1].get("began", ""))


def refuse_other_format(*places: Path) -> None:
    """Refuses output directories, or folders and files in them, as :class:`Store` does."""
    for folder in (each for place in places for each in (place, *place.resolve().parents[:3])):
        if (folder / _FORMAT_FILE).is_file():
            Store(folder)


def read_kept(path: Path) -> tuple[np.ndarray, list[str]]:
    """Returns an array that :meth:`Store.array` wrote, and ``about``; other files raise errors."""
    import numpy as np

    if path.exists() and not path.is_file():  # reading a pipe would block
        raise ValueError("it is not a file")
    with zipfile.ZipFile(path) as archive:
        # We compress nothing. What is compressed could take any amount of memory.
        if any(part.compress_type != zipfile.ZIP_STORED for part in archive.infolist()):
            raise ValueError("it is compressed")
    with np.load(path, allow_pickle=False) as kept:
        array, about = kept[path.stem], kept[_ABOUT].tolist()
        if str(kept[_SUM]) != _sum_of(array):
            raise ValueError("it is not what was written")
    return array, about


def _sum_of(array: np.ndarray) -> str:
    return fingerprint(array.tobytes(), str(array.dtype), list(array.shape))


def folder_size(path: Path) -> int:
    """Returns the bytes of all files below a folder."""
    return sum(f.stat().st_size for f in path.rglob("*") if f.is_file() and not f.is_symlink())


def encode_arrays(**arrays: np.ndarray) -> bytes:
    """Returns arrays by their names as a ``.npz`` file, which is not compressed."""
    import numpy as np

    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()
