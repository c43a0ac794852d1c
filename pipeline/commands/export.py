"""The command line of ``tools/export.py``.

A format is an entry of :data:`_FORMATS`, with a function that writes it.
"""

from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

from pipeline.cams.cams import read_cams
from pipeline.cams.clip_es_files import encode_clip_es
from pipeline.commands.command_line import Parser, check_folder
from pipeline.engine.kinds import measured_kinds
from pipeline.engine.result_folder import MANIFEST, read_manifest
from pipeline.errors import UserError, tell
from pipeline.exchange.artefacts import Artefact, Export, target_path
from pipeline.exchange.coco import export_coco
from pipeline.exchange.mmsegmentation import export_mmsegmentation
from pipeline.files.own_files import OwnFiles

_EXAMPLES = """examples:
  python tools/export.py outputs/voc2012/train/cams/latest --format clip_es --output cams
      cams/<id>.npy, as CLIP-ES's eval_cam.py and eval_cam_with_crf.py read them (--cam_out_dir)
  python tools/export.py outputs/folder/all/masks/latest --format coco --images PHOTOS --output annotations.json
      COCO's JSON with run lengths, an annotation for every class of an image
  python tools/export.py outputs/folder/all/masks/latest --format mmsegmentation --images PHOTOS --output DEST
      DEST/img_dir/all, DEST/ann_dir/all and DEST/all.py, a data set for a config of mmsegmentation

Images that cannot be exported are left out and named, and the exit code is 2. See docs/interoperation.md.
"""  # noqa: E501


def run(arguments: Sequence[str]) -> None:
    """Exports a stage's folder."""
    title = "Writes CAMs, masks or predictions in the formats of other programs."
    parser = Parser("export.py", title, _EXAMPLES)
    add = parser.add_argument
    stage = f"<output_dir>/<split>/<{'|'.join(_stages('cams', *_LABELS))}>/<key or latest>"
    add("folder", type=Path, metavar="FOLDER", help=f"a finished stage: {stage}")
    add("--format", required=True, choices=sorted(_FORMATS))
    output = "a folder; for coco, the JSON file"
    add("--output", required=True, type=Path, metavar="DEST", help=output)
    add("--images", type=Path, metavar="DIR", help="the folder of the images")
    components = "coco: an annotation for each connected component of a class"
    add("--components", action="store_true", help=components)
    link = "mmsegmentation: symbolic links to images instead of copies"
    add("--link", action="store_true", help=link)
    grey = "mmsegmentation: masks as grey PNGs, for programs that read a palette's colours"
    add("--grey", action="store_true", help=grey)
    options = parser.parse_args(arguments)
    artefact = Artefact(options.folder)
    held, allowed, export_as = _FORMATS[options.format]
    if artefact.kind.holds not in held:
        raise UserError(
            f"{options.folder} holds {artefact.kind.stage}, and --format {options.format} is for"
            f" {' and '.join(_stages(*held))}: give such a folder or another format"
        )
    for name in dict.fromkeys(name for _, names, _ in _FORMATS.values() for name in names):
        if getattr(options, name) and name not in allowed:
            formats = [key for key, (_, names, _) in _FORMATS.items() if name in names]
            raise UserError(f"--{name} is for --format {' and '.join(formats)}: leave it out")
    if options.images is not None:
        check_folder(options.images, "--images", "the one that holds them")
    if options.format == "coco":
        if options.output.suffix.lower() != ".json" or options.output.is_dir():
            raise UserError(
                f"--output {options.output} is not a JSON file: give one such as annotations.json"
            )
    elif options.output.exists():
        check_folder(options.output, "--output", "another")
    if options.format == "mmsegmentation" and options.images is None:
        raise UserError("a data set of mmsegmentation needs images: give their folder, --images")
    if not artefact.entries:
        raise UserError(f"{artefact.path} holds no image: run stage={artefact.kind.stage} first")
    export = export_as(artefact, options)
    for note in export.notes:
        tell(f"note: {note}")
    print(f"{export.written} {artefact.kind.stage} written to {options.output}")
    remedy = "could not be exported: fix those that are named above"
    export.refuse_left_out(f"of {len(artefact.entries)} images {remedy}")


def _stages(*held: str) -> list[str]:
    return [stage for stage, kind in measured_kinds().items() if kind.holds in held]


def _export_clip_es(artefact: Artefact, options: Namespace) -> Export:
    """Writes CAMs as ``<id>.npy``, see :func:`pipeline.cams.clip_es_files.encode_clip_es`."""
    export, target = Export(), options.output
    output = OwnFiles(target, "export.py")
    output.refuse_foreign(target / f"{image_id}.npy" for image_id in artefact.entries)

    def write(image_id: str) -> int:
        path = target_path(target, f"{image_id}.npy")
        artefact.refuse_changed(image_id)
        cams = read_cams(artefact.path / f"{image_id}.npz")
        output.write(path, encode_clip_es(cams))
        return len(cams.keys)

    without = sum(not count for _, count in export.each(sorted(artefact.entries), write))
    if without:
        export.notes.append(
            f"{without} images have no tag, and their files no CAM: CLIP-ES's scripts cannot read"
            " these files, so leave them out of their list"
        )
    return export


def _export_mmsegmentation(artefact: Artefact, options: Namespace) -> Export:
    split = read_manifest(artefact.path).get("split")
    if not isinstance(split, str) or not split or Path(split).name != split:
        raise UserError(f"{artefact.path / MANIFEST} names no split: run the stage again")
    kinds = {"link": options.link, "grey": options.grey}
    return export_mmsegmentation(artefact, split, options.output, options.images, **kinds)


def _export_coco(artefact: Artefact, options: Namespace) -> Export:
    return export_coco(artefact, options.output, options.images, options.components)


# What a format can hold of an image, see pipeline.engine.kinds.Kind; the options of the command
# line that some formats lack; and what writes it.
_LABELS = ("masks", "labels")
_FORMATS = {
    "clip_es": (("cams",), (), _export_clip_es),
    "coco": (_LABELS, ("components", "images"), _export_coco),
    "mmsegmentation": (_LABELS, ("images", "link", "grey"), _export_mmsegmentation),
}
