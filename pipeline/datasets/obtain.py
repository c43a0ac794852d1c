"""Downloads files and unpacks archives of data sets, and keeps a note of what was unpacked."""

from dataclasses import dataclass, replace
from pathlib import Path

from pipeline.datasets.sources import Archive
from pipeline.engine.progress import track_bytes
from pipeline.files.archives import UnusableArchive, unpack
from pipeline.files.atomic import cannot_write, remove_abandoned, write_atomically
from pipeline.files.download import STATE, Source, fetch, kept_bytes, size_text
from pipeline.files.hugging_face import with_checksum
from pipeline.files.lock import FolderLock


@dataclass(frozen=True)
class DownloadTask:
    """A file to download."""

    source: Source
    path: Path  # where it is stored; an archive is deleted there after it was unpacked
    licence: str  # its licence, in a few words
    archive: Archive | None = None  # how it is unpacked; none if it is not
    target: Path | None = None  # the folder into which it is unpacked

    @property
    def note(self) -> Path:
        """The file that says that an archive was unpacked."""
        return self.path.with_name(self.path.name + ".done")

    @property
    def is_done(self) -> bool:
        """Whether it was downloaded, and unpacked."""
        return (self.note if self.archive else self.path).exists()

    def describe(self) -> str:
        """Returns lines on its size, checksum and licence, where it is and where it goes."""
        source = self.source
        kept = kept_bytes(self.path)
        state = f"{size_text(kept)} here" if kept else "missing"
        state = "already there" if self.is_done else state
        checked = source.algorithm or "no checksum published here"
        return (
            f"{source.name}  {size_text(source.stated)}, {state}; {checked}\n"
            f"    licence: {self.licence}\n    {source.urls[0]}\n    → {self.target or self.path}"
        )


def obtain(item: DownloadTask, wait: float) -> Path | None:
    """Downloads, verifies and unpacks a file unless that was done before, and says so.

    It returns the file, or the folder into which it was unpacked, or None if an optional file is
    not published. It waits ``wait`` seconds for another process that downloads to the same folder.
    Raises a UserError if the file cannot be had or stored, or is not the published one, which is
    then deleted; or if another process downloads to the same folder.
    """
    if (source := with_checksum(item.source)) is None:
        print(f"{item.source.name} is not published, and not required")
        return None
    item = replace(item, source=source, path=item.path.with_name(source.name))
    folder = item.path.parent if item.archive else item.path.parent / STATE
    lock = FolderLock(folder, wait)
    try:
        if not item.is_done:
            folder.mkdir(parents=True, exist_ok=True)
            lock.acquire()
        remove_abandoned(item.path.parent)
        if item.archive and item.is_done:  # perhaps by a process that this one waited for
            item.path.unlink(missing_ok=True)  # it stayed if that process was killed
            print(f"{item.source.name} was unpacked before: to repeat it, delete {item.note}")
            return item.target
        with track_bytes(item.source.name) as show:
            copies = 2 if item.archive else 1  # what comes out is at least as large
            fetch(item.source, item.path, lambda *n: lock.check() or show(*n), copies)
        if item.archive is None:
            print(f"{item.source.name} is stored as {item.path}  (licence: {item.licence})")
            return item.path
        total = item.path.stat().st_size
        try:
            with track_bytes(f"unpacking {item.source.name}") as show:
                inside, report = item.archive.inside, lambda n: lock.check() or show(n, total)
                count = unpack(item.path, item.target, inside, report)
        except UnusableArchive:
            item.path.unlink()
            raise
        write_atomically(item.note, f"{item.source.urls[0]}\n")
        item.path.unlink(missing_ok=True)
        print(f"{item.source.name}: {count} files in {item.target}  (licence: {item.licence})")
        return item.target
    except OSError as error:
        raise cannot_write(error.filename or item.path, error) from error
    finally:
        lock.release()
