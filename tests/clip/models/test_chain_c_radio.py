"""C-RADIO from photographs to a report: each tagger, each ``cams=``, and RADSeg's label maps."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from safetensors.torch import save_file

from pipeline.clip.dimensions import Dimensions
from pipeline.clip.second import SECONDS
from pipeline.configuration.registry import methods
from tests import c_radio_files, small_models
from tests.clip.models.test_chain import CHOICES, OWN, SECOND, assert_trained, frozen_network

RADSEG = ("cams=radseg", "masks=dense", "masks.names=classes", "stage=[masks,evaluate,report]")


@pytest.fixture
def files(tmp_path, monkeypatch) -> dict[str, Path]:
    reader = "pipeline.clip.models.c_radio.siglip2.read_tokenizer"
    monkeypatch.setattr(reader, c_radio_files.read_words)
    monkeypatch.setattr("pipeline.clip.origins.origin.find_spec", lambda name: name)
    found = c_radio_files.timm(small_models.c_radio(), tmp_path)
    found |= {
        part: tmp_path / name for part, name in (("text", "t.safetensors"), ("tokenizer", "t"))
    }
    save_file(small_models.siglip2_text(2 * small_models.WIDTH), found["text"])
    found["tokenizer"].write_text("words")
    return found


@pytest.fixture
def model(files) -> list[str]:
    """The settings of a small model."""
    given = "{" + ",".join(f"{part}: {path}" for part, path in files.items()) + "}"
    name = ["clip=c_radio_v3_b16", "clip.model=small_c_radio_v3_b16"]
    return [*name, "plugins=[tests.plugins.small_models]", f"clip.checkpoint={given}"]


@pytest.fixture
def run(run_stage, photographs, model, tmp_path):
    def run(*more: str):
        return run_stage(
            *("dataset=folder", f"dataset.root={photographs}", "dataset.classes=[cat,cup]"),
            *("dataset.limit=2", *model),
            *(f"output_dir={tmp_path / 'out'}", "stage=[tags,cams]", *more),
        )

    return run


@pytest.mark.parametrize("choice", CHOICES)
def test_every_tagger_and_every_cams_runs(choice, run):
    group, _, name = choice.partition("=")
    [method] = [m for m in methods() if (m.group, m.name) == (group, name)]
    seconds = [each for key in method.settings().seconds() for each in SECOND[key]]
    tagger = OWN["tags=tagclip"] if group == "cams" else ()
    finished = run(choice, *OWN.get(choice, ()), *tagger, *seconds)
    assert finished.code == 0, finished.errors
    done = finished.output.count("2 images, 2 computed now")
    assert done == (4 if name == "piaa" else 2), finished.output


@pytest.mark.large
def test_a_network_is_the_model_itself_frozen(run, tmp_path):
    assert_trained(run(*frozen_network(tmp_path / "truth")), tmp_path, 16)


@pytest.mark.large
def test_a_network_reads_the_image_tower_alone(
    run_stage, photographs, files, monkeypatch, tmp_path
):
    small = replace(SECONDS["c_radio_v3_b16"], dimensions=Dimensions(3, 16, 64))
    monkeypatch.setitem(SECONDS, small.name, replace(small, heads=2, head_width=8))
    done = run_stage(
        *("dataset=folder", f"dataset.root={photographs}", "dataset.classes=[cat,cup]"),
        *(f"output_dir={tmp_path / 'out'}", "clip=demo", *frozen_network(tmp_path / "truth")),
        *("dataset.limit=2", "segmenter=frozen_vit", "segmenter.backbone=c_radio_v3_b16"),
        f"segmenter.pretrained={files['image']}",
    )
    assert done.code == 0, done.errors
    facts = json.loads((tmp_path / "out/segmenter/latest/manifest.json").read_text())
    assert facts["configuration"]["crop_size"] == 64
    assert len([*(tmp_path / "out/all/predictions").glob("[!l]*/?.png")]) == 2


@pytest.mark.parametrize("window", [32, 0])
def test_radseg_labels_photographs(run, window):
    sizes = [f"masks.window={window}", "masks.stride=16", "masks.short_side=50"]
    finished = run(*RADSEG, *sizes, "cams.denoising=0.3", "masks.confidence=0.1")
    assert finished.code == 0 and "2 images, 2 computed now" in finished.output, finished.errors


def test_radseg_refuses_models_without_an_adaptor(run_stage, arguments):
    sentence = "cams=radseg needs a language adaptor: choose clip=c_radio_v3_b16 or another method"
    for more in ((), RADSEG[1:], ("dry_run=true",), (*RADSEG[1:], "dry_run=true")):
        refused = run_stage(*arguments, "cams=radseg", "stage=[tags,cams]", *more)
        assert refused.code == 2 and sentence in refused.errors, refused.errors
        assert "computed now" not in refused.output


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ("masks.background=0.4", "give masks.background=null"),
        ("masks.window_softmax=true", "give masks.window_softmax=false"),
        ("masks.stride=24", "multiples of 16"),
        ("masks.enlarge=features", "give masks.enlarge=similarities"),
    ],
)
def test_what_radseg_does_not_read_is_refused(run, given, sentence):
    refused = run(*RADSEG, given, "dry_run=true")
    assert refused.code == 2 and sentence in refused.errors, refused.errors


def test_the_dry_run_says_how_large_the_download_is(run_stage, photographs, tmp_path, monkeypatch):
    monkeypatch.setattr("pipeline.clip.origins.origin.find_spec", lambda name: name)
    monkeypatch.setattr("pipeline.files.hugging_face.find_cached", lambda url: None)
    given = ("dataset=folder", f"dataset.root={photographs}", "dataset.classes=[cat,cup]")
    model = ("clip=c_radio_v3_b16", f"output_dir={tmp_path / 'out'}", "stage=tags", "dry_run=true")
    planned = run_stage(*given, *model)
    assert planned.code == 0, planned.errors
    assert planned.errors.endswith("tokenizer.json (CLIP: 7.8 GB)\n")
    assert "c-radio_v3-b_half.pth.tar" in planned.errors and "open_clip_model" in planned.errors
