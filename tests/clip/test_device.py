"""What the CPU can do, and the precision that follows from it."""

from __future__ import annotations

import pytest
import torch

from pipeline.clip import device
from pipeline.errors import UserError


@pytest.mark.parametrize(
    ("flags", "wanted", "on_device", "expected"),
    [
        ("avx512f avx512_bf16", "auto", "cpu", "bf16"),
        ("amx_tile amx_bf16", "auto", "cpu", "bf16"),
        ("avx2 avx512f", "auto", "cpu", "fp32"),
        ("", "auto", "cpu", "fp32"),
        ("avx512_bf16", "auto", "cuda", "fp32"),
        ("avx512_bf16", "fp32", "cpu", "fp32"),
        ("avx2", "bf16", "cpu", "bf16"),
    ],
)
def test_the_cpu_decides_what_auto_means(flags, wanted, on_device, expected, tmp_path, monkeypatch):
    cpu = tmp_path / "cpuinfo"
    cpu.write_text(f"processor : 0\nflags : fpu {flags}\n")
    monkeypatch.setattr(device, "_CPU", cpu)
    for name in device._ISA_LIMITS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(device, "cpu_flags", device.cpu_flags.__wrapped__)
    assert device.settle_precision(wanted, on_device) == expected
    types = {"fp32": torch.float32, "bf16": torch.bfloat16}
    assert device.choose_precision(wanted, on_device) == types[expected]


@pytest.mark.parametrize(
    ("limit", "expected"),
    [
        ("AVX2", set()),
        ("avx512_core_bf16", {"avx512_bf16"}),
        ("AVX512_CORE_AMX", None),
        ("ALL", None),
    ],
)
@pytest.mark.parametrize("name", device._ISA_LIMITS)
def test_what_onednn_may_not_use_is_no_flag(name, limit, expected, tmp_path, monkeypatch):
    flags = {"avx512_bf16", "amx_bf16", "amx_tile"}
    cpu = tmp_path / "cpuinfo"
    cpu.write_text(f"processor : 0\nflags : fpu {' '.join(flags)}\n")
    monkeypatch.setattr(device, "_CPU", cpu)
    for each in device._ISA_LIMITS:
        monkeypatch.delenv(each, raising=False)
    monkeypatch.setenv(name, limit)
    found = device.cpu_flags.__wrapped__()
    assert found == {"fpu"} | (flags if expected is None else expected)


def test_fp16_is_refused_on_a_cpu():
    with pytest.raises(UserError, match=r"^segmenter\.precision=fp16 is"):
        device.settle_precision("fp16", "cpu", "segmenter.precision")
