"""What a person may type: mistakes are answered in a sentence, and odd names work."""

from __future__ import annotations

import json
import shlex
from importlib import import_module

import pytest
from PIL import Image

from pipeline.errors import UserError
from tests.hostile.examples import TOO_LONG
from tests.small_runs import TINY_SEGMENTER, latest

_MASK2FORMER = "mask2former/mask2former_r50_8xb2-90k_cityscapes-512x1024.py"  # needs mmdet
_LONG = "1" * 3000


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (["dataset=voc2012"], "dataset.root is missing: give it, dataset.root=…"),
        (["dataset=voc2013"], "no dataset=voc2013: did you mean voc2012? choose from ade20k"),
        (["tags.alfa=1"], "there is no setting tags.alfa: did you mean tags.alpha? "),
        (["iterations=9"], "there is no setting iterations: did you mean "),
        (["tags.threshold=1"], "there is no setting tags.threshold: choose from tags.min_score, "),
        (["masks.crf.sigma=1"], "no setting masks.crf.sigma: choose from masks.crf.iterations, "),
        (["segmenter.seed=1"], "no setting segmenter.seed: did you mean seed?"),
        (["segmenter.iters=9"], "no setting segmenter.iters: did you mean segmenter.iterations?"),
        (["clip=vit"], "there is no clip=vit: did you mean vit_b16?"),
        (
            ["tags=ground_truth", "tags.alpha=1"],
            "tags.alpha is not a setting of this choice",
        ),
        (["experiment=recipe", "tags=piaa"], "sets tags.attention_blocks, which this choice"),
        (["runtime.device=cuda:7"], "torch finds no GPU"),
        (["runtime.device=abacus"], "is not a device"),
        (["runtime.precision=bf61"], "runtime.precision=bf61 is unknown: did you mean bf16? "),
        (["stage=statsu"], "there is no stage statsu: did you mean status?"),
        (["tags=null"], "tags=null is not a choice"),
        (["dataset.training=null"], "Error trying to access dataset.training."),
        (["segmenter=demo", "runtime=null"], "runtime is missing: give a choice or its settings"),
        (["~tags"], "tags is missing: give a choice or its settings"),
        (["tags="], "there is no tags=: choose from "),
        (["tags=unheard_of"], "or give plugins=[MODULE] for your own method"),
        (["segmenter=mmsegmentation"], "segmenter.config is missing: give it"),
        (["segmenter=demo", "segmenter.backbone=resnet18"], "or correct segmenter.backbone"),
        (["cams=as_trained", "cams.patches=backbone"], "is for models with a head"),
        (["segmenter=mmsegmentation", f"segmenter.config={_MASK2FORMER}"], "needs mmdet."),
        (["stage=status", "output_dir=null"], "output_dir is not the name of a folder"),
        (["stage=status", "output_dir=/etc/passwd"], "/etc/passwd is not a folder"),
        (["output_dir=/etc/passwd"], "/etc/passwd is not a folder"),
        (["tags.alpha=" + "9" * 400], "tags.alpha: int too large"),
        (["tags.alpha=1,2"], "or 'tags.alpha=\"1,2\"' for one value"),
        (["dataset=folder", "dataset.root=my", "photographs"], "'dataset.root=my photographs'"),
        (["dataset=folder", "dataset.root=.", "dataset.classes={a: 1}"], "{'a': 1} is not a list"),
        (["stage=[tags,status]"], "stage=status cannot be combined with other stages: leave"),
        (["dry_run=ture"], "dry_run=ture is neither true nor false: did you mean true?"),
        (["--dry-run"], "unknown option --dry-run: give settings as KEY=VALUE; see --help"),
        (["--cfg", "jb"], "argument --cfg/-c: invalid choice: 'jb'"),
        (["segmenter=demo", "segmenter.pretrained=~nosuch/x"], "=~nosuch/x begins with the home"),
        (["clip=file", "clip.checkpoint=~nosuch/x"], "clip.checkpoint=~nosuch/x begins with the"),
        (["output_dir=~nosuch/x"], "output_dir=~nosuch/x begins with the home"),
        (["tags=file", f"tags.path='{'x' * 5000}'"], f"x {TOO_LONG}: give"),
        ([f"output_dir={'x' * 5000}"], "File name too long; fix this"),
    ],
)
def test_wrong_use_is_answered_with_one_sentence(run_stage, wrong, message, tmp_path):
    finished = run_stage("dataset.limit=1", f"output_dir={tmp_path}", *wrong)
    assert finished.code == 2
    assert message in finished.errors and len(finished.errors) < 1000
    assert finished.errors.startswith("error: ") and finished.errors.count("\n") == 1
    assert "Traceback" not in finished.errors


