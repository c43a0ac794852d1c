"""The command line of ``tools/compare.py``."""

from collections.abc import Sequence
from pathlib import Path

from pipeline.commands.command_line import Parser
from pipeline.datasets import load_dataset
from pipeline.datasets.demo import without_drawing
from pipeline.engine.pool import count_cores
from pipeline.engine.sample import ImageReader
from pipeline.errors import UserError, check_choice, shown, tell
from pipeline.exchange import paired_page
from pipeline.exchange.artefacts import Artefact, Export
from pipeline.exchange.chains import pair_up
from pipeline.exchange.paired import Pair
from pipeline.files.own_files import OwnFiles
from pipeline.stages.config import CONFIG, read_record


def run(arguments: Sequence[str]) -> None:
    """Compares the two runs that the arguments name."""
    title = "Measures two runs, A and B, on the same images, and compares them."
    parser = Parser("compare.py", title)
    add = parser.add_argument
    place = "an output directory, or <output_dir>/<split>/<stage>/<key or latest>"
    add("first", type=Path, metavar="A", help=place)
    latest = "as A; without B, the latest results of A are compared with the previous ones"
    add("second", nargs="?", type=Path, metavar="B", help=latest)
    page = "the page to write; default: comparison.html"
    add("--output", type=Path, default="comparison.html", metavar="FILE", help=page)
    splits = "the splits to compare; default: all that both runs have"
    add("--split", type=lambda text: text.split(","), metavar="A,B", help=splits)
    options = parser.parse_args(arguments)
    output = OwnFiles(options.output.parent, "compare.py")
    output.refuse_foreign([options.output])
    found = pair_up(options.first, options.second)
    for split in options.split or ():
        names = [*dict.fromkeys(a.split for a, _ in found)]
        check_choice(f"the two runs share no results of split {shown(split)}", split, names)
    if options.split:
        found = [pair for pair in found if pair[0].split in options.split]
    artefacts = [[Artefact(result.path) for result in pair] for pair in found]
    (first, other), problems, workers = artefacts[0], {}, count_cores()
    settings, measurement = read_record(first.root)
    record = first.root / CONFIG
    both = measurement, measurement if other.root == first.root else read_record(other.root)[1]
    pairs = [Pair(a, b, both) for a, b in artefacts]
    with without_drawing():  # the file does not say where anything is written
        dataset = load_dataset(settings, workers)
        if dataset.vocabulary.classes != first.classes:
            raise UserError(f"{record} has other classes than the results: run a stage there again")
        order = [*dataset.splits]
        for a, _ in artefacts:
            check_choice(f"{record} has no split {a.split}", a.split, order)
        pairs.sort(key=lambda pair: order.index(pair.a.split))
        for pair in pairs:
            pair.compare(dataset.splits[pair.a.split], workers, problems)
        differing = paired_page.find_settings(pairs)
        tables = paired_page.comparison_tables(pairs, differing)
        title = paired_page.describe_difference(differing)
        title = title or f"{first.root.name} and {other.root.name}"
        reader = ImageReader(first.apply_exif, settings.max_pixels)
        folders = {side: _name(chosen) for side, chosen in zip("AB", zip(*artefacts))}
        facts = {**folders, "dataset": settings.name}
        page = paired_page.comparison_page(title, facts, pairs, tables, reader, workers, problems)
    output.write(options.output, page.encode("utf-8", "backslashreplace"))
    print(*(f"{side}: {names}" for side, names in folders.items()), "", sep="\n")
    print("\n".join(table.markdown() for table in tables), f"written to {options.output}", sep="\n")
    for pair in pairs:
        if pair.others:
            what = f"{pair.a.kind.stage} of split {pair.a.split}"
            tell(
                f"note: {what}: {len(pair.images):,} images were compared; {pair.others:,} are in"
                " only one run, have another image there, or were removed"
            )
    Export(left_out=problems).refuse_left_out("images were left out: repair those listed above")


def _name(artefacts: Sequence[Artefact]) -> str:
    root = artefacts[0].root
    return f"{root}: {', '.join(str(a.path.relative_to(root)) for a in artefacts)}"
