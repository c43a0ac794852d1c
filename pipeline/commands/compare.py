"""The command line of ``tools/compare.py``."""

from collections.abc import Sequence
from pathlib import Path

from pipeline.commands.command_line import Parser
from pipeline.datasets import load_dataset
from pipeline.datasets.demo import redirect_writes
from pipeline.engine.kinds import CAMS
from pipeline.engine.pool import count_cores
from pipeline.engine.sample import ImageReader
from pipeline.errors import UserError, check_choice, shown
from pipeline.exchange.exporting import Export
from pipeline.exchange.paired import Pair, pair_up
from pipeline.exchange.paired_page import write_page, write_tables
from pipeline.files.own_files import OwnFiles
from pipeline.stages.config import CONFIG, read_record

_EXAMPLES = """examples:
  python tools/compare.py outputs/folder
      the latest results against those before them, such as after tags were corrected
  python tools/compare.py outputs/first outputs/second
      prints the figures of both and their differences; comparison.html also shows the classes, the
      images that gained and lost most, and the tags that differ
  python tools/compare.py outputs/demo/val/masks/3c1d0a52b7e9 outputs/demo/val/masks/latest
      one stage with two settings; stage=status shows the folders
"""


def run(arguments: Sequence[str]) -> None:
    """Compares the two runs that the arguments name.

    Raises:
        UserError: they cannot be compared, or images could not be read.
    """
    parser = Parser("compare.py", "Compares two runs on the same images, A and B.", _EXAMPLES)
    add = parser.add_argument
    place = "an output directory, or <output_dir>/<split>/<stage>/<key or latest>"
    add("first", type=Path, metavar="A", help=place)
    latest = "as A; without it, the latest results of A are compared with those before them"
    add("second", nargs="?", type=Path, metavar="B", help=latest)
    page = "where to write the page; default: comparison.html"
    add("--output", type=Path, default="comparison.html", metavar="FILE", help=page)
    options = parser.parse_args(arguments)
    output = OwnFiles(options.output.parent, "compare.py")
    output.refuse_foreign([options.output])
    found = pair_up(options.first, options.second)
    first, other = found[0]
    a, b = options.first, options.second
    if b is None:
        a, b = first.path, other.path.resolve()
    settings, _ = read_record(first.root)
    record, pairs, problems, workers = first.root / CONFIG, [], {}, count_cores()
    names = [first.root.name, other.root.name] if first.root.name != other.root.name else [a, b]
    with redirect_writes(settings):  # the file does not say where anything is written
        dataset = load_dataset(settings, workers)
        if dataset.vocabulary.classes != first.classes:
            raise UserError(f"{record} has other classes than the results: run a stage there again")
        splits = [*dataset.splits]
        for both in found:
            check_choice(f"{record} has no split {both[0].split}", both[0].split, splits)
        for both in sorted(found, key=lambda both: splits.index(both[0].split)):
            samples = [s for s in dataset.splits[both[0].split] if s.id in both[0].entries]
            if lacking := both[0].entries.keys() - {sample.id for sample in samples}:
                raise UserError(
                    f"the data set of {record} lacks {len(lacking)} images of the results, such as"
                    f" {shown(min(lacking))}: run a stage there again, on all of them"
                )
            is_cams = both[0].kind is CAMS
            betas = [read_record(each.root)[1] if is_cams else None for each in both]
            pairs.append(Pair(*both, betas))
            pairs[-1].compare(samples, workers, problems)
        tables = write_tables(pairs)
        reader = ImageReader(first.apply_exif, settings.max_pixels)
        facts = {"A": a, "B": b, "dataset": settings.name}
        page = write_page([*map(str, names)], facts, pairs, tables, reader, workers, problems)
    output.write(options.output, page.encode("utf-8", "backslashreplace"))
    print("\n".join(table.markdown() for table in tables), f"written to {options.output}", sep="\n")
    Export(left_out=problems).refuse_left_out("images were left out: repair those listed above")
