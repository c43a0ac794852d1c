"""Configurations are data, and only the command line can name code."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import MISSING, fields
from pathlib import Path

import pytest
import yaml
from hydra.utils import instantiate

from pipeline.files.shipped import CONFIGS
from pipeline.stages import config as settings
from tests import REPOSITORY
from tests.tiers import large_except


def test_classes_in_yaml_are_data(mark, tmp_path, run_stage):
    path = tmp_path / "classes.yaml"
    (tmp_path / "images").mkdir()
    tags = [
        f"!!python/object/apply:os.mkdir ['{mark.path}']",
        f"!!python/object/new:os.mkdir ['{mark.path}']",
        f"!!python/object/apply:os.system ['mkdir {mark.path}']",
    ]
    for tag in tags:
        path.write_text(f"- cat\n- {tag}\n")
        assert mark.is_left_by(lambda: yaml.unsafe_load(path.read_text())), tag
        finished = run_stage(
            "dataset=folder",
            f"dataset.root={tmp_path / 'images'}",
            f"dataset.classes={path}",
            f"output_dir={tmp_path / 'out'}",
            "stage=tags",
        )
        assert finished.code == 2 and finished.errors.count("\n") == 1, finished.errors
        assert not mark.is_left


def test_a_target_in_a_configuration_is_never_called(mark, tmp_path, photographs, run_stage):
    call = {"_target_": "os.mkdir", "path": str(mark.path)}
    assert mark.is_left_by(lambda: instantiate(call))
    text = f"{{_target_: os.mkdir, path: {mark.path}}}"
    places = ["+evil", "+dataset.evil", "+clip.evil", "+segmenter.evil", "+runtime.evil"]
    places += ["segmenter.overrides.backbone", "dataset.training.evil", "tags.evil"]
    for place in places:
        finished = run_stage(
            "dataset=folder",
            f"dataset.root={photographs}",
            "dataset.classes=[cat,dog]",
            "tags=ground_truth",
            f"output_dir={tmp_path / 'out'}",
            f"{place}={text}",
            "stage=tags",
        )
        assert finished.code == 2 and "Traceback" not in finished.errors, finished.errors
        assert not mark.is_left, place


def test_resolvers_of_omegaconf_read_and_run_nothing(mark, tmp_path, photographs, run_stage):
    from omegaconf import OmegaConf

    assert mark.is_left_by(lambda: eval(f"__import__('os').mkdir({str(mark.path)!r})"))
    tried = [
        f"${{eval:__import__('os').mkdir('{mark.path}')}}",
        f"${{oc.decode:!!python/object/apply:os.mkdir ['{mark.path}']}}",
        f"${{hydra:runtime.{mark.path.name}}}",
        f"${{python:{mark.path}}}",
    ]
    for text in tried:
        config = tmp_path / "more" / "experiment" / "shared.yaml"
        config.parent.mkdir(parents=True, exist_ok=True)
        value = {"dataset": {"backgrounds": [text]}}
        config.write_text("# @package _global_\n" + yaml.safe_dump(value))
        finished = run_stage(
            "--config-dir",
            tmp_path / "more",
            "experiment=shared",
            "dataset=folder",
            f"dataset.root={photographs}",
            "dataset.classes=[cat,dog]",
            f"output_dir={tmp_path / 'out'}",
            "stage=tags",
        )
        assert finished.code == 2 and not mark.is_left, (text, finished)
        assert (
            finished.errors.removeprefix("error: ").strip() and "Traceback" not in finished.errors
        )
    assert not OmegaConf.has_resolver("eval")


GLOBAL = "# @package _global_\n"


@pytest.fixture
def shared(tmp_path, run_stage):
    """Runs a shared configuration, experiment=shared of a folder: shared(text, *arguments)."""
    path = tmp_path / "more" / "experiment" / "shared.yaml"
    path.parent.mkdir(parents=True)

    def run(text, *arguments):
        path.write_text(GLOBAL + text)
        given = ("stage=status", f"output_dir={tmp_path / 'out'}", *arguments)
        return run_stage("--config-dir", path.parents[1], "experiment=shared", *given)

    run.folder = path.parents[1]
    return run


ALSO_AS_A_STUDY = ("a callback", "an environment variable", "parameters of a sweep")


@pytest.mark.large
def test_a_shared_configuration_decides_nothing_that_hydra_does(shared, mark, tmp_path):
    """However it is written, with one job or several."""
    precious = tmp_path / "precious.txt"
    precious.write_text("precious")
    call = f"{{_target_: os.mkdir, path: {mark.path}}}"
    callback = f"hydra: {{callbacks: {{evil: {call}}}}}\n"
    elsewhere = tmp_path / "elsewhere"
    for folder in (elsewhere / "dataset", elsewhere / "experiment"):
        folder.mkdir(parents=True)
        (folder / "evil.yaml").write_text(GLOBAL + callback)
    # A group of the folder that is a link, which a search for files does not follow.
    (shared.folder / "executor").symlink_to(elsewhere / "dataset")
    handler = f"{{class: logging.FileHandler, filename: {precious}, mode: w}}"
    logging = f"{{version: 1, handlers: {{file: {handler}}}, root: {{handlers: [file]}}}}"
    tried = {
        "a callback": callback,
        "a callback behind a linked folder": "defaults: [override /executor: evil]\n",
        "a callback behind ../": "defaults: [../../elsewhere/dataset/evil]\n",
        "a value that safe_load refuses": "seed: 2001-99-99\n" + callback,
        "oc.create": f"hydra: {{callbacks: '${{oc.create:{{evil: {call}}}}}'}}\n",
        "an environment variable": "hydra: {job: {env_set: {EVIL_VARIABLE: here}}}\n",
        "a copied environment variable": "hydra: {job: {env_copy: [NO_SUCH_VARIABLE]}}\n",
        "a log file": f"hydra: {{job_logging: {logging}}}\n",
        "a log file of Hydra": f"hydra: {{hydra_logging: {logging}}}\n",
        "nothing in place of Hydra": "hydra: null\n",
        "a launcher": f"hydra: {{launcher: {call}}}\n",
        "a sweeper": f"hydra: {{sweeper: {call}}}\n",
        "a folder of runs": f"hydra: {{run: {{dir: {tmp_path / 'evil'}}}}}\n",
        "parameters of a sweep": "hydra: {mode: MULTIRUN, sweeper: {params: {hydra.run.dir: x}}}\n",
    }
    for what, text in tried.items():
        for several in ((), ("-m",)) if what in ALSO_AS_A_STUDY else ((),):
            finished = shared(text, *several)
            assert finished.code == 2 and finished.errors.count("\n") == 1, (what, finished)
            assert "Traceback" not in finished.errors
            assert not mark.is_left and "EVIL_VARIABLE" not in os.environ, what
            assert precious.read_text() == "precious", what
            assert not list(tmp_path.glob("out/*/")), what
    second = shared("seed: 1\n", "--config-dir", elsewhere, "+experiment=evil")
    assert second.code == 2 and not mark.is_left


SLURM = "defaults: [override /executor: slurm]\n"
DASK = "defaults: [override /executor: dask]\n"
SWEPT = "hydra: {mode: MULTIRUN, sweeper: {params: %s}}\n"
CONFIG = "pspnet/pspnet_r50-d8_4xb4-20k_voc12aug-512x512.py"


def files_that_name_code(path: Path) -> dict[str, str]:
    """Returns what is tried → a configuration; ``path`` is a program."""
    climbing = os.path.relpath(path.parent / "elsewhere" / "evil", CONFIGS)
    config = "segmenter: {config: %s}\n"
    named = f"experiment_name: {path}\n"
    return {
        "a program": config % path,
        "a program by a path that climbs": config % os.path.relpath(path, REPOSITORY),
        "a program below the home": config % f"~/{path.name}",
        "a program beside": config % "./program.py",
        "a program as an address": config % path.as_uri(),
        "a program of Windows": config % r"'C:\program.py'",
        "a program that another key names": named + config % "'${experiment_name}'",
        "a program in a group that another key names": "segmenter: '${dataset.training}'\n",
        "a program in a group of its own": "defaults: [override /segmenter: mine]\n",
        "a program behind ../": "defaults: [../../elsewhere/evil@segmenter]\n",
        "a program behind our own folder": f"defaults: [/{climbing}@segmenter]\n",
        "a program of another folder": f"defaults: [/{path.parent}/elsewhere/evil@segmenter]\n",
        "an address": DASK + "executor: {address: 'tcp://192.0.2.1:8786'}\n",
        "an address of a group of its own": "defaults: [override /executor: mine]\n",
        "a command": SLURM + "executor: {cluster: {job_script_prologue: ['touch x']}}\n",
        "a cluster": "executor: {cluster: {class: LocalCluster}}\n",
        "a queue": SLURM + "executor: {cluster: {queue: q}}\n",
        "a cluster that another key names": SLURM + "executor: {cluster: '${dataset.training}'}\n",
        "plug-ins": "plugins: [evil]\n",
        "a program as a parameter": SWEPT % f"{{segmenter.config: {path}}}",
        "programs as parameters": SWEPT % f"{{segmenter.config: '{CONFIG},{path}'}}",
        "a program as a parameter that adds": SWEPT % f"{{++segmenter.config: {path}}}",
        "a program as a group of parameters": SWEPT % f"{{segmenter: '{{config: {path}}}'}}",
        "a program as a parameter that another key names": named
        + SWEPT % "{segmenter.config: '${experiment_name}'}",
        "a program in parameters that another key names": f"evil: {{segmenter.config: {path}}}\n"
        + SWEPT % "'${evil}'",
        "an address as a parameter": SWEPT % "{+executor.address: 'tcp:8786'}",
        "a command as a parameter": SLURM + SWEPT % "{executor.cluster.queue: q}",
        "plug-ins as a parameter": SWEPT % "{+plugins: evil}",
    }


FEW = ("a program", "an address", "a command", "plug-ins", "a program as a parameter")


@pytest.mark.parametrize("what", large_except(FEW, files_that_name_code(Path("/program.py"))))
def test_a_shared_configuration_names_no_code(what, shared, mark, tmp_path):
    """No program, no scheduler whose answers are unpickled, no command of a batch system."""
    path = tmp_path / "program.py"
    path.write_text(mark.program)
    files = {
        "elsewhere/evil": f"config: {path}\n",
        "more/segmenter/mine": f"defaults: [demo]\nconfig: {path}\n",
        "more/executor/mine": "defaults: [dask]\naddress: 'tcp://192.0.2.1:8786'\n",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / f"{name}.yaml").write_text(text)
    finished = shared(files_that_name_code(path)[what])
    assert finished.code == 2 and finished.errors.count("\n") == 1, finished
    refused = ("a file of settings cannot name code: give ", "is not a choice: give the name")
    assert any(each in finished.errors for each in refused), finished


@pytest.mark.parametrize("name", ["dataclass_defaults", "executor/dask", "tags/tagclip"])
def test_a_shared_file_takes_the_place_of_nothing_that_a_dataclass_gives(name, shared):
    path = shared.folder / f"{name}.yaml"
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"{GLOBAL}executor: {{address: 'tcp://192.0.2.1:8786'}}\n")
    finished = shared(DASK)
    assert finished.code == 2
    assert finished.errors == f"error: {path} has a name that is taken: rename the file\n"


@pytest.mark.parametrize("name", ["config", "executor/slurm"])
def test_a_shared_file_takes_the_place_of_no_file_that_is_shipped(name, shared):
    path = shared.folder / f"{name}.yaml"
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"{GLOBAL}executor: {{address: 'tcp://192.0.2.1:8786'}}\n")
    finished = shared(SLURM, "--cfg", "job")
    assert finished.code == 0, finished.errors
    assert yaml.safe_load(finished.output)["executor"]["address"] is None


def test_a_shared_configuration_may_choose_what_is_shipped(shared):
    for text in (
        f"segmenter: {{config: {CONFIG}, overrides: {{}}}}\n",
        SWEPT % f"{{segmenter.config: '{CONFIG},{CONFIG}', segmenter: 'light,demo'}}",
        DASK + "executor: {workers: 2, address: null}\n",
        SLURM + "executor: {workers: 2}\n",
        SWEPT % "{executor: 'local,processes'}",
    ):
        finished = shared(text)
        assert finished.code == 0, (text, finished)


def test_the_command_line_may_name_code_and_wins(shared, mark, tmp_path):
    path = tmp_path / "program.py"
    path.write_text(mark.program)
    text = SLURM + f"segmenter: {{config: {path}}}\nexecutor: {{cluster: {{queue: evil}}}}\n"
    typed = [f"segmenter.config={path}", "executor.cluster.queue=mine"]
    finished = shared(text, *typed, "+executor.cluster.job_script_prologue=['module load x']")
    assert finished.code == 0, finished
    assert "give executor.cluster.queue=…" in shared(text, typed[0]).errors
    assert "give segmenter.config=…" in shared(text, typed[1]).errors
    named = shared(f"experiment_name: {path}\n", "segmenter.config=${experiment_name}")
    assert "give segmenter.config=… in full" in named.errors
    merged = ["+executor.cluster={job_cpu: 1}", f"segmenter.config={path}"]
    assert "give executor.cluster.queue=…" in shared(text, *merged).errors
    text = SWEPT % f"{{segmenter.config: {CONFIG}, ++segmenter.config: {path}}}"
    assert "cannot name code" in shared(text).errors
    assert shared(text, f"segmenter.config={CONFIG}").code == 0
    assert not mark.is_left


DATA = {
    *("cams.descriptors", "cams.path", "clip.checkpoint", "dataset.classes"),
    *("dataset.devkit", "dataset.image_list", "dataset.labels", "dataset.mask_folders"),
    *("dataset.masks", "dataset.root", "dataset.sbd_root", "dataset.training.pretrained"),
    *("masks.names", "masks.regions", "output_dir", "segmenter.pretrained"),
    *("dataset.splits", "tags.corrections", "tags.path", "masks.path", "masks.corrections"),
    *("dataset.colours", "masks.colours", "cams.regions"),
    *("cams.second.checkpoint", "cams.sam.checkpoint", "dataset.annotations"),
    *("cams.bank.root", "cams.bank.regions", "cams.bank.second.checkpoint"),
}
"""Settings that name files: images, lists, masks, arrays without pickle, and tensors."""

NAMES = {
    *("clip.model", "clip.pretrained", "dataset.image_set", "dataset.name", "executor.name"),
    *("runtime.device", "segmenter.backbone", "segmenter.optimizer", "stage"),
    *("dataset.default_splits", "dataset.report_split", "dataset.split", "dataset.train_split"),
    *("report.split", "tags.fit_split", "tags.variants"),
    *("cams.second.model", "cams.sam.model", "cams.bank.split", "cams.bank.second.model"),
}
"""Settings whose values are looked up among names that the program or a library knows."""

WORDS = {
    *("cams.backgrounds", "clip.name", "compat.name", "dataset.annotated_as", "dataset.guide"),
    *("dataset.backgrounds", "dataset.cam_names", "dataset.parents", "dataset.tag_names"),
    *("experiment_name", "segmenter.name", "dataset.join", "masks.join", "tags.join"),
}
"""Settings that are words for CLIP, for tables and for messages."""

NETWORKS = {"segmenter.overrides", "segmenter.parameter_rules"}
"""Parts of a network, whose types have to be registered."""

RESTRICTED = {"segmenter.config", "executor.address", "executor.cluster"}


def test_every_setting_that_can_name_code_an_address_or_a_command_is_restricted():
    """A new setting that holds text has to be put into one of the sets above."""
    texts, restricted = set(), set()
    groups = {declared.name for declared in fields(settings.Config) if declared.default is MISSING}
    for key, rule, kind, *_ in settings.all_settings():
        if re.search(r"\bstr\b|\bAny\b", str(kind)) and not rule.choices and key not in groups:
            texts.add(key)
        if rule.file_values is not None:
            restricted.add(key)
    assert texts == DATA | NAMES | WORDS | NETWORKS | RESTRICTED
    assert restricted == RESTRICTED
    page = (REPOSITORY / "docs" / "reliability.md").read_text()
    assert all(f"`{key}`" in page for key in RESTRICTED | {"plugins"})


@pytest.mark.parametrize("option", ["--config-path", "--config-name", "--experimental-rerun"])
def test_the_configuration_as_a_whole_is_ours(run_stage, option, tmp_path):
    finished = run_stage(option, tmp_path, "stage=status")
    assert finished.code == 2 and finished.errors.startswith(f"error: unknown option {option}")


def test_what_hydra_would_do_is_refused(run_stage, tmp_path):
    for typed in ("hydra.sweep.dir=x", "+hydra.job.env_set.A=b", "hydra/launcher=submitit_local"):
        finished = run_stage("-m", "seed=0,1", "stage=status", f"output_dir={tmp_path}", typed)
        assert finished.code == 2 and "Hydra composes settings here" in finished.errors, finished


def test_no_value_is_read_from_the_environment(shared, monkeypatch, tmp_path):
    """A secret must not come into a report, nor choose a file."""
    monkeypatch.setenv("A_SECRET", "alpha")
    secret = "${oc.env:A_SECRET}"
    for text in (
        f"experiment_name: '{secret}'",
        "experiment_name: 'a ${dataset.${oc.env:A_SECRET}} b'",
        f"dataset: {{classes: [cat, '{secret}']}}",
        f"hydra: {{sweep: {{dir: '{tmp_path}/{secret}'}}}}",
        f"defaults: [override /masks: '{secret}']",
    ):
        finished = shared(text, "dataset=folder", "dataset.root=.", "dataset.classes=[a]")
        if "classes" in text:
            finished = shared(text)
        assert finished.code == 2 and finished.errors.count("\n") == 1, (text, finished)
        assert "alpha" not in finished.output + finished.errors
    finished = shared("experiment_name: 'of ${dataset.name}'")
    assert finished.code == 0, finished.errors


def test_the_folder_from_which_a_tool_is_started_is_no_place_for_modules(mark, tmp_path):
    """What lies where a person happens to be is data to work on, not modules to import."""
    names = ("yaml", "torch", "hydra_plugins", "sitecustomize", "pipeline", "numpy", "stray")
    for name in names:
        Path(tmp_path / f"{name}.py").write_text(f"__import__('os').mkdir({str(mark.path)!r})\n")
    assert mark.is_left_by(lambda: exec((tmp_path / "yaml.py").read_text()))
    done = subprocess.run(
        [
            sys.executable,
            REPOSITORY / "tools" / "run_stage.py",
            "stage=status",
            "plugins=[stray]",
            f"output_dir={tmp_path / 'out'}",
        ],
        cwd=tmp_path,
        env={k: v for k, v in os.environ.items() if k != "PYTHONPATH"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2 and "there is no module stray" in done.stderr, done.stderr
    assert not mark.is_left