def test_values_of_other_types_are_taken_where_they_mean_something(run_stage, tmp_path):
    finished = run_stage(
        *("stage=status", "masks.beta=null", "tags.reidentify=0", "dataset.limit=3"),
        *("runtime.max_failures=0.5", "tags.alpha=1", f"output_dir={tmp_path}"),
    )
    assert finished.code == 0, finished.errors


def test_a_folder_of_settings_of_ones_own(run_stage, arguments, tmp_path):
    own = tmp_path / "my configs" / "experiment" / "mine.yaml"
    own.parent.mkdir(parents=True)
    settings = "# @package _global_\ndefaults:\n  - override /masks: argmax\ntags: {alpha: 0.25}"
    own.write_text(settings + "\nexperiment_name: mine\nstage: [tags, cams]\n")
    given = ["--config-dir", str(own.parents[1]), *arguments, "experiment=mine"]
    finished = run_stage(*given)
    assert finished.code == 0, finished.errors
    folder = json.loads((latest(tmp_path / "out", "tags") / "manifest.json").read_text())
    assert folder["configuration"]["alpha"] == 0.25
    # The command line wins, and the line of what comes next still names the folder.
    last = finished.output.splitlines()[-1]
    finished = run_stage(*shlex.split(last.removeprefix("next: "))[2:], "tags.alpha=0.25")
    assert finished.code == 0, finished.errors
    folder = json.loads((latest(tmp_path / "out", "masks") / "manifest.json").read_text())
    assert folder["configuration"]["crf"] is None
    own.write_text(settings + "\nseed: many\n")
    assert "seed=many is not an integer" in run_stage(*given).errors
    own.write_text(settings + "\nseed: [")
    broken = run_stage(*given)
    assert broken.code == 2 and f'in "{own}", line 5, column 8: correct the file' in broken.errors
    own.write_text(settings + "\nhydra: {callbacks: {x: {_target_: os.system}}}\n")
    assert "sets hydra.callbacks" in run_stage(*given).errors
    own.write_text('# @package _global_\noutput_dir: "a\\0b"\n')
    elsewhere = [each for each in given if not each.startswith("output_dir=")]
    assert "output_dir=a\\x00b holds a NUL character: remove" in run_stage(*elsewhere).errors
    assert "output_dir is not the name of a fo" in run_stage(*elsewhere, "stage=status").errors
    own.write_text(settings + "\n")
    finished = run_stage(*given[:-1], "experiment=mien")
    assert "there is no experiment=mien: did you mean mine?" in finished.errors


@pytest.mark.parametrize("name", ["Fotos (2024), Süd", "it's = [a]", "~x {y}", "a b"])
def test_a_path_need_not_suit_the_grammar_of_hydra(run_stage, arguments, photographs, name):
    elsewhere = photographs.with_name(name)
    photographs.rename(elsewhere)
    given = [a for a in arguments if not a.startswith(("dataset.root", "dataset.classes"))]
    classes = ["dataset.classes=[Müller's cat,", "person (tall),", "cup]"]
    stages = ("stage=[tags,cams]", "dry_run=true")
    finished = run_stage(*given, f"dataset.root={elsewhere}", *classes, *stages)
    assert finished.code == 0, finished.errors
    next_line = finished.output.splitlines()[-1].removeprefix("next: ")
    finished = run_stage(*shlex.split(next_line)[2:])
    assert finished.code == 0, finished.errors
    assert len(list((elsewhere.parent / "out" / "all" / "cams").rglob("*.npz"))) >= 5


