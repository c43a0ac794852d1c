"""Maps in the files of others are pickles: nothing that one may name is called."""

from __future__ import annotations

import collections
import io
import os
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.cams.clip_es_files import read_clip_es
from pipeline.errors import ImageError
from pipeline.files.object_files import read_object_file
from tests.processes import run_python
from tests.safety.live_weights import Code

MAPS = np.full((1, 8, 8), 0.5, np.float16)


def as_npy(pickled: bytes) -> bytes:
    """Returns the file that ``np.save`` would write of an object with this pickle."""
    buffer = io.BytesIO()
    header = {"descr": "|O", "fortran_order": False, "shape": ()}
    np.lib.format.write_array_header_1_0(buffer, header)
    return buffer.getvalue() + pickled


def in_the_dictionary(mark) -> bytes:
    content = {"keys": np.array([0]), "attn_highres": MAPS, "extra": Code(mark.path)}
    return as_npy(pickle.dumps(np.array(content, dtype=object)))


def as_the_keys(mark) -> bytes:
    content = {"keys": Code(mark.path), "attn_highres": MAPS}
    return as_npy(pickle.dumps(np.array(content, dtype=object)))


def in_place_of_all(mark) -> bytes:
    return as_npy(pickle.dumps(Code(mark.path)))


def in_the_oldest_protocol(mark) -> bytes:
    return as_npy(f"cos\nmkdir\n(V{mark.path}\ntR.".encode())


def as_an_instance(mark) -> bytes:
    return as_npy(f"(V{mark.path}\nios\nmkdir\n.".encode())


def without_a_header(mark) -> bytes:
    return pickle.dumps(Code(mark.path))


def in_a_storage(mark) -> bytes:
    """Within the bytes of a tensor, which PyTorch itself unpickles."""

    class Bytes:
        def __reduce__(self):
            return torch.storage._load_from_bytes, (pickle.dumps(Code(mark.path)),)

    content = {"keys": np.array([0]), "attn_highres": Bytes()}
    return as_npy(pickle.dumps(np.array(content, dtype=object)))


def as_an_archive(mark) -> bytes:
    class Bytes:
        def __reduce__(self):
            buffer = io.BytesIO()
            torch.save(Code(mark.path), buffer)
            return torch.storage._load_from_bytes, (buffer.getvalue(),)

    content = {"keys": np.array([0]), "attn_highres": Bytes()}
    return as_npy(pickle.dumps(np.array(content, dtype=object)))


LIVE = {
    writer.__name__.replace("_", " "): writer
    for writer in (
        in_the_dictionary,
        as_the_keys,
        in_place_of_all,
        in_the_oldest_protocol,
        as_an_instance,
        without_a_header,
        in_a_storage,
        as_an_archive,
    )
}


def read(path: Path):
    return read_clip_es(path, (8, 8), (2, 2), 1)


def read_carelessly(path: Path) -> None:
    content = np.load(path, allow_pickle=True)
    if isinstance(content, np.ndarray):
        content.item()


@pytest.mark.parametrize("name", LIVE)
def test_code_in_maps_does_not_run(name, mark, tmp_path):
    path = tmp_path / "a.npy"
    path.write_bytes(LIVE[name](mark))
    if name == "as an archive":  # PyTorch's own loader is lax there, not NumPy's
        careless = pickle.dumps(Code(mark.path))
        assert mark.is_left_by(lambda: pickle.loads(careless))
    assert mark.is_left_by(lambda: read_carelessly(path)), "it has to be live"
    with pytest.raises(ImageError) as caught:
        read(path)
    assert not mark.is_left
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("numpy", "load"),
        ("numpy.core.multiarray", "fromfile"),
        ("numpy._core.multiarray", "_reconstruct.__globals__"),
        ("torch", "load"),
        ("torch.storage", "_load_from_bytes.__globals__"),
        ("builtins", "getattr"),
        ("builtins", "eval"),
        ("collections", "OrderedDict.fromkeys"),
        ("pipeline.files.object_files", "read_object_file"),
        ("numpy", "dtype.type"),
    ],
)
def test_names_beyond_those_of_arrays_are_refused(module, name, tmp_path):
    path = tmp_path / "a.npy"
    words = [b"\x8c" + bytes([len(word)]) + word.encode() for word in (module, name)]
    path.write_bytes(as_npy(b"\x80\x04" + b"".join(words) + b"\x93."))
    with pytest.raises(ImageError, match="which no array needs"):
        read(path)


