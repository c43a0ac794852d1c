"""The command line on a person's own photographs, from tags to a trained segmenter."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from pipeline.clip.encoder import ClipEncoder
from pipeline.commands.running import notes_on
from pipeline.errors import UserError
from pipeline.stages.config import compose, read_config
from pipeline.stages.pipeline import Pipeline
from tests.small_runs import TINY_SEGMENTER, artefacts, draw_photograph, latest, replaced


def test_all_stages_run_on_a_folder_and_again_find_everything(run_stage, arguments, tmp_path):
    out = tmp_path / "out"
    first = run_stage(*arguments, *TINY_SEGMENTER)
    assert first.code == 0, first.errors
    ids = ["a", "b", "c", "d", "holiday 2026/e f"]
    with np.load(latest(out, "tags") / "scores.npz") as arrays:
        assert arrays["ids"].tolist() == ids
        assert arrays["classes"].tolist() == ["cat", "person", "rocket", "cup"]
        assert arrays["scores"].shape == (5, 4) and arrays["scores"].dtype == np.float32
    lines = (latest(out, "tags") / "tags.txt").read_text().splitlines()
    assert [line.split()[0] for line in lines] == [*ids[:4], "holiday%202026/e%20f"]
    for index, image_id in enumerate(ids):
        size = (64, 96) if index % 2 else (90, 70)
        with np.load(latest(out, "cams") / f"{image_id}.npz") as arrays:
            assert arrays["size"].tolist() == list(size)
            assert arrays["cams"].dtype == np.float16
            tags = [int(k) for k in lines[index].split()[1:]]
            assert arrays["keys"].tolist() == tags and tags
        for stage in ("masks", "predictions"):
            with Image.open(latest(out, stage) / f"{image_id}.png") as mask:
                assert mask.mode == "P" and mask.size == size[::-1]
                assert set(np.unique(np.asarray(mask))) <= {0, 1, 2, 3, 4}
    manifest = json.loads((out / "segmenter" / "latest" / "manifest.json").read_text())
    assert manifest["images"] == 5
    assert (out / "tables.md").is_file()

    before = artefacts(out)
    second = run_stage(*arguments, *TINY_SEGMENTER)
    assert second.code == 0, second.errors
    assert second.output.count(" 0 computed now") == 5
    assert artefacts(out) == before
    (tmp_path / "labels.csv").write_text("a,cat\n")
    labelled = f"dataset.labels={tmp_path / 'labels.csv'}"
    for more, stage in (((), "report"), ((labelled,), "evaluate")):  # where there is ground truth
        predicted = run_stage(*arguments, *TINY_SEGMENTER, "stage=predict", *more)
        assert f" stage={stage} " in predicted.output.splitlines()[-1]
    status = run_stage("stage=status", f"output_dir={out}")
    assert status.code == 0
    for stage in ("tags", "cams", "masks", "segmenter", "predictions"):
        assert stage in status.output


def test_images_that_were_left_out_are_listed_up_to_five(
    run_stage, arguments, photographs, tmp_path
):
    for name in ("u", "v", "w", "x", "y", "z"):
        (photographs / f"{name}.jpg").write_bytes(b"")
    finished = run_stage(*arguments, "stage=tags", "runtime.max_failures=6")
    assert finished.code == 0, finished.errors
    path = latest(tmp_path / "out", "tags").resolve() / "failures.jsonl"
    reasons = [json.loads(line) for line in path.read_text().splitlines()]
    named = [f"left out: {each['id']}: {each['reason']}" for each in reasons]
    said = [line for line in finished.errors.splitlines() if line.startswith("left out: ")]
    assert len(named) == 6 and said == [*named[:5], f"left out: 1 more, see {path}"]


def test_tags_and_maps_share_one_pass_over_an_image(run_stage, arguments, tmp_path, monkeypatch):
    passes = []
    backbone = ClipEncoder.backbone

    def count(self, pixels, *listeners):
        passes.append(len(listeners))
        return backbone(self, pixels, *listeners)

    monkeypatch.setattr(ClipEncoder, "backbone", count)
    together = run_stage(*arguments, "stage=[tags,cams]")
    assert together.code == 0, together.errors
    assert passes == [3] * 5
    assert re.search(r"cams +all +5 images, 5 computed now", together.output)
    passes.clear()
    apart = replaced(arguments, f"output_dir={tmp_path / 'apart'}")
    for stage in ("tags", "cams"):
        assert run_stage(*apart, f"stage={stage}").code == 0
    assert passes == [2] * 5 + [1] * 5
    assert artefacts(tmp_path / "apart") == artefacts(tmp_path / "out")
    passes.clear()
    assert run_stage(*arguments, "stage=[tags,cams]").code == 0
    assert passes == []


def test_images_in_batches_have_the_maps_of_images_alone(run_stage, arguments, tmp_path):
    stage = ["stage=[tags,cams]", "runtime.batch_size=3"]
    assert run_stage(*arguments, *stage).code == 0
    apart = replaced(arguments, f"output_dir={tmp_path / 'apart'}")
    for stage in ("tags", "cams"):
        assert run_stage(*apart, f"stage={stage}", "runtime.batch_size=3").code == 0
    assert artefacts(tmp_path / "apart") == artefacts(tmp_path / "out")


def test_the_last_line_says_what_comes_next(run_stage, arguments, tmp_path):
    finished = run_stage(*arguments, "stage=[tags,cams]")
    last = finished.output.splitlines()[-1]
    assert last.startswith(
        "next: python tools/run_stage.py stage=masks dataset=folder dataset.root="
    )
    assert "'dataset.classes=[cat,person,rocket,cup]'" in last
    # It is a command: what it says is what there is to type.
    again = run_stage(*shlex.split(last.removeprefix("next: "))[2:])
    assert again.code == 0, again.errors
    assert "next: python tools/run_stage.py stage=train " in again.output
    finished = run_stage(*arguments, "stage=report")
    report = tmp_path / "out" / "report.html"
    assert finished.output.splitlines()[-1] == f"next: open {report} in a browser"
    for stage in ("[tags,masks]", "status"):
        finished = run_stage(*arguments, f"stage={stage}")
        assert finished.code == 0 and f"stage={stage}" not in finished.output


def test_the_status_of_an_empty_folder_says_what_fills_it(run_stage, arguments, tmp_path):
    for out in (tmp_path / "absent", tmp_path):
        finished = run_stage(*replaced(arguments, f"output_dir={out}", "stage=status"))
        assert finished.code == 0 and not finished.errors
        start = f"{out} holds no results yet: run python tools/run_stage.py stage=tags dataset="
        assert finished.output.startswith(start) and finished.output.count("\n") == 1
    finished = run_stage("masks=file", "masks.path=x", f"output_dir={tmp_path}", "stage=status")
    assert "run python tools/run_stage.py stage=masks masks=file" in finished.output


def test_manifests_tell_the_last_run_from_all_runs(run_stage, arguments, photographs, tmp_path):
    def manifest(stage: str) -> dict:
        return json.loads((latest(tmp_path / "out", stage) / "manifest.json").read_text())

    stages = "stage=[tags,cams,masks]"
    (photographs / "broken.jpg").write_bytes(b"")
    finished = run_stage(*arguments, stages)
    assert "6 images, 5 computed now, 0 from the cache, 1 left out" in finished.output
    shown = re.findall(r"^stage (\d of 3): (\w+) all +0/(\d) ", finished.errors, re.MULTILINE)
    assert shown == [("1 of 3", "tags", "6"), ("3 of 3", "masks", "5")], "CAMs ride with tags"
    (photographs / "broken.jpg").unlink()
    Image.fromarray(draw_photograph(77, 50, 50)).save(photographs / "new.jpg")
    finished = run_stage(*arguments, stages)
    assert finished.output.count("6 images, 1 computed now, 5 from the cache  →") == 3
    for stage in ("tags", "cams", "masks"):
        found = manifest(stage)
        seconds = found["last"].pop("seconds")
        assert found["last"].items() >= {"images": 6, "computed": 1, "cached": 5}.items()
        assert found["computed"] == 6 and 0 <= seconds <= found["seconds"]
    finished = run_stage(*arguments, "stage=[masks,report]")
    assert finished.code == 0 and finished.errors.startswith("stage 2 of 2: report all  ")
    page = (tmp_path / "out" / "report.html").read_text()
    row = re.search(r'<th scope="row">tags.*?</tr>', page, re.DOTALL)[0]
    numbers = re.findall(r"<td>([\d, /–]+)</td>", row)
    assert numbers[:4] == ["6", "6", "1 / 5", "6"]  # images, cached, of the last run, in all


def test_evaluate_prints_the_figures_of_its_run_and_no_others(run_stage, arguments, tmp_path):
    (tmp_path / "labels.csv").write_text("a.jpg, cat\nb.png, cup\n")
    given = [*arguments, f"dataset.labels={tmp_path / 'labels.csv'}"]
    path = tmp_path / "out" / "metrics.json"
    assert run_stage(*given, "stage=[tags,evaluate]").code == 0
    content = json.loads(path.read_text())
    content["latest"]["tags"]["another"] = figures = content["latest"]["tags"]["all"]
    path.write_text(json.dumps(content))
    finished = run_stage(*given, "stage=evaluate")
    values = [f"{100 * figures[key]:.1f}" for key in ("map", "f1", "precision", "recall")]
    row = " *\\| *".join(["all", "2", *map(re.escape, values)])
    assert re.search(rf"\nTags \(%\)\n\| split .*\n.*\n\| {row} \|\n\nnext: ", finished.output)
    assert "another" not in finished.output
    # The report prints all tables.
    assert run_stage(*given, "stage=[evaluate,report]").output.count("Tags (%)") == 1


@pytest.mark.large
def test_a_reader_of_voc_reads_real_images(run_stage, tiny_checkpoint, voc_sample, tmp_path):
    given = ["dataset=voc2012", f"dataset.root={voc_sample}", "dataset.split=train_aug"]
    given += ["tags=ground_truth", "clip=file", f"clip.checkpoint={tiny_checkpoint}"]
    given += ["runtime.workers=1", f"output_dir={tmp_path}"]
    finished = run_stage(*given, "stage=[tags,cams,masks,evaluate,report]")
    assert finished.code == 0, finished.errors
    figures = json.loads((tmp_path / "metrics.json").read_text())["latest"]
    assert figures["tags"]["train_aug"]["f1"] == 1
    assert figures["masks"]["train_aug"]["images"] == 3
    assert 0 < figures["cams"]["train_aug"]["miou"] < 1


def test_maps_may_be_deleted_when_the_masks_are_there(run_stage, arguments, finish, tmp_path):
    finish("stage=[tags,cams,masks]")
    before = artefacts(tmp_path / "out" / "all" / "masks")
    shutil.rmtree(tmp_path / "out" / "all" / "cams")
    after = run_stage(*arguments, *TINY_SEGMENTER, "stage=[train,predict,evaluate,report]")
    assert after.code == 0, after.errors
    assert re.search(r"predict\w* +all +5 images, 5 computed now", after.output)
    again = run_stage(*arguments, "stage=[cams,masks]")
    assert re.search(r"cams +all +5 images, 5 computed now", again.output)
    assert re.search(r"masks +all +5 images, 0 computed now", again.output), "of the same maps"
    assert artefacts(tmp_path / "out" / "all" / "masks") == before


@pytest.fixture
def notes(arguments) -> Callable[..., list[str]]:
    """Returns what a run says before its first stage: notes("KEY=VALUE", …)."""

    def notes(*more: str) -> list[str]:
        pipeline = Pipeline.open(read_config(compose([*arguments, *more])))
        assert pipeline.builder.stages
        return list(notes_on(pipeline, ["tags", "cams"], more))

    return notes


def test_settings_without_effect_are_named(notes):
    learns = "because nothing is learned here: give tags=piaa or tags.standardise=[class]"
    assert notes("tags.z=1") == ["tags.z has no effect without tags.standardise"]
    assert notes("tags.refit=true", "tags.fit_split=all", "tags.standardise=[image]") == [
        f"tags.fit_split has no effect, {learns}",
        f"tags.refit has no effect, {learns}",
    ]
    assert notes("tags.z=1", "tags.refit=true", "tags.standardise=[class]") == []
    assert notes("cams=excel", "cams.clusters=5") == [
        "cams.clusters has no effect without cams.descriptors"
    ]
    with pytest.raises(UserError, match="no split nope: choose from all"):
        notes("tags.fit_split=nope")


@pytest.mark.parametrize(
    ("given", "preset"),
    [("experiment_name=cls_seg_voc2012", "cls_seg_voc2012"), ("cams=excel_coco2014",) * 2],
)
def test_a_published_preset_with_another_clip_is_remarked_on(given, preset, notes):
    expected = f"the constants of {preset} were chosen for clip=vit_b16, not for clip=file"
    assert expected in notes(given) and not notes("experiment_name=mine")
