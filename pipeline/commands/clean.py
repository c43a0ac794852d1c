"""The command line of ``tools/clean.py``: lists what it would remove, asks, removes."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.filesize import decimal
from rich.table import Table

from pipeline.commands.command_line import Parser, check_folder
from pipeline.commands.status import numbers
from pipeline.engine import cleaning
from pipeline.engine.records import finished_at
from pipeline.engine.store import Store, folder_size
from pipeline.errors import UserError, tell
from pipeline.files.text import given_path
from pipeline.report.tables.configurations import describe_choices


def run(arguments: Sequence[str]) -> None:
    """Removes folders that no current result depends on."""
    parser = Parser("clean.py", "Removes results that no current result depends on.")
    add = parser.add_argument
    add("output_dir", help="the folder of a run, such as outputs/demo")
    add("--yes", action="store_true", help="do not ask before removing")
    add("--dry-run", action="store_true", help="list what would be removed, and remove nothing")
    add("--unfinished", action="store_true", help="also remove runs that could be resumed")
    options = parser.parse_args(arguments)
    folder = given_path(options.output_dir or "''", "output_dir")
    check_folder(folder, "", "an output_dir such as outputs/demo")
    root = folder.absolute()
    store, console = Store(root), Console(soft_wrap=True, highlight=False)
    removable = dict(cleaning.find_removable(store))
    chosen = {
        path: (manifest, folder_size(path))
        for path, manifest in removable.items()
        if options.unfinished or manifest.get("complete")
    }
    kept = {path: manifest for path, manifest in store.folders() if path not in removable}
    orphans = {path: found for path in kept if (found := cleaning.find_orphans(path))}
    temporary = [*cleaning.find_temporary(store), *cleaning.find_unused_arrays(store, chosen)]
    if skipped := len(removable) - len(chosen):
        console.print(f"{skipped} unfinished runs stay; --unfinished removes them too")
    if unknown := sum("made_from" not in manifest for manifest in kept.values()):
        console.print(f"{unknown} folders stay, since they do not say what they were made from")
    if not chosen and not orphans and not temporary:
        console.print(f"nothing to remove below {root}")
        return
    if chosen:
        Console(width=max(console.width, 140)).print(_table(chosen, root))
    files = [file for found in orphans.values() for each in found.values() for file in each]
    total = sum(size for _, size in chosen.values())
    total += sum(path.lstat().st_size for path in [*temporary, *filter(Path.is_file, files)])
    for folder, found in orphans.items():
        where = folder.relative_to(root).as_posix()
        console.print(f"{where}: results of {len(found)} images that were removed or left out")
    loose = f" and {len(temporary)} unfinished files or unused text embeddings" if temporary else ""
    console.print(f"{len(chosen)} folders{loose}, {decimal(total)}")
    if options.dry_run:
        return
    if not options.yes:
        if not sys.stdin.isatty():
            raise UserError(
                "there is no terminal to ask on: give --yes to remove these, or --dry-run"
            )
        if input("remove them? [y/N] ").strip().lower() not in ("y", "yes"):
            console.print("nothing was removed")
            return
    for path in temporary:
        path.unlink(missing_ok=True)
    removed = images = 0
    for folder in (*chosen, *orphans):
        try:
            if folder in orphans:
                images += cleaning.remove_orphans(folder)
            else:
                cleaning.remove(store, folder, chosen[folder][0])
                removed += 1
        except UserError as error:
            tell(f"not removed: {error}")
        except OSError as error:
            raise UserError(f"cannot remove {error.filename}: {error.strerror}") from error
    more = f", and results of removed images: {images}" if orphans else ""
    console.print(f"{removed} folders removed{more}")


def _table(folders: Mapping[Path, tuple[Mapping, int]], root: Path) -> Table:
    table = Table("folder", *numbers("images", "size"), "finished", "what")
    for path, (manifest, size) in folders.items():
        table.add_row(
            path.relative_to(root).as_posix(),
            str(manifest.get("images", "–")),
            decimal(size),
            finished_at(manifest) or "no",
            describe_choices(manifest.get("configuration", {})),
        )
    return table
