"""Arrays are read without pickle, and what is too large for its file is computed again."""

from __future__ import annotations

import io
import pickle
import struct
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from pipeline.cams.cam_files import read_cam_file
from pipeline.cams.cams import read_cams
from pipeline.datasets.ground_truth import MaskFile, MatlabMask
from pipeline.engine.store import Store
from pipeline.errors import ImageError, UserError
from tests.safety.live_weights import Code
from tests.small_runs import folder_options


def objects(mark) -> np.ndarray:
    array = np.empty(1, object)
    array[0] = Code(mark.path)
    return array


def header(shape: tuple, kind: str = "<f4") -> bytes:
    """Returns the beginning of a .npy file that claims a shape."""
    buffer = io.BytesIO()
    description = {"descr": kind, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(buffer, description)
    return buffer.getvalue()


def live_npy(path: Path, mark) -> None:
    with path.open("wb") as file:
        np.save(file, objects(mark), allow_pickle=True)


def live_pickle(path: Path, mark) -> None:
    """numpy takes a file with no header of its own for a pickle, if it may."""
    path.write_bytes(pickle.dumps(Code(mark.path)))


def live_npz(path: Path, mark) -> None:
    with path.open("wb") as file:
        np.savez(file, keys=objects(mark), cams=objects(mark), size=objects(mark))


WRITERS = {"an array of objects": live_npy, "a bare pickle": live_pickle, "an archive": live_npz}


def read_carelessly(path: Path) -> None:
    content = np.load(path, allow_pickle=True)
    if isinstance(content, np.lib.npyio.NpzFile):
        content["keys"]


@pytest.mark.parametrize("name", WRITERS)
def test_a_kept_array_is_made_again(name, mark, tmp_path):
    store, path = Store(tmp_path / "out"), tmp_path / "out" / "text" / "key.npz"
    path.parent.mkdir(parents=True)
    WRITERS[name](path, mark)
    assert mark.is_left_by(lambda: read_carelessly(path)), "it has to be live"
    found = store.array("key", lambda: np.arange(3.0))
    assert not mark.is_left
    assert isinstance(found, np.ndarray) and found.tolist() == [0, 1, 2]
    assert np.load(path)["key"].tolist() == [0, 1, 2]


def read_own(path: Path) -> None:
    with pytest.raises(ImageError, match="run stage=cams again"):
        read_cams(path)


def read_imported(path: Path) -> None:
    with pytest.raises(ImageError, match="its CAMs cannot be used: .*a.npz ") as caught:
        read_cam_file(path, (8, 8), (2, 2), 1)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("read", [read_own, read_imported])
def test_maps_are_an_images_failure(read, name, mark, tmp_path):
    path = tmp_path / "a.npz"
    WRITERS[name](path, mark)
    assert mark.is_left_by(lambda: read_carelessly(path)), "it has to be live"
    read(path)
    assert not mark.is_left


@pytest.mark.parametrize("read", [read_own, read_imported])
def test_maps_that_claim_terabytes_are_an_images_failure(read, tmp_path):
    path = tmp_path / "a.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("size.npy", header((2,), "<i8") + np.array([3, 4]).tobytes())
        archive.writestr("keys.npy", header((2**45,), "<i8"))
        archive.writestr("cams.npy", header((2**40, 9, 9), "<f2"))
    read(path)


def understate(content: bytes, stated: int) -> bytes:
    """Returns an archive whose headers state a size of 64 MB as another."""
    return content.replace(struct.pack("<I", 2**26), struct.pack("<I", stated))


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA])
@pytest.mark.parametrize("is_honest", [True, False])
def test_imported_maps_take_no_more_memory_than_the_image_has_room_for(method, is_honest, tmp_path):
    path, buffer = tmp_path / "a.npz", io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        begin = header((2**26 - 128,), "u1")
        archive.writestr("cams.npy", begin + bytes(2**26 - len(begin)))
        archive.writestr("keys.npy", header((1,), "<i8") + bytes(8))
    path.write_bytes(buffer.getvalue() if is_honest else understate(buffer.getvalue(), 500))
    tracemalloc.start()
    read_imported(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**21


def test_scores_and_maps_of_a_run(mark, tmp_path, photographs, tiny_checkpoint, run_stage):
    """Replaced between two stages by what would run: found out by its bytes and made again."""
    arguments = [
        *folder_options(photographs, tiny_checkpoint),
        f"output_dir={tmp_path / 'out'}",
    ]
    assert run_stage(*arguments, "stage=[tags,cams]").code == 0
    scores = tmp_path / "out" / "all" / "tags" / "latest" / "scores.npz"
    maps = tmp_path / "out" / "all" / "cams" / "latest" / "a.npz"
    for path in (scores, maps):
        live_npz(path, mark)
        assert mark.is_left_by(lambda path=path: read_carelessly(path)), "it has to be live"
    for stage in ("masks", "evaluate", "report", "tags", "cams", "masks"):
        finished = run_stage(*arguments, f"stage={stage}")
        assert not mark.is_left and "Traceback" not in finished.errors, finished.errors
    with np.load(maps, allow_pickle=False) as arrays:
        assert arrays["cams"].dtype == np.float16


@pytest.mark.parametrize(
    "read", [lambda path: MatlabMask(path).read(), lambda path: MaskFile(path).read()]
)
def test_masks_are_no_pickles(read: Callable, mark, tmp_path):
    live = pickle.dumps(Code(mark.path))
    assert mark.is_left_by(lambda: pickle.loads(live)), "it has to be live"
    noise = np.random.default_rng(0).bytes(500)
    for number, content in enumerate([live, b"MATLAB 5.0 MAT-file" + bytes(109) + noise]):
        path = tmp_path / f"{number}.mat"
        path.write_bytes(content)
        with pytest.raises(UserError) as caught:
            read(path)
        assert "\n" not in str(caught.value) and not mark.is_left


def write_bomb(path: Path) -> None:
    """A gigabyte of zeros in a megabyte; of the right name, type and number of dimensions."""
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        archive.open("key.npy", "w") as file,
    ):
        file.write(header((2**14,)))
        file.write(bytes(2**16))


FOREIGN = {
    "a claim of terabytes": lambda path: path.write_bytes(header((2**45,))),
    "a compressed archive": write_bomb,
    "not finite": lambda path: np.savez(path, key=np.full(3, np.nan)),
    "integers": lambda path: np.savez(path, key=np.arange(3)),
    "without dimensions": lambda path: np.savez(path, key=np.float64(1)),
    "of ten dimensions": lambda path: np.savez(path, key=np.zeros((1,) * 10)),
    "text": lambda path: np.savez(path, key=np.array(["a"])),
    "a checksum of another": lambda path: np.savez(path, key=np.arange(3.0), sum="0" * 16),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_a_kept_array_that_we_did_not_write_is_made_again(name, tmp_path, capsys):
    store, path = Store(tmp_path / "out"), tmp_path / "out" / "text" / "key.npz"
    path.parent.mkdir(parents=True)
    FOREIGN[name](path)
    assert store.array("key", lambda: np.arange(3.0)).tolist() == [0, 1, 2]
    assert "is damaged (" in capsys.readouterr().err
    assert store.array("key", lambda: pytest.fail("it is whole")).tolist() == [0, 1, 2]
