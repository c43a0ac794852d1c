"""Tags and masks as tasks of Label Studio with predictions, and the labelling configuration."""

import json
from pathlib import Path
from typing import Any
from urllib.parse import quote
from xml.etree import ElementTree

import numpy as np

from pipeline.datasets.annotation_index import EXPORTED, exported_entry
from pipeline.datasets.instances import label_studio_instances, stated_size
from pipeline.errors import ImageError
from pipeline.exchange import artefacts
from pipeline.exchange.formats.regions import class_regions
from pipeline.files.images import decode_image, encode
from pipeline.files.label_images import IGNORE
from pipeline.files.own_files import OwnFiles

_ADDRESS = "/data/local-files/?d="  # of a file below LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT
_IMAGE, _MASKS, _TAGS = "image", "label", "tags"  # names of the configuration's elements

_VALUE_BITS = 8
_RUN_BITS = (3, 4, 8, 16)  # the widths of a run's length


def export_label_studio(
    artefact: artefacts.Artefact, target: Path, images: Path | None = None, prefix: str = ""
) -> artefacts.Export:
    """Writes tags, masks or predictions as one JSON file of tasks, and ``<name>.xml`` beside it.

    A task has one prediction: the tags as choices, and the region of each class as a brush's run
    lengths. No region has label 255. A task's ``image`` is the address of a local file: ``prefix``,
    the folder of the images below Label Studio's document root, and the path below the image root.
    The files of the image root ``images`` give it the suffix; without it, ``.jpg``. For a HEIC or
    TIFF file, which browsers do not show, it is that of a JPEG that is written to ``<name>_jpeg/``.
    Raises a UserError if a file cannot be written, or is another's.
    """
    export, output = artefacts.Export(), OwnFiles(target.parent, "export.py")
    configuration = target.with_suffix(".xml")
    output.refuse_foreign([target, configuration])
    version, ignored, copied = f"{artefact.name} {artefact.path.name}", 0, 0
    copies = target.with_name(f"{target.stem}_jpeg")

    def task(image_id: str) -> dict[str, Any]:
        nonlocal ignored, copied
        name, labels = artefacts.name_photograph(images, image_id), None
        address = prefix + name
        photograph = images and images / name
        if artefact.kind.is_labels:
            labels = artefacts.read_artefact_labels(artefact, image_id, photograph)
        else:
            artefact.refuse_changed(image_id, photograph)
        if photograph is not None:
            kind, _, is_turned = artefacts.read_header(photograph)
            if kind in ("HEIF", "TIFF"):
                image = decode_image(photograph, apply_exif=artefact.apply_exif)
                path = artefacts.target_path(copies, f"{image_id}.jpg")
                output.write(path, encode(image, "JPEG", quality=95))
                address, copied = f"{copies.name}/{image_id}.jpg", copied + 1
            elif is_turned and artefact.kind.is_labels and not artefact.apply_exif:
                raise ImageError(
                    "Label Studio turns it by its EXIF orientation, and its mask is not turned:"
                    " turn the file, or run the stages with compat.exif=false"
                )
        result = []
        if tags := artefact.tags(image_id, labels):
            chosen = {"id": _TAGS, "type": "choices", "from_name": _TAGS, "to_name": _IMAGE}
            result.append({**chosen, "value": {"choices": tags}})
        if labels is not None:
            ignored += int((labels == IGNORE).sum())
            result += [_region(artefact.classes[k], each) for k, each in class_regions(labels)]
        data = {_IMAGE: f"{_ADDRESS}{quote(address)}", "id": image_id}
        if labels is not None and artefact.is_computed(image_id):
            made = {"annotations": [{"result": result}]}
            data[EXPORTED] = exported_entry(stated_size(made), label_studio_instances(made))
        return {"data": data, "predictions": [{"model_version": version, "result": result}]}

    tasks = [made for _, made in export.each(sorted(artefact.entries), task)]
    output.write(target, json.dumps(tasks, ensure_ascii=False, separators=(",", ":")))
    output.write(configuration, _configuration(artefact))
    if copied:
        why = f"{copied} images are JPEGs in {copies}, since browsers show no HEIC and TIFF files"
        export.notes.append(f"{why}: move it into Label Studio's document root, and serve it, too")
    if ignored:
        export.notes.append(f"{ignored} pixels of label 255 have no region, like the background")
    export.notes.append(f"paste {configuration} into the labelling interface of the project")
    return export


def _region(name: str, inside: np.ndarray) -> dict[str, Any]:
    """Returns a region of a class, H×W bool, as Label Studio has it."""
    height, width = inside.shape
    return {
        "id": f"{_MASKS} {name}",
        "type": "brushlabels",
        "from_name": _MASKS,
        "to_name": _IMAGE,
        "original_width": width,
        "original_height": height,
        "image_rotation": 0,
        "value": {"format": "rle", "rle": encode_brush(inside).tolist(), "brushlabels": [name]},
    }


def encode_brush(inside: np.ndarray) -> np.ndarray:
    """Encodes a region, H×W bool, in the run lengths of Label Studio's brush: N uint8.

    They are a stream of bits, the highest of a byte first. It begins with the number of values (32
    bits), the width of a value minus 1 (5 bits), and the four widths of a run's length minus 1 (4
    bits each). A run is a 1, the index of its width (2 bits), its length minus 1, and its value.
    Each pixel has four equal values, 255 inside and 0 outside: red, green, blue and opacity.
    """
    flat = inside.ravel()
    starts = np.flatnonzero(np.diff(flat, prepend=~flat[:1]))
    lengths = 4 * np.diff(starts, append=len(flat))
    bits = [f"{4 * len(flat):032b}{_VALUE_BITS - 1:05b}", *(f"{w - 1:04b}" for w in _RUN_BITS)]
    for length, value in zip(lengths.tolist(), np.where(flat[starts], 255, 0).tolist()):
        while length:
            run = min(length, 2 ** _RUN_BITS[-1])
            index = next(k for k, width in enumerate(_RUN_BITS) if run <= 2**width)
            bits.append(f"1{index:02b}{run - 1:0{_RUN_BITS[index]}b}{value:0{_VALUE_BITS}b}")
            length -= run
    return np.packbits(np.frombuffer("".join(bits).encode(), np.uint8) - ord("0"))


def _configuration(artefact: artefacts.Artefact) -> str:
    view = ElementTree.Element("View")
    ElementTree.SubElement(view, "Image", name=_IMAGE, value=f"${_IMAGE}")
    if artefact.kind.is_labels:
        masks = ElementTree.SubElement(view, "BrushLabels", name=_MASKS, toName=_IMAGE)
        for name, colour in zip(artefact.classes, artefact.palette[1:]):
            background = "#{:02x}{:02x}{:02x}".format(*colour)
            ElementTree.SubElement(masks, "Label", value=name, background=background)
    tags = ElementTree.SubElement(view, "Choices", name=_TAGS, toName=_IMAGE, choice="multiple")
    for name in artefact.classes:
        ElementTree.SubElement(tags, "Choice", value=name)
    ElementTree.indent(view)
    return ElementTree.tostring(view, encoding="unicode") + "\n"
