"""The fused attention gives what the formula gives; without a kernel, runs go on by head."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from pipeline.clip import device
from pipeline.clip.attention import Attention
from pipeline.clip.compute import fused
from pipeline.clip.compute.fused import FusedKernel, choose_attention
from pipeline.clip.encoder import ClipEncoder
from pipeline.clip.image_tower import ImageTower
from pipeline.engine import progress
from pipeline.engine.compiler import load
from pipeline.errors import UserError
from tests import NOT_HERE
from tests.tiny_clip import build_tiny_clip

VECTORS = {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"}  # those of x86-64-v4
HAS_BF16 = "avx512_bf16" in device.cpu_flags()
LACKS = pytest.mark.skipif(not HAS_BF16, reason=f"{NOT_HERE}: avx512_bf16 is missing")
TYPES = [torch.float32, pytest.param(torch.bfloat16, marks=LACKS)]


@pytest.fixture(scope="module")
def kernel():
    """The kernel, also of a processor without AMX: then for its vectors, and oneDNN multiplies."""
    if not device.cpu_flags() >= VECTORS:
        pytest.skip(f"{NOT_HERE}: AVX-512 is missing")
    with pytest.MonkeyPatch.context() as patched:
        if not device.cpu_flags() >= fused._REQUIRED:
            patched.setattr(fused, "_REQUIRED", VECTORS)
            options = (*fused._OPTIONS, "-march=x86-64-v4", "-mavx512bf16")
            patched.setattr(fused, "_OPTIONS", options)
        return FusedKernel()


def random_heads(
    dtype: torch.dtype, rows: int = 70, keys: int = 70, width: int = 16
) -> list[torch.Tensor]:
    """Returns queries, keys and values as a block projects them, in one tensor if possible."""
    generator = torch.Generator().manual_seed(0)
    if rows == keys:
        projected = torch.randn(2, rows, 3 * 4 * width, generator=generator).to(dtype)
        return list(projected.unflatten(-1, (3, 4, width)).permute(2, 0, 3, 1, 4))
    sizes = (rows, keys, keys)
    return [torch.randn(2, 4, n, width, generator=generator).to(dtype) for n in sizes]


def formula(
    query: torch.Tensor, key: torch.Tensor, bias: torch.Tensor | float = 0.0
) -> torch.Tensor:
    """Returns the weights, B×heads×T×S float64."""
    return (query.double() @ key.double().mT / query.shape[-1] ** 0.5 + bias).softmax(-1)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize(
    ("rows", "keys", "width"), [(16, 16, 64), (70, 70, 16), (129, 129, 64), (64, 97, 8), (33, 5, 6)]
)
@pytest.mark.parametrize("bias", [None, (), (1, 1), (2, 1)], ids=str)
def test_the_kernel_computes_the_formula(kernel, dtype, rows, keys, width, bias):
    query, key, value = random_heads(dtype, rows, keys, width)
    generator = torch.Generator().manual_seed(1)
    added = None if bias is None else torch.randn(*bias, rows, keys, generator=generator)
    attended, mean = kernel(query, key, value, added, prefix=1 if rows == keys else None)
    weights = formula(query, key, 0.0 if added is None else added)
    tolerance = 2e-6 if dtype == torch.float32 else 2e-2
    assert attended.dtype == dtype
    torch.testing.assert_close(attended.double(), weights @ value.double(), atol=tolerance, rtol=0)
    if rows == keys:
        expected = weights.mean(1)[:, 1:, 1:].float()
        torch.testing.assert_close(mean, expected, atol=1e-6, rtol=0)
        none, same = kernel(query, key, None, added, prefix=1)
        assert none is None and torch.equal(same, mean)
    else:
        assert mean is None


@pytest.mark.parametrize("dtype", TYPES)
def test_bytes_depend_on_nothing_but_the_image(kernel, dtype):
    query, key, value = random_heads(dtype, 200, 200)
    threads = torch.get_num_threads()
    expected = kernel(query, key, value, prefix=1)
    try:
        for number in (1, 2, 3):
            torch.set_num_threads(number)
            alone = [kernel(query[i:], key[i:], value[i:], prefix=1) for i in (0, 1)]
            for whole, first, second in zip(expected, *alone):
                assert torch.equal(whole, first) and torch.equal(whole[1:], second)
    finally:
        torch.set_num_threads(threads)
    without, none = kernel(query, key, value)
    assert none is None and torch.equal(without, expected[0])


@pytest.mark.parametrize("dtype", TYPES)
def test_extreme_logits_keep_their_meaning(kernel, dtype):
    query, key, value = (heads.clone() for heads in random_heads(dtype))
    query *= 1000
    attended, mean = kernel(query, key, value, prefix=1)
    weights = formula(query, key)
    torch.testing.assert_close(mean, weights.mean(1)[:, 1:, 1:].float(), atol=1e-4, rtol=0)
    assert attended.isfinite().all()
    key[0, 0, 3] = float("nan")
    attended, mean = kernel(query, key, value, prefix=1)
    assert attended[0, 0].isnan().all() and mean[0].isnan().all()
    assert attended[0, 1:].isfinite().all() and mean[1].isfinite().all()


@pytest.mark.parametrize("dtype", TYPES)
def test_the_image_tower_gives_the_same_with_the_kernel(kernel, dtype):
    tolerance = 1e-4 if dtype == torch.float32 else 0.1
    pixels = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(1))
    found, seen = [], []
    for given in (None, kernel):
        encoder = ClipEncoder(ImageTower.of(build_tiny_clip()), precision=dtype, kernel=given)
        recorded: list[torch.Tensor] = []
        with torch.no_grad():
            inputs = encoder.backbone(pixels, lambda _, weights: recorded.append(weights))  # noqa: B023
        found.append(inputs.tokens)
        seen.append(torch.stack(recorded))
    torch.testing.assert_close(*found, atol=tolerance, rtol=1e-2)
    torch.testing.assert_close(*seen, atol=tolerance / 5, rtol=0)
    assert not torch.equal(*found), "the kernel was not used"


@pytest.mark.parametrize("side", [64, 352])  # 352 pixels: 485 tokens, in two pieces
@pytest.mark.parametrize("dtype", TYPES)
def test_the_place_in_a_batch_changes_nothing(kernel, dtype, side):
    encoder = ClipEncoder(ImageTower.of(build_tiny_clip()), precision=dtype, kernel=kernel)
    pixels = torch.randn(4, 3, side, side, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        first = encoder.backbone(pixels).tokens
        turned = encoder.backbone(pixels.roll(1, 0)).tokens
    assert torch.equal(first.roll(1, 0), turned)


def test_few_queries_and_gradients_are_left_to_torch(kernel):
    query, key, value = random_heads(torch.float32)
    assert kernel.suits(query) and not kernel.suits(query[:, :, :1])
    assert not kernel.suits(query.to("meta")) and not kernel.suits(query.double())
    assert not kernel.suits(query.clone().requires_grad_())
    one = Attention(kernel)(query[:, :, :1], key, value)
    torch.testing.assert_close(one, Attention()(query[:, :, :1], key, value), atol=0, rtol=0)
    expected = Attention().with_weights(query, key, value)
    for ours, theirs in zip(Attention(kernel).with_weights(query, key, value), expected):
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=0)


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A machine with AMX and a compiler that writes a file; returns the log of the compiler.

    The file is no program: functions take the place of those that it would hold.
    """
    cpu, compiler = tmp_path / "cpuinfo", tmp_path / "compiler"
    cpu.write_text("processor : 0\nflags : fpu amx_tile amx_bf16 avx512_bf16\n")
    compiler.write_text(
        f'#!/bin/sh\necho compiled >> {tmp_path}/log\nwhile [ "$1" != -o ]; do shift; done\n'
        'echo kernel > "$2"\n'
    )
    compiler.chmod(0o755)
    monkeypatch.setattr(device, "_CPU", cpu)
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA", raising=False)
    monkeypatch.delenv("DNNL_MAX_CPU_ISA", raising=False)
    monkeypatch.setenv("CXX", f"{compiler} -g")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(progress, "notes", {})
    monkeypatch.setattr(fused, "load", functions_of)
    forget(monkeypatch)
    return tmp_path / "log"


