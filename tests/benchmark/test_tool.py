"""The benchmark runs to its end on a tiny model, and tells what it does not know."""

from __future__ import annotations

import re
import runpy
import sys

import pytest

from tests.conftest import REPOSITORY


@pytest.fixture
def benchmark(monkeypatch, capsys, tiny_checkpoint):
    def run(*arguments: str) -> tuple[int, str, str]:
        fixed = ["--size", "64x48", "--names", "4,2", "--images", "2", "--repeats", "1"]
        command = ["tools/benchmark.py", "--checkpoint", str(tiny_checkpoint), *fixed, *arguments]
        monkeypatch.setattr(sys, "argv", command)
        code = 0
        try:
            runpy.run_path(str(REPOSITORY / "tools" / "benchmark.py"), run_name="__main__")
        except SystemExit as exit_:
            code = exit_.code or 0
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_stages_are_held_against_the_plain_version(benchmark, precision):
    code, output, errors = benchmark("--sections", "stages", "--precision", precision)
    assert code == 0, errors
    rows = re.findall(r"^\| (tags.*?|maps.*?) \| ([\d.]+) \| ([\d.]+) \|", output, re.MULTILINE)
    assert [name for name, _, _ in rows] == [
        "tags, 4.5 crops",
        "maps, 2 tags",
        "tags and maps together",
    ]
    assert all(float(plain) > 0 and float(ours) > 0 for _, plain, ours in rows)


def test_steps_and_text_are_told(benchmark):
    code, output, errors = benchmark("--sections", "steps")
    assert code == 0, errors
    assert "| DMAR |" in output and "| CWR, 4 crops |" in output
    code, output, errors = benchmark("--sections", "text")
    assert code == 0 and "6 names × 85 prompts" in output, errors


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (["--sections", "step"], "there is no section step: choose from steps, stages"),
        (["--device", "abacus"], "is no device"),
        (["--precision", "fp16", "--device", "cpu"], "fp16 is for GPUs"),
    ],
)
def test_a_wrong_benchmark_is_answered_with_one_sentence(benchmark, wrong, message):
    code, _, errors = benchmark(*wrong)
    assert code == 2 and message in errors and "Traceback" not in errors
