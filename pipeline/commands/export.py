"""The command line of ``tools/export.py``.

A format is an entry of :data:`_FORMATS`, with a function that writes it.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

from pipeline.commands.command_line import Parser, check_folder, print_notes
from pipeline.engine.kinds import measured_kinds
from pipeline.errors import UserError
from pipeline.exchange.artefacts import Artefact, Export
from pipeline.exchange.formats.clip_es import export_clip_es
from pipeline.exchange.formats.coco import export_coco
from pipeline.exchange.formats.label_images import HuggingFace, Mmsegmentation, Voc
from pipeline.exchange.formats.label_studio import export_label_studio
from pipeline.exchange.formats.polygons import Labelme, Yolo


def run(arguments: Sequence[str]) -> None:
    """Exports a stage's folder."""
    title = "Writes CAMs, masks or predictions in the formats of other programs."
    parser = Parser("export.py", title)
    add = parser.add_argument
    stage = f"<output_dir>/<split>/<{'|'.join(_stages('tags', 'cams', *_LABELS))}>/<key or latest>"
    add("folder", type=Path, metavar="FOLDER", help=f"a finished stage: {stage}")
    add("--format", required=True, choices=sorted(_FORMATS), help="the format to write, see below")
    output = f"a folder; for {' and '.join(_FILES)}, the JSON file"
    add("--output", required=True, type=Path, metavar="DEST", help=output)
    add("--images", type=Path, metavar="DIR", help="the folder with the images")
    components = f"{_having('components')}: an annotation for each connected component of a class"
    add("--components", action="store_true", help=components)
    link = f"{_having('link')}: symbolic links to images instead of copies"
    add("--link", action="store_true", help=link)
    grey = f"{_having('grey')}: masks as grey PNGs, for programs that read a palette's colours"
    add("--grey", action="store_true", help=grey)
    prefix = f"{_having('prefix')}: the path of DIR below Label Studio's document root, as photos/"
    add("--prefix", default="", metavar="PATH", help=prefix)
    area = f"{_having('min_area')}: leave out components of fewer pixels; default: 0"
    add("--min-area", type=int, default=0, metavar="N", help=area)
    tolerance = f"{_having('tolerance')}: simplify outlines by at most N pixels; default: 0"
    add("--tolerance", type=float, default=0, metavar="N", help=tolerance)
    options = parser.parse_args(arguments)
    if not (options.min_area >= 0 and options.tolerance >= 0):  # the tolerance may be NaN
        raise UserError("--min-area and --tolerance cannot be negative: leave them out, or give 0")
    artefact = Artefact(options.folder)
    held, export_as, allowed = _FORMATS[options.format]
    if artefact.kind.holds not in held:
        raise UserError(
            f"{options.folder} holds {artefact.kind.stage}, and --format {options.format} is for"
            f" {' and '.join(_stages(*held))}: give such a folder or another format"
        )
    given = vars(options)
    for name, value in given.items():
        if value and name not in allowed and (formats := _having(name)):
            option = f"--{name.replace('_', '-')}"
            raise UserError(f"{option} is for --format {formats}: leave it out")
    if options.images is not None:
        check_folder(options.images, "--images", "the one that holds them")
    elif "link" in allowed:
        raise UserError(f"--format {options.format} needs images: give their folder, --images")
    is_json = options.output.suffix.lower() == ".json" and not options.output.is_dir()
    if options.format in _FILES and not is_json:
        raise UserError(
            f"--output {options.output} is not a JSON file: give one such as annotations.json"
        )
    if "link" in allowed and options.output.resolve().is_relative_to(options.images.resolve()):
        raise UserError(f"--output {options.output} is in the folder of the images: give another")
    if not artefact.entries:
        raise UserError(f"{artefact.path} holds no image: run stage={artefact.kind.stage} first")
    export = export_as(artefact, options.output, **{name: given[name] for name in allowed})
    if options.images is None and "images" in allowed:
        export.notes.append("file names end in .jpg: --images takes the suffixes of the images")
    print_notes(export.notes)
    print(f"{export.written} {artefact.kind.stage} written to {options.output}")
    remedy = "could not be exported: fix those that are named above"
    export.refuse_left_out(f"of {len(artefact.entries)} images {remedy}")


def _stages(*held: str) -> list[str]:
    return [stage for stage, kind in measured_kinds().items() if kind.holds in held]


def _having(option: str) -> str:
    return ", ".join(name for name, (_, _, names) in _FORMATS.items() if option in names)


# What a format can hold of an image, see pipeline.engine.kinds.Kind; what writes it, to a file or a
# folder; and the options of the command line that this takes. What copies images cannot do without.
_LABELS = ("masks", "labels")
_LABEL_IMAGES, _POLYGONS = ("images", "link", "grey"), ("images", "link", "min_area", "tolerance")
_FILES = ("coco", "label_studio")
_FORMATS: dict[str, tuple[tuple[str, ...], Callable[..., Export], tuple[str, ...]]] = {
    "clip_es": (("cams",), export_clip_es, ()),
    "coco": (_LABELS, export_coco, ("images", "components")),
    "hugging_face": (_LABELS, HuggingFace.export, _LABEL_IMAGES),
    "label_studio": (("tags", *_LABELS), export_label_studio, ("images", "prefix")),
    "labelme": (_LABELS, Labelme.export, _POLYGONS),
    "mmsegmentation": (_LABELS, Mmsegmentation.export, _LABEL_IMAGES),
    "voc": (_LABELS, Voc.export, _LABEL_IMAGES),
    "yolo": (_LABELS, Yolo.export, _POLYGONS),
}
