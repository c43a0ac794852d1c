"""The archive that the evaluation server of PASCAL VOC 2012 accepts.

results/VOC2012/Segmentation/<competition>_test_cls/<id>.png
"""

import gzip
import io
import tarfile
from collections.abc import Sequence
from pathlib import Path

from pipeline.datasets.vocabulary import voc_palette
from pipeline.engine.folder import ENTRIES
from pipeline.errors import ImageError, UserError
from pipeline.exchange.artefacts import Artefact, Export, read_header, refuse_other_size
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

    Its bytes depend on the labels only, not on times, users or the order of the list. Raises a
    UserError if the list is empty or names an image twice, or if masks are missing, damaged, of
    another size, or hold labels other than 0 to 20; the message names the first few.

    Args:
        predictions: the folder with ``<id>.png``, indexed or grey; other files are ignored.
        target: the archive, a gzipped tar file.
        images: the folder with ``<id>.jpg``, with which the sizes of masks are compared; none skips
            that check.
    """
    if not ids:
        raise UserError("the list names no image: give the list of the test set")
    if len(set(ids)) < len(ids):
        repeated = next(image_id for image_id in ids if ids.count(image_id) > 1)
        raise UserError(f"the list names {repeated} twice: keep one of each")
    artefact = Artefact(predictions) if (predictions / ENTRIES).is_file() else None
    export = Export()

    def read(image_id: str) -> bytes:
        if artefact is not None:
            if image_id not in artefact.entries:
                raise ImageError("its mask is missing")
            artefact.refuse_changed(image_id)
        labels = read_labels(predictions / f"{image_id}.png")
        if (highest := labels.max()) > _NUM_CLASSES:
            raise ImageError(f"holds label {highest}, which is not 0 to {_NUM_CLASSES}")
        if images is not None:
            _, size, _ = read_header(images / f"{image_id}.jpg")
            refuse_other_size(labels, size)
        return encode_png(labels, voc_palette(256))

    members = dict(export.each(sorted(ids), read, "check"))
    if problems := [f"{name}: {reason}" for name, reason in export.left_out.items()]:
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
        for image_id, content in members.items():
            entry = tarfile.TarInfo(f"{_FOLDER.format(competition)}/{image_id}.png")
            entry.size, entry.mode = len(content), 0o644
            archive.addfile(entry, io.BytesIO(content))
    OwnFiles(target.parent, "voc_submission.py").write(target, buffer.getvalue())
