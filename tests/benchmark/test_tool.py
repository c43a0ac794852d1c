"""The benchmark runs to its end on a tiny model, and tells what it does not know."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import pytest

from pipeline.configuration.registry import methods
from tests import REPOSITORY
from tests.methods import dense_method
from tests.small_runs import Finished
from tools.benchmark import bank as section_of_bank
from tools.benchmark.photographs import random_tower


@pytest.fixture
def benchmark(run_tool, tiny_checkpoint):
    def run(*arguments: str) -> Finished:
        fixed = ["--size", "64x48", "--names", "4,2", "--images", "2", "--repeats", "1"]
        return run_tool("benchmark.py", "--checkpoint", tiny_checkpoint, *fixed, *arguments)

    return run


def table(finished: Finished) -> dict[str, list[str]]:
    """Returns the cells after the first one of each row that a section printed, by the first."""
    assert finished.code == 0, finished.errors
    rows = [line for line in finished.output.splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]
    return {first: rest for first, *rest in cells}


SMALL = {"masks._IMAGES": 12, "scale._IMAGES": 40, "segmenters._DEMO_CROP": 64}


@pytest.mark.large
@pytest.mark.parametrize(
    ("section", "names"),
    [
        ("stages --precision fp32", ["tags, 4.5 crops", "CAMs, 2 tags", "tags and CAMs together"]),
        ("stages --precision bf16", ["tags, 4.5 crops", "CAMs, 2 tags", "tags and CAMs together"]),
        ("refiners", ["pamr", "par", "regions", "crf by pydensecrf"]),
        ("steps", ["DMAR", "CWR, 4 crops"]),
        ("text", ["ours, cold", "ours, from the disk"]),
        ("masks", ["stand-in for a GPU: tags and CAMs", "one after the other", "in one pass"]),
        ("training", ["fp32"]),
        ("scale", ["tags and CAMs", "1,300,000"]),
    ],
)
def test_a_section_tells_what_it_measured(section, names, benchmark, monkeypatch):
    for name, value in SMALL.items():
        monkeypatch.setattr(f"tools.benchmark.{name}", value)
    assert table(benchmark("--sections", *section.split())).keys() >= {*names}


@pytest.mark.large
def test_parts_of_a_picture_of_a_bank_are_measured(benchmark, monkeypatch):
    for name, value in {"_SIZE": (400, 300), "_BANKS": (500, 700)}.items():
        monkeypatch.setattr(section_of_bank, name, value)

    def small(release):
        dimensions = release.dimensions._replace(depth=2, native_size=64)
        return random_tower(replace(release, heads=1, dimensions=dimensions))

    monkeypatch.setattr(section_of_bank, "random_tower", small)
    rows = table(benchmark("--sections", "bank", "--repeats", "2"))
    seconds = {name: float(cells[0]) for name, cells in rows.items() if cells[0][0].isdecimal()}
    *parts, whole, _, _ = seconds.values()
    assert [*seconds][:4] == [*section_of_bank._PARTS.values()] and min(parts) >= 0
    assert 0 < sum(parts) <= 1.1 * whole and "a search among 700 regions" in seconds


def test_other_cams_are_held_against_clip_es(benchmark):
    rows = table(benchmark("--sections", "cams", "--size", "112x96"))
    alone = [m.name for m in methods("dense") if not m.settings.needs_more()]  # plug-ins as well
    passes = {name: str(dense_method(name).passes) for name in alone}
    wanted = {"excel": "1", **passes}
    assert {n: cells[3] for n, cells in rows.items() if "".join(cells[3:4]).isdecimal()} == wanted


@pytest.mark.large
def test_segmenters_are_measured(benchmark):
    names = ("demo", "timm_mlp:resnet10t")
    given = ["--sections", "segmenters", "--segmenters"]
    rows = table(benchmark(*given, ",".join(names)))
    demo, timm = (rows[name] for name in names)
    assert [demo[0], demo[1], demo[4]] == ["3.1", "14.3", "0.1"]
    assert [timm[0], timm[1], timm[4]] == ["5.4", "26.1", "0.3"]
    peaks = [float(row[1]) * float(row[2]) / float(row[3].rstrip("%")) for row in (demo, timm)]
    assert peaks[0] > 0 and peaks[0] == pytest.approx(peaks[1], rel=0.2)  # of percent, rounded
    smaller = table(benchmark(*given, "demo", "--crop", "107"))["demo"]
    assert float(smaller[1]) == pytest.approx(14.3 / 9, rel=0.1), "a third of the side"


@pytest.mark.large
def test_networks_of_photographs_are_measured(benchmark):
    given = ["--networks", "timm_mlp,frozen_clip:ViT-B-32", "--size", "96x64", "--repeats", "1"]
    rows = table(benchmark("--sections", "networks", *given))
    assert rows["timm_mlp"][2] == "–" and 0 < int(rows["frozen_clip:ViT-B-32"][2].rstrip("%")) < 100


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (["--sections", "step"], "there is no section step: did you mean steps? choose from steps"),
        (["--device", "abacus"], "is not a device"),
        (["--precision", "fp16", "--device", "cpu"], "fp16 is for GPUs"),
    ],
)
def test_a_wrong_benchmark_is_answered_with_one_sentence(benchmark, wrong, message):
    finished = benchmark(*wrong)
    assert finished.code == 2
    assert message in finished.errors and "Traceback" not in finished.errors


@pytest.mark.large
def test_sections_run_in_processes_of_their_own(benchmark, monkeypatch):
    commands = []
    monkeypatch.setattr(subprocess, "run", lambda command, check: commands.append(command))
    finished = benchmark("--sections", "text,masks")
    assert finished.code == 0, finished.errors
    for command, section in zip(commands, ("text", "masks"), strict=True):
        assert command[:2] == [sys.executable, str(REPOSITORY / "tools" / "benchmark.py")]
        assert command[-2:] == ["--sections", section]


def test_an_installed_package_says_where_the_benchmark_is(run_tool, tmp_path, monkeypatch):
    monkeypatch.setattr("pipeline.commands.benchmark.HOME", tmp_path)
    finished = run_tool("benchmark.py")
    assert finished.code == 2
    assert finished.errors.startswith("error: the benchmark is part of a checkout of the ")
