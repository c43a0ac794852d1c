"""The benchmark runs to its end on a tiny model, and tells what it does not know."""

from __future__ import annotations

import subprocess
import sys

import pytest

from pipeline.configuration.registry import methods
from pipeline.stages.config import compose, read_config
from tests import REPOSITORY
from tests.methods import dense_method
from tests.small_runs import Finished


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


@pytest.mark.large
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_stages_are_held_against_the_plain_version(benchmark, precision):
    rows = table(benchmark("--sections", "stages", "--precision", precision))
    names = [name for name in rows if name.startswith(("tags", "CAMs"))]
    assert names == ["tags, 4.5 crops", "CAMs, 2 tags", "tags and CAMs together"]
    for name in names:
        plain, ours, rate, times = map(float, rows[name][:4])
        assert 1 / rate == pytest.approx(ours, abs=6e-4)
        assert times / rate == pytest.approx(plain, abs=6e-4 + 6e-3 / rate)


def test_other_cams_are_held_against_clip_es(benchmark):
    rows = table(benchmark("--sections", "cams", "--size", "112x96"))
    alone = [m.name for m in methods("dense") if not m.settings.needs_more()]  # plug-ins as well
    passes = {name: str(dense_method(name).passes) for name in alone}
    wanted = {"excel": "1", **passes}
    assert {n: cells[3] for n, cells in rows.items() if "".join(cells[3:4]).isdecimal()} == wanted


@pytest.mark.large
def test_other_refiners_are_held_against_the_crf(benchmark):
    rows = table(benchmark("--sections", "refiners", "--repeats", "1"))
    measured = [n for n, cells in rows.items() if n.isidentifier() and cells[0].isdecimal()]
    assert measured == ["pamr", "par", "regions"]
    for name in measured:
        ours, crf, ratio = map(float, rows[name][:3])
        assert ratio * crf == pytest.approx(ours, abs=0.51 + 0.51 * ratio)
    assert "crf by pydensecrf" in rows


@pytest.mark.large
def test_steps_and_text_are_told(benchmark):
    assert table(benchmark("--sections", "steps")).keys() >= {"DMAR", "CWR, 4 crops"}
    finished = benchmark("--sections", "text")
    assert finished.code == 0, finished.errors
    assert "6 names × 85 prompts" in finished.output


@pytest.mark.large
def test_segmenters_are_measured(benchmark):
    names = ("demo", "timm_mlp:resnet10t")
    rows = table(benchmark("--sections", "segmenters", "--segmenters", ",".join(names)))
    demo, timm = (rows[name] for name in names)
    assert [demo[0], demo[1], demo[4]] == ["3.1", "14.3", "0.1"]
    assert [timm[0], timm[1], timm[4]] == ["5.4", "26.1", "0.3"]
    peaks = [float(row[1]) * float(row[2]) / float(row[3].rstrip("%")) for row in (demo, timm)]
    assert peaks[0] > 0 and peaks[0] == pytest.approx(peaks[1], rel=0.2)  # of percent, rounded


@pytest.mark.large
def test_networks_of_photographs_are_measured(benchmark):
    given = ["--networks", "timm_mlp,frozen_clip:ViT-B-32", "--size", "96x64", "--repeats", "1"]
    rows = table(benchmark("--sections", "networks", *given))
    assert rows["timm_mlp"][2] == "–" and 0 < int(rows["frozen_clip:ViT-B-32"][2].rstrip("%")) < 100
    precision, step, _, minutes, _ = rows["frozen_clip:ViT-B-32"]
    assert precision in ("fp32", "bf16")
    iterations = read_config(
        compose(["dataset=folder", "clip=vit_b32", "dataset.root=a", "dataset.classes=[b]"])
    ).segmenter.iterations
    assert int(minutes) == pytest.approx(iterations * float(step) / 60, abs=1)


@pytest.mark.large
def test_masks_are_measured_alone_and_in_one_pass(benchmark, monkeypatch):
    monkeypatch.setattr("tools.benchmark.masks._IMAGES", 12)
    rows = table(benchmark("--sections", "masks"))
    names = ("stand-in for a GPU: tags and CAMs", "one after the other", "in one pass")
    assert [*rows][-3:] == [*names]
    crf, stand_in, both = (float(cells[0]) for cells in [*rows.values()][-4:-1])
    assert stand_in >= 0.03 and both == pytest.approx(crf + stand_in, abs=2e-3)


@pytest.mark.large
def test_a_step_of_the_training_is_held_against_a_plain_one(benchmark, monkeypatch):
    monkeypatch.setattr("tools.benchmark.segmenters._DEMO_CROP", 64)
    rows = table(benchmark("--sections", "training"))
    assert "fp32" in rows
    for name in rows.keys() & {"fp32", "bf16"}:
        plain, ours, times = map(float, rows[name])
        assert times * ours == pytest.approx(plain, abs=6e-4 * (1 + times) + 6e-3 * ours)


@pytest.mark.large
def test_what_millions_come_to_is_worked_out(benchmark, monkeypatch):
    monkeypatch.setattr("tools.benchmark.scale._IMAGES", 40)
    rows = table(benchmark("--sections", "scale"))
    assert rows["1,300,000"][2] == "2,600,000"
    seconds = float(rows["tags and CAMs"][0].split()[0])
    few, many = (float(rows[count][0]) for count in ("10,582", "1,300,000"))
    assert few >= seconds * 10_582 / 3600 - 0.02
    assert many == pytest.approx(few * 1_300_000 / 10_582, abs=0.01 * 1_300_000 / 10_582)


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
    assert finished.errors.startswith(
        "error: the benchmark is part of a checkout of the repository"
    )
