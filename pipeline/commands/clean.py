"""The command line of ``tools/clean.py``: says what it would free, asks, removes."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.filesize import decimal
from rich.table import Table

from pipeline.commands.command_line import Parser
from pipeline.engine.cleaning import Removable, find_removable, find_temporary, remove
from pipeline.engine.store import Store
from pipeline.errors import UserError
from pipeline.report.status import describe

_EXAMPLES = """examples:
  python tools/clean.py outputs/demo                 says what would go, and asks
  python tools/clean.py outputs/demo --dry-run       says it, and removes nothing
  python tools/clean.py outputs/demo --yes           does not ask
  python tools/clean.py outputs/demo --unfinished    also runs that were stopped, which could go on
"""


def run(arguments: Sequence[str]) -> None:
    """Removes what no latest run refers to.

    Raises:
        UserError: there is no such folder, or nobody is there to be asked.
    """
    parser = Parser(
        "clean.py",
        "Removes results that no latest run refers to: of other configurations, of older ones."
        " Figures in metrics.json stay.",
        _EXAMPLES,
    )
    parser.add_argument("output_dir", type=Path, help="as in outputs/demo")
    parser.add_argument("--yes", action="store_true", help="do not ask")
    parser.add_argument("--dry-run", action="store_true", help="remove nothing")
    parser.add_argument(
        "--unfinished", action="store_true", help="also runs that were stopped, which could go on"
    )
    options = parser.parse_args(arguments)
    root = options.output_dir.expanduser().absolute()
    if not root.is_dir():
        raise UserError(f"{options.output_dir} is no folder: give an output_dir, as outputs/demo")
    store = Store(root)
    found = find_removable(store)
    chosen = [folder for folder in found if options.unfinished or not folder.is_unfinished]
    temporary = find_temporary(store)
    console = Console(soft_wrap=True, highlight=False)
    if skipped := len(found) - len(chosen):
        console.print(f"{skipped} of unfinished runs stay; --unfinished removes them, too")
    if not chosen and not temporary:
        console.print(f"nothing to remove below {root}")
        return
    Console(width=max(console.width, 140)).print(_table(chosen, root))
    total = sum(f.size for f in chosen) + sum(path.stat().st_size for path in temporary)
    halves = f" and {len(temporary)} unfinished files" if temporary else ""
    console.print(f"{len(chosen)} folders{halves}, {decimal(total)}")
    if options.dry_run:
        return
    if not options.yes and not _agreed():
        console.print("nothing was removed")
        return
    busy = 0
    for path in temporary:
        path.unlink(missing_ok=True)
    for folder in chosen:
        try:
            remove(folder)
        except UserError as error:
            busy += 1
            print(f"left alone: {error}", file=sys.stderr)
        except OSError as error:
            raise UserError(f"cannot remove {error.filename}: {error.strerror}") from error
    console.print(f"{len(chosen) - busy} folders removed")


def _agreed() -> bool:
    if not sys.stdin.isatty():
        raise UserError("nobody is there to be asked: give --yes to remove these, or --dry-run")
    return input("remove them? [y/N] ").strip().lower() in ("y", "yes")


def _table(folders: Sequence[Removable], root: Path) -> Table:
    table = Table()
    for column in ("folder", "images", "size", "finished", "what"):
        table.add_column(column, justify="right" if column in ("images", "size") else "left")
    for folder in folders:
        manifest = folder.manifest
        table.add_row(
            folder.path.relative_to(root).as_posix(),
            str(manifest.get("images", "–")),
            decimal(folder.size),
            "no" if folder.is_unfinished else manifest["finished"][:16].replace("T", " "),
            describe(manifest.get("configuration", {})),
        )
    return table
