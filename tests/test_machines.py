"""Results of one machine are found on every other; manifests count what each has computed.

Stand-ins make three machines of this one: with AMX, without it, and with a GPU.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import permutations
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from PIL import Image

from pipeline.clip import attention, device, frozen
from pipeline.clip.compute import fused
from pipeline.commands import compare, run_stage
from pipeline.engine import workers
from pipeline.engine.results import Results
from pipeline.errors import UserError
from pipeline.evaluation.about import found_precision
from pipeline.segmenter import stage as segmenting
from pipeline.stages.config import compose, read_config
from pipeline.stages.pipeline import Pipeline
from tests import conftest
from tests.small_runs import TINY_SEGMENTER, draw_photograph, folder_options, latest

AMX = {"amx_tile", "amx_bf16", "avx512_bf16"}
TRAITS = {
    "amx": ("attention=fused", "device=cpu", "precision=bf16"),
    "plain": ("attention=by_head", "device=cpu", "precision=fp32"),
    "gpu": (None, "device=cuda", "precision=fp32"),
}
"""Machine → the traits of what it computes."""

STAGES = ("tags", "cams", "masks", "train", "predict")
FOLDERS = ("all/tags", "all/cams", "all/masks", "segmenter", "all/predictions")
COUNT = 3


@contextmanager
def standing_in(name: str) -> Iterator[pytest.MonkeyPatch]:
    """Makes this machine another one, whose kernel, GPU and bf16 compute as this CPU's fp32."""

    def compute(_, query, key, value, bias=None, *, prefix=None):
        if prefix is not None:
            return attention.Attention(None, prefix).with_weights(query, key, value)
        return attention.attend(query, key, value, bias), None

    caches = (frozen._encoder, workers._resident)
    with pytest.MonkeyPatch.context() as patched:
        for module in (device, fused):
            patched.setattr(module, "cpu_flags", lambda: frozenset(AMX if name == "amx" else ()))
        patched.setattr(frozen, "choose_precision", lambda *_: torch.float32)
        patched.setattr(fused, "compiled", lambda *_: b"")
        patched.setattr(fused, "load", lambda _, *names: [SimpleNamespace() for _ in names])
        patched.setattr(fused.FusedKernel, "__call__", compute)
        if name == "gpu":
            for module in (frozen, segmenting):
                patched.setattr(module, "device_kind", lambda _: "cuda")
            patched.setattr(frozen, "is_cpu", lambda _: False)
        for cache in caches:
            cache.cache_clear()
        yield patched
    for cache in caches:
        cache.cache_clear()


@pytest.fixture(scope="module")
def opened(tmp_path_factory, tiny_checkpoint) -> Callable[..., Pipeline]:
    """Returns a run on a few photographs; its results lie in the folder that is given."""
    photographs = tmp_path_factory.mktemp("photographs")
    for index in range(COUNT):
        Image.fromarray(draw_photograph(index, 64, 96)).save(photographs / f"{index}.png")
    options = [*folder_options(photographs, tiny_checkpoint), *TINY_SEGMENTER]
    options.append("runtime.precision=auto")

    def opened(out: Path, *overrides: str) -> Pipeline:
        return Pipeline.open(read_config(compose([*options, f"output_dir={out}", *overrides])))

    return opened


@pytest.fixture(scope="module")
def made(opened, tmp_path_factory) -> dict[str, Path]:
    """Machine → its results."""
    found = {}
    for name in TRAITS:
        found[name] = tmp_path_factory.mktemp(name)
        with standing_in(name):
            assert all(outcome.computed for outcome in opened(found[name]).run(STAGES))
    return found


def manifest(folder: Path) -> dict:
    return json.loads((folder / "manifest.json").read_text())


def entries(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "entries.jsonl").read_text().splitlines()]


def test_manifests_count_images_by_what_a_machine_computes_with(made, opened):
    for name, out in made.items():
        way, kind, precision = TRAITS[name]
        features = {trait: COUNT for trait in (way, kind, precision) if trait}
        expected = [features, features, {}, {kind: COUNT, precision: COUNT}, {kind: COUNT}]
        assert [manifest(out / f / "latest").get("machines") for f in FOLDERS] == expected, name
    with standing_in("plain"):  # a precision that is given is in the key
        given = opened(out, "runtime.precision=bf16").builder.clip
        assert given.machine == ["device=cpu", "attention=by_head"]


@pytest.mark.parametrize(("name", "other"), permutations(TRAITS, 2))
def test_results_of_one_machine_are_found_on_every_other(made, opened, name, other):
    with standing_in(other) as patched:
        if other == "gpu":  # which is asked for nothing
            patched.setattr(device, "choose_device", lambda _: "cuda")
        outcomes = list(opened(made[name]).run(STAGES))
    assert [outcome.stage for outcome in outcomes] == [Path(folder).name for folder in FOLDERS]
    assert not any(outcome.computed or outcome.reused for outcome in outcomes)


def test_no_trait_is_in_a_key_an_own_key_or_an_input(made, opened):
    found = []
    for name, out in made.items():
        with standing_in(name):
            builder = opened(out).builder
            stages, settings = builder.stages, [json.dumps(s.settings) for s in builder.stages]
        per_image = [stage.results(builder.store) for stage in stages[:3]]
        lines = [
            (folder.own_key, entry["inputs"], folder.result_of(image_id))
            for folder in per_image
            for image_id, entry in sorted(folder.entries.items())
        ]
        found.append(([stage.key for stage in stages], settings, lines))
    assert len(found[0][2]) == 3 * COUNT
    assert found[0] == found[1] == found[2]


