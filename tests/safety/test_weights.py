"""CLIP's weights and a backbone's: in every format, and with every trick, nothing in them runs."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from pipeline.clip.weights import checkpoint
from pipeline.errors import UserError
from pipeline.files import hugging_face
from pipeline.files.weight_files import read_weights_file
from pipeline.segmenter import weight_sources
from pipeline.segmenter.mmseg import build_model
from tests.safety.live_weights import (
    ABSURD,
    GREEDY,
    LIVE,
    Code,
    absurd_script,
    absurd_state,
    write_script,
)
from tests.segmenter.foreign_backbones import HEAD

READERS: dict[str, Callable[[Path], object]] = {
    "clip.checkpoint": checkpoint.load_clip,
    "segmenter.pretrained": weight_sources.read_state,
}


@pytest.fixture(params=READERS)
def reader(request):
    """The name of a key, and what reads the file that it names."""
    return request.param, READERS[request.param]


def refused(read: Callable[[Path], object], path: Path) -> str:
    """Returns the sentence with which a file is refused."""
    with pytest.raises(UserError) as caught:
        read(path)
    sentence = str(caught.value)
    assert path.name in sentence and "\n" not in sentence and len(sentence) < 500
    return sentence


@pytest.mark.parametrize("name", LIVE)
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize("defaults", ["strict", "lax"])
def test_no_weights_run(name, suffix, defaults, reader, tiny_clip, mark, tmp_path, monkeypatch):
    if defaults == "lax":  # a switch of PyTorch's, which some people set for older programs
        monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    key, read = reader
    write, careless = LIVE[name]
    live, path = tmp_path / "live.pt", tmp_path / f"weights{suffix}"
    write(live, mark.path, tiny_clip.state_dict())
    assert mark.is_left_by(lambda: careless(live)), "it has to be live, or this shows nothing"
    live.rename(path)
    refusal = None
    try:
        read(path)
    except UserError as error:
        refusal = str(error)
    assert not mark.is_left
    # Of TorchScript whose code is passed over, the tensors are read; they are no CLIP.
    assert refusal is not None and "\n" not in refusal, refusal


@pytest.mark.parametrize("claim", ABSURD)
@pytest.mark.parametrize("write", [absurd_state, absurd_script])
def test_tensors_that_claim_too_much(claim, write, reader, tmp_path):
    key, read = reader
    path = tmp_path / "weights.pt"
    write(path, ABSURD[claim])
    refused(read, path)


@pytest.mark.parametrize("what", GREEDY)
def test_files_that_would_take_memory_without_end(what, reader, tmp_path):
    key, read = reader
    path = tmp_path / "weights.pt"
    GREEDY[what](path)
    refused(read, path)


@pytest.mark.parametrize(
    "header",
    [
        struct.pack("<Q", 2**63) + b"{}",
        struct.pack("<Q", 70) + b'{"w":{"dtype":"F32","shape":[9000000000],"data_offsets":[0,16]}}',
        struct.pack("<Q", 64) + b'{"w":{"dtype":"F32","shape":[4],"data_offsets":[0,99999999999]}}',
        struct.pack("<Q", 64) + b'{"w":{"dtype":"F32","shape":[4],"data_offsets":[-16,0]}}        ',
    ],
    ids=["endless header", "shape", "end", "start"],
)
def test_safetensors_that_claim_too_much(header, reader, tmp_path):
    key, read = reader
    path = tmp_path / "weights.safetensors"
    path.write_bytes(header.ljust(100) + bytes(16))
    refused(read, path)


def test_a_plain_script_is_read(tmp_path):
    """So that what is refused above is refused for what it claims."""
    from tests.safety.live_weights import _Stored

    path = tmp_path / "weights.pt"
    values = torch.arange(4.0).numpy().tobytes()
    write_script(path, {"weight": _Stored("FloatStorage", 1, (3,), (1,))}, values)
    assert checkpoint.read_weights(path)["weight"].tolist() == [1, 2, 3]


def test_what_a_careful_reader_of_a_library_breaks_on_is_not_read_again(
    tmp_path, mark, monkeypatch
):
    """open_clip reads a file again without care where the careful way raised a TypeError."""
    from open_clip.factory import load_state_dict

    path = tmp_path / "weights.pt"
    LIVE["a state that breaks careful readers"][0](path, mark.path, {})
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    if not mark.is_left_by(lambda: load_state_dict(str(path))):
        pytest.skip("this open_clip does not")
    with pytest.raises(TypeError):
        read_weights_file(path)
    assert not mark.is_left


def test_weights_that_timm_keeps_are_read_as_tensors(tmp_path, mark, monkeypatch):
    """Whatever PyTorch does by default."""
    path = tmp_path / "pytorch_model.bin"
    torch.save({"extra": Code(mark.path)}, path)
    assert mark.is_left_by(lambda: torch.load(path, weights_only=False))
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    monkeypatch.setattr(hugging_face, "try_to_load_from_cache", lambda *_, **__: str(path))
    backbone = {"type": "TIMMBackbone", "model_name": "convnext_atto", "pretrained": False}
    network = build_model({"type": "EncoderDecoder", "backbone": backbone, "decode_head": HEAD})
    with pytest.raises(UserError, match="holds more than tensors"):
        weight_sources.fetch_imagenet(network.backbone, backbone, None)
    assert not mark.is_left
