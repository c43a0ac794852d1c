"""The archive that the evaluation server of PASCAL VOC 2012 accepts.

results/VOC2012/Segmentation/<competition>_test_cls/<id>.png
"""

import gzip
import io
import tarfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from pipeline.datasets.vocabulary import voc_palette
from pipeline.engine.folder import ENTRIES
from pipeline.errors import UserError
from pipeline.exchange.artefacts import Artefact
from pipeline.files.images import encode_png
from pipeline.files.label_images import read_labels
from pipeline.files.own_files import OwnFiles

COMPETITIONS = ("comp5", "comp6")
"""comp5 allows VOC's training data only; comp6 allows any data."""

_FOLDER = "results/VOC2012/Segmentation/{}_test_cls"
_NUM_CLASSES = 20
_MAX_SHOWN = 3


def write_submission(
    predictions: Path,
    ids: Sequence[str],
    target: Path,
    competition: str = "comp6",
    images: Path | None = None,
) -> None:
    """Writes an archive with one mask for each image of a list.

    Its bytes depend on the labels only, not on times, users or the order of the list.

    Args:
        predictions: the folder with ``<id>.png``, indexed or grey; other files are ignored.
        target: the archive, a gzipped tar file.
        images: the folder with ``<id>.jpg``, with which the sizes of masks are compared; none skips
            that check.

    Raises:
        UserError: the list is empty or names an image twice, or masks are missing, damaged, of
            another size, or hold labels other than 0 to 20; the message names the first few.
    """
    if not ids:
        raise UserError("the list names no image: give the list of the test set")
    if len(set(ids)) < len(ids):
        repeated = next(image_id for image_id in ids if ids.count(image_id) > 1)
        raise UserError(f"the list names {repeated} twice: keep one of each")
    members: dict[str, bytes] = {}
    problems = []
    stored = Artefact(predictions).entries if (predictions / ENTRIES).is_file() else ids
    for image_id in sorted(ids):
        labels = _read(predictions / f"{image_id}.png", images and images / f"{image_id}.jpg")
        labels = labels if image_id in stored else "is missing"
        if isinstance(labels, str):
            problems.append(f"{image_id} {labels}")
        else:
            members[f"{image_id}.png"] = encode_png(labels, voc_palette(256))
    if problems:
        more = len(problems) - _MAX_SHOWN
        raise UserError(
            f"{len(problems)} of {len(ids)} masks cannot be submitted:"
            f" {'; '.join(problems[:_MAX_SHOWN])}{f'; and {more} more' if more > 0 else ''}:"
            f" predict the whole list again, into {predictions}"
        )
    buffer = io.BytesIO()
    with (
        gzip.GzipFile(filename="", mode="wb", fileobj=buffer, mtime=0) as stream,
        tarfile.open(mode="w", fileobj=stream, format=tarfile.USTAR_FORMAT) as archive,
    ):
        for name, content in members.items():
            entry = tarfile.TarInfo(f"{_FOLDER.format(competition)}/{name}")
            entry.size, entry.mode = len(content), 0o644
            archive.addfile(entry, io.BytesIO(content))
    OwnFiles(target.parent, "voc_submission.py").write(target, buffer.getvalue())


def _read(path: Path, image: Path | None) -> np.ndarray | str:
    """Returns labels, H×W uint8, or what is wrong with them."""
    try:
        labels = read_labels(path)
    except FileNotFoundError:
        return "is missing"
    except UserError as error:
        return f"cannot be read: {error}"
    wrong = np.unique(labels[labels > _NUM_CLASSES]).tolist()
    if wrong:
        shown = ", ".join(map(str, wrong[:_MAX_SHOWN]))
        return f"holds labels ({shown}) that are not 0 to {_NUM_CLASSES}"
    if image is None:
        return labels
    try:
        with Image.open(image) as photograph:
            width, height = photograph.size
    except Exception as error:  # Pillow's decoders raise nearly anything on damaged files
        return f"has an image that cannot be read ({type(error).__name__})"
    if labels.shape != (height, width):
        return f"is {labels.shape[1]}×{labels.shape[0]}, its image {width}×{height} pixels"
    return labels
