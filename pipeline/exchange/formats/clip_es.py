"""CAMs in the files of CLIP-ES's scripts: ``<id>.npy``, a pickled dictionary."""

import io
import pickle
from pathlib import Path

import numpy as np

from pipeline.cams.cams import Cams, read_cams
from pipeline.exchange.artefacts import Artefact, Export, target_path
from pipeline.files.own_files import OwnFiles


def export_clip_es(artefact: Artefact, target: Path) -> Export:
    """Writes CAMs as ``<id>.npy``, see :func:`encode_clip_es`, to a folder.

    Raises a UserError if a file cannot be written, or is another's.
    """
    export, output = Export(), OwnFiles(target, "export.py")
    output.refuse_foreign(target / f"{image_id}.npy" for image_id in artefact.entries)

    def write(image_id: str) -> int:
        path = target_path(target, f"{image_id}.npy")
        artefact.refuse_changed(image_id)
        cams = read_cams(artefact.path / f"{image_id}.npz")
        output.write(path, encode_clip_es(cams))
        return len(cams.classes)

    if without := sum(not count for _, count in export.each(sorted(artefact.entries), write)):
        export.notes.append(
            f"{without} images have no tag, and their files no CAM: CLIP-ES's scripts cannot read"
            " these files, so leave them out of their list"
        )
    return export


def encode_clip_es(cams: Cams) -> bytes:
    """Returns the CAMs of an image as a file that CLIP-ES's scripts read.

    It holds ``keys``, K int64, and ``attn_highres``, K×H×W float16, resized to the image's size as
    CLIP-ES does (bilinear). Any version of NumPy reads it.
    """
    content = {
        "keys": np.asarray(cams.classes, np.int64),
        "attn_highres": cams.resized(*cams.size).astype(np.float16),
    }
    buffer = io.BytesIO()
    header = {"descr": "|O", "fortran_order": False, "shape": ()}
    np.lib.format.write_array_header_1_0(buffer, header)
    data = pickle.dumps(np.array(content, dtype=object), protocol=3)
    # NumPy 2 renamed a module of its own. Both versions read the old name, which CLIP-ES's NumPy 1
    # needs. The pickle holds the name once, before all values.
    buffer.write(data.replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n", 1))
    return buffer.getvalue()