def claims(shape: str, code: str = "f2", data: str = "ab") -> bytes:
    """Returns a pickle of an array that claims a shape which it has no bytes for."""
    inner = (
        f"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntc_codecs\nencode\n"
        f"(Vb\nVlatin1\ntRtR(I1\n{shape}cnumpy\ndtype\n(V{code}\nI0\nI1\ntR"
        f"(I3\nV<\nNNNI-1\nI-1\nI0\ntbI00\nc_codecs\nencode\n(V{data}\nVlatin1\ntRtb"
    )
    outer = (
        "cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntc_codecs\nencode\n"
        f"(Vb\nVlatin1\ntRtR(I1\n(tcnumpy\ndtype\n(VO8\nI0\nI1\ntR(I3\nV|\nNNNI-1\nI-1\nI63\ntb"
        f"I00\n((dVkeys\n{inner}sVattn_highres\n{inner}sltb."
    )
    return as_npy(outer.encode())


def test_the_pickle_that_is_varied_below_is_one_that_numpy_reads(tmp_path):
    path = tmp_path / "a.npy"
    path.write_bytes(claims("(I1\nt", "i2"))
    assert np.load(path, allow_pickle=True).item()["keys"].tolist() == [25185]
    assert read_object_file(path)["keys"].tolist() == [25185]


@pytest.mark.parametrize(
    ("shape", "code", "why"),
    [
        ("(I1099511627776\nt", "f2", "does not fit its bytes"),
        ("(I1099511627776\nI0\nI1\nt", "i2", "does not fit its bytes"),
        ("(I-1\nt", "i2", "does not fit its bytes"),
        ("(I-1\nI-1\nt", "i2", "is damaged"),
        ("Vx\n", "i2", "does not fit its bytes"),
        ("(I1\nt", "O8", "elements are not numbers"),
        ("(I1\nt", "V2", "elements are not numbers"),
        ("(I1\nt", "U1", "elements are not numbers"),
        ("(I1\nt", "i2,i2", "elements are not numbers"),
        ("(I1\nt", "S99999999999", "is damaged"),
    ],
)
def test_arrays_that_claim_something_else_than_they_hold(shape, code, why, tmp_path):
    path = tmp_path / "a.npy"
    path.write_bytes(claims(shape, code))
    with pytest.raises(ImageError, match=why):
        read(path)


def test_a_value_remembered_by_a_huge_number(tmp_path):
    """pickle would make room for four billion values: refused before it is asked to."""
    path = tmp_path / "a.npy"
    path.write_bytes(as_npy(b"\x80\x02}r" + struct.pack("<I", 2**32 - 1) + b"."))
    with pytest.raises(ImageError, match="remembers more values than it holds"):
        read(path)


def test_lists_that_hold_each_other_have_an_end(tmp_path):
    nested = [0.5]
    for _ in range(60):
        nested = [nested] * 10
    for keys, maps, why in ((nested, MAPS, "not class indices"), ([0], nested, "for 1 classes")):
        np.save(tmp_path / "a.npy", {"keys": keys, "attn_highres": maps})
        with pytest.raises(ImageError, match=why):
            read(tmp_path / "a.npy")


def test_a_tensor_that_shows_more_than_it_has(tmp_path):
    tensor = torch.zeros(1).expand(2**20, 2**20)
    np.save(tmp_path / "a.npy", {"keys": np.array([0]), "attn_highres": [tensor]})
    with pytest.raises(ImageError, match="Oversized"):
        read(tmp_path / "a.npy")


def test_what_a_file_was_given_stays_as_it_was(tmp_path):
    """A pickle may set attributes of what it is given: of a function of its own, in vain."""
    before = dict(vars(collections.OrderedDict))
    changes = b"\x80\x02ccollections\nOrderedDict\n(N}X\x04\x00\x00\x00evilI1\nstb."
    (tmp_path / "a.npy").write_bytes(as_npy(changes))
    with pytest.raises(ImageError, match="does not hold an array"):
        read(tmp_path / "a.npy")
    assert dict(vars(collections.OrderedDict)) == before


@pytest.mark.large
def test_a_pipe_is_not_waited_for(tmp_path):
    path = tmp_path / "a.npy"
    os.mkfifo(path)
    code = (
        "import sys; from pathlib import Path\n"
        "from pipeline.errors import ImageError\n"
        "from pipeline.cams.clip_es_files import read_clip_es\n"
        "try: read_clip_es(Path(sys.argv[1]), (8, 8), (2, 2), 1)\n"
        "except ImageError: print('refused')"
    )
    done = run_python("-c", code, path)
    assert done.stdout == "refused\n", done.stderr
