"""The command line of ``tools/make_tables.py``."""

from collections.abc import Sequence
from pathlib import Path

from pipeline.commands.command_line import Parser, print_notes
from pipeline.configuration.plugins import import_plugins
from pipeline.errors import UserError
from pipeline.files.own_files import OwnFiles
from pipeline.report.tables.beside_published import write_comparison
from pipeline.report.tables.eight import write_eight
from pipeline.report.tables.leaderboard import write_leaderboard
from pipeline.report.tables.published import load_published
from pipeline.report.tables.runs import METRICS, find_files, read_runs
from pipeline.report.tables.study import write_study

OUTPUTS = Path("outputs")
_TABLES = OUTPUTS / "tables.md"
_INTRODUCTION = (
    "# The field's tables\n\n"
    "Published metrics are those of their sources, which are numbered below each table; we measured"
    " none of them. Our rows give the number of images if it differs from the published split, and"
    ' the notes below a table where they are from. "Latest of N" means that N settings were run;'
    " `--study EXPERIMENT` shows them all. `tools/make_tables.py` writes this file.\n"
)


def run(arguments: Sequence[str]) -> None:
    """Prints and writes the tables that the arguments ask for."""
    title = "Writes tables of the published results, with yours beside them."
    parser = Parser("make_tables.py", title)
    places = f"more result folders, or {METRICS} files ({OUTPUTS}/ is always included)"
    parser.add_argument("places", nargs="*", type=Path, metavar="PATH", help=places)
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--study", metavar="NAME", help="write only the table of this experiment")
    leaderboard = "write only a ranking of combinations of methods on the same images"
    mode.add_argument("--leaderboard", action="store_true", help=leaderboard)
    mode.add_argument("--eight", action="store_true", help="write only the papers' eight sets")
    splits = "with --leaderboard: mean and standard deviation over these splits"
    parser.add_argument("--splits", default="", metavar="A,B", help=splits)
    output = f"the file to write; default: {_TABLES}; with the options above, none"
    parser.add_argument("--output", type=Path, metavar="FILE", help=output)
    options = parser.parse_args(arguments)
    splits = [*dict.fromkeys(filter(None, map(str.strip, options.splits.split(","))))]
    if splits and not options.leaderboard:
        raise UserError("--splits requires --leaderboard")
    if options.output is not None and options.output.is_dir():
        raise UserError(f"--output {options.output} is a folder: give the name of a file in it")
    runs, problems = read_runs(find_files([*filter(Path.is_dir, [OUTPUTS]), *options.places]))
    print_notes(problems)
    import_plugins([])
    output = options.output
    if options.leaderboard:
        text = write_leaderboard(runs, splits)
    elif options.eight:
        text = write_eight(runs)
    elif options.study is not None:
        text = write_study(options.study, runs)
    else:
        sections = [write_comparison(table, runs) for table in load_published()]
        text = "\n".join([_INTRODUCTION, *sections])
        output = output or _TABLES
    if output is not None:
        OwnFiles(output.parent, "make_tables.py").write(output, text)
    print(text, end="" if output is None else f"\nwritten to {output}\n")
