"""Masks and their images as a data set of mmsegmentation.

DEST/img_dir/<split>/<id>.jpg, DEST/ann_dir/<split>/<id>.png, and DEST/<split>.py, a config that
mmsegmentation's BaseSegDataset is built from.
"""

from __future__ import annotations

import io
import os
import re
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image

from pipeline.errors import ImageError, UserError
from pipeline.exchange.exporting import Export, place, read_labels
from pipeline.files.atomic import TEMPORARY, write_atomically
from pipeline.files.images import encode_png, load_image
from pipeline.report.artefacts import Artefact, find_photograph

_CONFIG = """\
# Written by tools/export.py. A config that has this file among its _base_ takes the data set as
# train_dataloader = dict(dataset=_base_.{name}).
{name} = dict(
    type='BaseSegDataset',
    data_root='{{{{ fileDirname }}}}',  # this file's folder
    data_prefix=dict(img_path={images}, seg_map_path={masks}),
    img_suffix='{suffix}',
    seg_map_suffix='.png',
    reduce_zero_label=False,  # label 0 is the background, a class; 255 is ignored
    metainfo=dict(
        classes=[
{classes}
        ],
        palette=[
{palette}
        ],
    ),
    pipeline=[dict(type='LoadImageFromFile'), dict(type='LoadAnnotations')],
)
"""

_JPEG = frozenset({".jpg", ".jpeg"})
_UPRIGHT = (None, 1)  # EXIF orientations
_ENCODINGS = {
    ".jpg": ("JPEG", {"quality": 95, "subsampling": 0}),
    ".png": ("PNG", {}),
    ".webp": ("WEBP", {"lossless": True}),
}


def export_mmsegmentation(
    artefact: Artefact,
    split: str,
    target: Path,
    images: Path,
    *,
    link: bool = False,
    grey: bool = False,
) -> Export:
    """Writes masks or predictions with their images as mmsegmentation's ``BaseSegDataset``.

    Image files are copied as they are, since that class wants one ending: where an image root holds
    several, all become PNG. An image that EXIF turns is written as its mask sees it, without EXIF,
    which mmsegmentation's reader would follow.

    Args:
        artefact: the folder of the stage ``masks`` or ``predictions``.
        split: names the folders and the config.
        target: the data set's folder; other splits in it stay.
        images: the image root.
        link: symbolic links to image files, where they need not change, instead of copies.
        grey: masks as grey PNGs, for programs that read a palette's colours instead of its indices.

    Raises:
        UserError: the folder holds no image, or the target files that are none of these.
    """
    export = Export()
    suffix = _common_suffix(artefact, images)
    image_dir, mask_dir = Path("img_dir") / split, Path("ann_dir") / split
    _refuse_others(target / image_dir, {f"{i}{suffix}" for i in artefact.entries})
    _refuse_others(target / mask_dir, {f"{i}.png" for i in artefact.entries})
    changed = 0

    def write(image_id: str) -> bool:
        path = find_photograph(images, image_id)
        labels = read_labels(artefact, image_id)
        data = _as_it_is(path, suffix, labels)
        same = data is not None
        if data is None:
            data = _encode(load_image(path, apply_exif=artefact.apply_exif), suffix, labels)
        place_of_image = place(target / image_dir, f"{image_id}{suffix}")
        if same and link:
            _link(place_of_image, path)
        else:
            write_atomically(place_of_image, data)
        mask = encode_png(labels, None if grey else artefact.palette)
        write_atomically(place(target / mask_dir, f"{image_id}.png"), mask)
        return same

    for _, same in export.each(artefact, write):
        changed += not same
    write_atomically(target / f"{split}.py", _config(artefact, split, suffix))
    if changed:
        export.notes.append(
            f"{changed} images were written anew as {suffix}, since files have several endings or"
            " an EXIF orientation"
        )
    return export


def _common_suffix(artefact: Artefact, images: Path) -> str:
    """Returns the ending that all images get."""
    found = set()
    for image_id in artefact.entries:
        try:
            suffix = find_photograph(images, image_id).suffix.lower()
        except ImageError:  # which is said when its turn comes
            continue
        found.add(".jpg" if suffix in _JPEG else suffix)
    return found.pop() if len(found) == 1 else ".png"


def _refuse_others(folder: Path, expected: set[str]) -> None:
    """Refuses a folder with other files, which mmsegmentation would take for part of the data."""
    for path in sorted(folder.rglob("*")) if folder.is_dir() else ():
        if path.is_dir() or path.name.startswith(TEMPORARY):
            continue
        if path.relative_to(folder).as_posix() not in expected:
            raise UserError(
                f"{path} is no part of this export: remove it, or choose another output"
            )


def _as_it_is(path: Path, suffix: str, labels: np.ndarray) -> bytes | None:
    """Returns an image file's bytes, or none where mmsegmentation would not see what we see.

    Raises:
        ImageError: it cannot be read, or has another size than its mask.
    """
    ending = path.suffix.lower()
    if (".jpg" if ending in _JPEG else ending) != suffix:
        return None
    try:
        with Image.open(path) as image:
            (width, height), kind = image.size, image.format
            turned = image.getexif().get(ExifTags.Base.Orientation) not in _UPRIGHT
        data = path.read_bytes()
    except Exception as error:  # Pillow's decoders raise nearly anything on damaged files
        raise ImageError(f"{path} cannot be read ({type(error).__name__})") from error
    if turned or kind != _ENCODINGS[suffix][0]:
        return None
    _check_size((height, width), labels)
    return data


def _encode(image: np.ndarray, suffix: str, labels: np.ndarray) -> bytes:
    _check_size(image.shape[:2], labels)
    kind, options = _ENCODINGS[suffix]
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, kind, **options)
    return buffer.getvalue()


def _check_size(size: tuple[int, int], labels: np.ndarray) -> None:
    if labels.shape != tuple(size):
        (height, width), (rows, columns) = size, labels.shape
        raise ImageError(f"its mask is {columns}×{rows}, the image {width}×{height} pixels")


def _link(path: Path, image: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.parent / f"{TEMPORARY}{os.getpid()}"
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(image.resolve())
    temporary.replace(path)


def _config(artefact: Artefact, split: str, suffix: str) -> str:
    return _CONFIG.format(
        name="dataset_" + re.sub(r"\W", "_", split, flags=re.ASCII),
        images=_quote(f"img_dir/{split}"),
        masks=_quote(f"ann_dir/{split}"),
        suffix=suffix,
        classes="\n".join(f"            {_quote(name)}," for name in artefact.names),
        palette="\n".join(f"            {list(colour)}," for colour in artefact.palette),
    )


def _quote(text: str) -> str:
    """Returns a literal of Python's; mmengine would replace what stands in double braces."""
    return ascii(text).replace("{", "\\x7b")