def test_a_missing_input_names_the_complete_command(run_stage, arguments):
    given = [*arguments, *TINY_SEGMENTER, "seed=3"]
    finished = run_stage(*given, "stage=cams", "dry_run=true")
    command = shlex.join(["stage=[tags,cams]", *given])
    said = "error: no tags for split all: run stage=tags first: python tools/run_stage.py"
    assert (finished.code, finished.errors) == (2, f"{said} {command}\n")
    assert run_stage(*given, "stage=tags", "dataset.limit=2").code == 0
    finished = run_stage(*given, "stage=cams")
    assert "(3 of 5 missing): run stage=tags first" in finished.errors
    assert finished.errors.endswith(f" first: python tools/run_stage.py {command}\n")
    finished = run_stage(*given, "stage=predict")
    assert finished.code == 2 and finished.errors.count("\n") == 1
    named = shlex.split(finished.errors.partition(" first: ")[2])
    assert named[2:] == ["stage=[tags,cams,masks,train,predict]", *given]
    finished = run_stage(*named[2:])
    assert finished.code == 0, finished.errors


def test_the_complete_command_works_on_the_split_that_is_trained_on(run_stage, tmp_path):
    given = ["dataset.limit=1", f"dataset.root={tmp_path / 'scenes'}", f"output_dir={tmp_path}/out"]
    finished = run_stage(*given, "dataset.split=val", "stage=[masks,predict]", "dry_run=true")
    named = shlex.join(
        ["stage=[tags,cams,masks,train,predict]", *given, "dataset.split=[train,val]"]
    )
    assert finished.code == 2 and finished.errors.endswith(f" {named}\n")
    assert run_stage(*shlex.split(named), "dry_run=true").code == 0
    finished = run_stage(*given, "dataset.split=val", "stage=masks", "dry_run=true")
    assert "train" not in finished.errors.partition(" first: ")[2], "nothing is trained"


def test_a_missing_input_in_a_study_names_the_complete_command(run_stage, arguments):
    given = [*arguments, "-m", "tags.min_score=0,0.1"]
    finished = run_stage(*given, "stage=masks")
    assert finished.errors.endswith(f"{shlex.join(['stage=[tags,cams,masks]', *given])}\n")


@pytest.mark.parametrize("name", ["metrics.json", "config.yaml", "report.html"])
def test_files_in_an_output_dir_that_no_run_wrote_stay(run_stage, arguments, photographs, name):
    (photographs / name).write_bytes(b"theirs")
    finished = run_stage(*arguments, f"output_dir={photographs}", "stage=tags")
    assert finished.code == 2
    assert f"{name} exists, and no run wrote it: choose another output_dir" in finished.errors
    assert (photographs / name).read_bytes() == b"theirs" and not (photographs / "all").exists()


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        *((key, _LONG, "1…1") for key in ("seed", "compat.exif", "tags", "segmenter.config")),
        *((key, _LONG, "1…1") for key in ("clip.model", "clip.pretrained", "segmenter.backbone")),
        *((key, _LONG, "is too large") for key in ("segmenter.power", "dataset.min_score")),
        *((key, f"[{_LONG}]", "1…1") for key in ("tags.templates", "dataset.split")),
        ("executor.name", "[x]", "no executor ['x']: choose from local"),
        ("stage", "null", "names no stage: choose from tags, cams"),
        ("stage", "[]", "stage=[] names no stage"),
    ],
)
def test_a_value_of_another_form_is_answered_in_few_words(key, value, words, arguments):
    with pytest.raises(UserError) as refused:
        import_module("pipeline.commands.run_stage").run([*arguments, f"{key}={value}"])
    assert words in str(refused.value) and len(str(refused.value)) < 2000


@pytest.mark.parametrize("tool", ["clean", "compare", "export", "overlay", "predict"])
def test_an_output_folder_of_an_older_version_is_refused_in_one_sentence(tool, tmp_path):
    (old := tmp_path / "old" / "val" / "masks" / "key").mkdir(parents=True)
    (tmp_path / "old" / "store.json").write_text('{"format": 1}')
    (old / "manifest.json").write_text("{}")
    Image.new("RGB", (8, 8)).save(photograph := tmp_path / "a.png")
    given = {
        "export": [str(old), "--format=voc", f"--images={tmp_path}", f"--output={tmp_path / 'o'}"],
        "overlay": [str(old), f"--images={tmp_path}", f"--output={tmp_path / 'o'}"],
        "predict": [str(photograph), f"--checkpoint={tmp_path / 'old'}"],
    }
    run = import_module(f"pipeline.commands.{tool}").run
    with pytest.raises(UserError, match=r"format 1.*another output_dir"):
        run(given.get(tool, [str(tmp_path / "old")]))