def test_a_folder_of_several_machines_says_so(made, opened, tmp_path, capsys):
    with standing_in("amx"):
        list(opened(tmp_path, "dataset.limit=1").run(["tags", "cams"]))
    with standing_in("plain"):
        list(opened(tmp_path).run(["tags", "cams", "masks", "report"]))
        # Results that are linked keep what computed them.
        (linked,) = opened(tmp_path, "tags.min_score=0.01").run(["tags"])
    counts = {"attention=fused": 1, "attention=by_head": COUNT - 1, "device=cpu": COUNT}
    counts |= {"precision=bf16": 1, "precision=fp32": COUNT - 1}
    assert linked.reused == COUNT
    assert manifest(linked.path)["machines"] == manifest(latest(tmp_path, "cams"))["machines"]
    assert manifest(linked.path)["machines"] == counts
    said = (
        "cams for split all were computed in ways that differ by rounding"
        " (images: 2 with attention=by_head, 2 with precision=fp32, 1 with attention=fused,"
        " 1 with precision=bf16)"
    )
    capsys.readouterr()
    run_stage.run(["stage=status", f"output_dir={tmp_path}"])
    notes = [line for line in capsys.readouterr().out.splitlines() if line.startswith("note: ")]
    assert f"note: {said}" in notes and len(notes) == 2, "that on both folders of tags, once"
    assert said in (tmp_path / "report.html").read_text()
    compare.run([str(tmp_path), str(made["amx"]), f"--output={tmp_path / 'page.html'}"])
    for text in (capsys.readouterr().out, (tmp_path / "page.html").read_text()):
        assert "tags for split all were computed in ways" in text
        assert "4 with attention=fused, 4 with precision=bf16, 2 with attention=by_head, " in text


def test_a_run_says_what_was_computed_in_several_ways(made, opened, tmp_path):
    """A folder that was continued on another machine, then CAMs in bf16 of tags in fp32."""
    with standing_in("amx"):
        (alone,) = opened(tmp_path / "a", "dataset.limit=1").run(["tags"])
    with standing_in("plain"):
        (continued,) = opened(tmp_path / "a").run(["tags"])
        (tags,) = opened(tmp_path / "b").run(["tags"])
    with standing_in("amx"):
        (cams,) = opened(tmp_path / "b").run(["cams"])
    assert not {"precision=bf16", "precision=fp32"} & {*re.findall(r"precision=\w+", alone.note)}
    assert "rounding" not in tags.note
    assert "tags for split all" in continued.note and "1 with precision=bf16" in continued.note
    assert "tags and cams for split all" in cams.note and "3 with precision=bf16" in cams.note
    found = [Results(latest(tmp_path / out, stage)) for out in "ab" for stage in ("tags", "cams")]
    wanted = ["auto (bf16, fp32)", "auto (fp32)", "auto (bf16, fp32)"]
    assert [found_precision("auto", results) for results in found if results.manifest] == wanted
    assert found_precision("fp32", found[0]) == "fp32"


def test_only_what_is_given_explicitly_is_refused(made, opened):
    with standing_in("plain"):
        (outcome,) = opened(made["amx"], "runtime.attention=by_head").run(["tags"])
        assert outcome.computed == 0
        with pytest.raises(UserError, match="attention=fused, but .* by_head"):
            list(opened(made["amx"], "runtime.attention=fused").run(["tags"]))


def test_a_folder_of_one_machine_says_nothing(made, capsys):
    run_stage.run(["stage=status", f"output_dir={made['amx']}"])
    assert "rounding" not in capsys.readouterr().out


def test_a_worker_computes_as_its_own_machine_can(opened, tmp_path, monkeypatch):
    """The run began where there is a kernel; two workers have one, and one has none."""
    work = []
    monkeypatch.setattr(workers, "_SHARD", 1)
    monkeypatch.setattr(workers, "_compute_in", lambda *given: work.append(given) or iter(()))
    with standing_in("amx"):
        list(opened(tmp_path, "executor=processes").run(["tags"]))
    (_, compute, _, shards) = work[0]
    ways = Counter()
    for name, shard in zip(("amx", "plain", "amx"), shards):
        with standing_in(name):
            lines, failures = compute(shard)
        assert not failures
        ways.update(trait for line in lines["tags"] for trait in line["machine"])
    assert ways == {
        "attention=fused": 2,
        "attention=by_head": 1,
        "device=cpu": 3,
        "precision=bf16": 2,
        "precision=fp32": 1,
    }


def test_ci_lists_last_what_another_processor_runs(monkeypatch):
    monkeypatch.setattr(conftest, "IN_CI", True)
    said: list[str] = []
    reasons = ("x", "not run on this processor: AVX-512 is missing", "y")
    reports = [SimpleNamespace(nodeid="a::b", longrepr=("", 1, f"Skipped: {r}")) for r in reasons]
    writes = {"section": said.append, "write_line": said.append}
    conftest.pytest_terminal_summary(SimpleNamespace(getreports=lambda _: reports, **writes))
    lines = [f"1 skipped: {reason} (a)" for reason in ("x", "y", "AVX-512 is missing")]
    assert said == ["skipped", *lines[:2], "not run on this processor", lines[2]]
