"""Masks and their images as a data set of mmsegmentation.

DEST/img_dir/<split>/<id>.jpg, DEST/ann_dir/<split>/<id>.png, and DEST/<split>.py, a config for
mmsegmentation's BaseSegDataset.
"""

import contextlib
import re
from pathlib import Path

from PIL import ExifTags, Image

from pipeline.errors import ImageError, UserError
from pipeline.exchange.artefacts import (
    Artefact,
    Export,
    find_photograph,
    read_artefact_labels,
    target_path,
)
from pipeline.files.atomic import TEMPORARY
from pipeline.files.images import FORMATS, encode, encode_png, load_image, to_image_error
from pipeline.files.own_files import OwnFiles

_CONFIG = """\
# Written by tools/export.py. With this file among its _base_, a config uses the data set as
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

    Image files are copied unchanged, with two exceptions. ``BaseSegDataset`` needs one suffix: if
    the images have several, all become PNG. mmsegmentation's reader follows EXIF orientations: an
    image that has one is written without EXIF, turned as its mask is. Other splits in ``target``
    stay.

    Args:
        images: the image root.
        link: makes symbolic links to unchanged image files instead of copies.
        grey: writes grey PNGs, for programs that read a palette's colours instead of its indices.

    Raises:
        UserError: the target holds other files.
    """
    export, output = Export(), OwnFiles(target, "export.py")
    suffix = _common_suffix(artefact, images)
    image_dir, mask_dir = Path("img_dir") / split, Path("ann_dir") / split
    _refuse_others(target / image_dir, {f"{i}{suffix}" for i in artefact.entries}, output)
    _refuse_others(target / mask_dir, {f"{i}.png" for i in artefact.entries}, output)
    output.refuse_foreign([target / f"{split}.py"])

    def write(image_id: str) -> bool:
        """Writes an image and its mask; returns whether the image file had to change."""
        path = find_photograph(images, image_id)
        artefact.refuse_changed(image_id, path)
        labels = read_artefact_labels(artefact, image_id)
        size, data = _image_data(path, suffix, artefact.apply_exif)
        if labels.shape != size:
            (rows, columns), (height, width) = labels.shape, size
            raise ImageError(f"its mask is {columns}×{rows}, the image {width}×{height} pixels")
        image_path = target_path(target / image_dir, f"{image_id}{suffix}")
        if link and data is None:
            output.link(image_path, path.resolve())
        else:
            output.write(image_path, data or path.read_bytes())
        mask = encode_png(labels, None if grey else artefact.palette)
        output.write(target_path(target / mask_dir, f"{image_id}.png"), mask)
        return data is not None

    changed = sum(is_changed for _, is_changed in export.each(sorted(artefact.entries), write))
    output.write(target / f"{split}.py", _config(artefact, split, suffix))
    if changed:
        export.notes.append(
            f"{changed} images were written anew as {suffix}: files have several suffixes or an"
            " EXIF orientation"
        )
    return export


def _common_suffix(artefact: Artefact, images: Path) -> str:
    """Returns the suffix that all images get."""
    suffixes = set()
    for image_id in artefact.entries:
        with contextlib.suppress(ImageError):  # the export of this image reports it
            suffixes.add(find_photograph(images, image_id).suffix.lower())
    suffixes = {".jpg" if suffix == ".jpeg" else suffix for suffix in suffixes}
    return suffixes.pop() if len(suffixes) == 1 and suffixes <= _ENCODINGS.keys() else ".png"


def _refuse_others(folder: Path, expected: set[str], output: OwnFiles) -> None:
    """Refuses a folder with other files, which mmsegmentation would read as part of the data."""
    for path in sorted(folder.rglob("*")) if folder.is_dir() else ():
        if path.is_dir() or path.name.startswith(TEMPORARY):
            continue
        if path.relative_to(folder).as_posix() not in expected:
            raise UserError(
                f"{path} is not part of this export: remove it, or choose another output"
            )
        output.refuse_foreign([path])


def _image_data(path: Path, suffix: str, apply_exif: bool) -> tuple[tuple[int, int], bytes | None]:
    """Returns an image's height and width, and its bytes in the format of a suffix.

    The bytes are none if mmsegmentation reads the file as it is, as this pipeline does.

    Raises:
        ImageError: the file cannot be read.
    """
    kind, options = _ENCODINGS[suffix]
    try:
        with Image.open(path) as header:
            turned = header.getexif().get(ExifTags.Base.Orientation) not in _UPRIGHT
            if header.format == kind and not turned:
                return (header.height, header.width), None
    except Exception as error:  # Pillow's decoders raise nearly anything on damaged files
        raise to_image_error(error, path, FORMATS) from error
    image = load_image(path, apply_exif=apply_exif)
    return image.shape[:2], encode(image, kind, **options)


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
    """Returns a Python literal without braces, since mmengine replaces text in double braces."""
    return ascii(text).replace("{", "\\x7b")