def functions_of(kernel: bytes, *names: str) -> list[SimpleNamespace]:
    assert kernel == b"kernel\n"
    return [SimpleNamespace() for _ in names]


def forget(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes the functions that look at the machine look again, as in another process."""
    for name in ("cpu_flags", "compiled"):
        monkeypatch.setattr(fused, name, cache(getattr(fused, name).__wrapped__))


def test_a_kernel_is_compiled_for_auto_and_for_fused(machine, monkeypatch, capsys):
    assert choose_attention("auto", "cpu") and choose_attention("fused", "cpu")
    forget(monkeypatch)
    assert choose_attention("auto", "cpu")
    assert machine.read_text() == "compiled\n" and capsys.readouterr().err == ""


@pytest.mark.parametrize(("wanted", "device"), [("by_head", "cpu"), ("auto", "cuda")])
def test_nothing_is_compiled_that_is_not_used(machine, wanted, device):
    assert choose_attention(wanted, device) is None and not machine.exists()


def test_a_gpu_has_no_fused_attention():
    with pytest.raises(UserError, match="attention=fused .*: give auto"):
        choose_attention("fused", "cuda")


def test_a_cpu_without_amx_computes_by_head(machine, monkeypatch, capsys):
    for flags in ("fpu amx_tile avx512_bf16", ""):
        device._CPU.write_text(f"flags : {flags}\n")
        forget(monkeypatch)
        assert choose_attention("auto", "cpu") is None
    device._CPU.unlink()
    forget(monkeypatch)
    assert choose_attention("auto", "cpu") is None
    assert capsys.readouterr() == ("", "")
    with pytest.raises(UserError, match="no AMX: give by_head"):
        choose_attention("fused", "cpu")


def test_without_a_compiler_attention_is_computed_by_head(machine, monkeypatch, capsys):
    monkeypatch.setenv("CXX", "no-such-compiler")
    for _ in range(2):
        assert choose_attention("auto", "cpu") is None
    [note] = capsys.readouterr().err.splitlines()
    assert note.startswith("note: ") and "slower" in note and "no-such-compiler" in note
    with pytest.raises(UserError, match=r"no C\+\+ compiler no-such-compiler"):
        choose_attention("fused", "cpu")


def test_a_compiler_that_fails_is_asked_once(machine, monkeypatch, capsys):
    compiler = Path(os.environ["CXX"].split()[0])
    compiler.write_text(f"#!/bin/sh\necho compiled >> {machine}\necho 'error: why' >&2\nexit 1\n")
    for _ in range(2):
        forget(monkeypatch)
        assert choose_attention("auto", "cpu") is None and machine.read_text() == "compiled\n"
    [log] = (machine.parent / "cache" / "afseg").iterdir()
    assert str(log) in capsys.readouterr().err and log.read_text().endswith("why\n")


def test_without_a_kernel_that_can_be_loaded_attention_is_computed_by_head(
    machine, monkeypatch, capsys
):
    monkeypatch.setattr(fused, "load", load)
    assert choose_attention("auto", "cpu") is None
    assert "slower" in capsys.readouterr().err
    with pytest.raises(UserError, match="could not be loaded.*by_head"):
        choose_attention("fused", "cpu")
