"""What the button of a served report starts: the recorded run, with corrections."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
import yaml

from pipeline.stages.config import read_config, read_run

CORRECTIONS = "id,classes\r\na,cup;rocket\r\n"


@pytest.fixture
def finished_run(finish):
    """The output directory of a run that wrote its report."""
    out = finish("stage=[tags,cams,masks,report]")
    (out / "corrections.1.csv").write_text(CORRECTIONS, newline="")
    return out


@pytest.fixture
def run_again(run_tool, monkeypatch):
    monkeypatch.chdir(Path.cwd())  # it goes back there in the end

    def run(out, *words):
        return run_tool("app.py", out, "--run", "corrections.1.csv", *words)

    return run


def changed(out, **values):
    """Writes values of another person into a recorded configuration."""
    path = out / "config.yaml"
    plain = yaml.safe_load(path.read_text())
    for key, value in values.items():
        group, _, name = key.partition("__")
        if name:
            plain[group][name] = value
        else:
            plain[group] = value
    path.write_text(yaml.safe_dump(plain))


def test_the_recorded_run_is_computed_with_corrections(finished_run, run_again):
    directory = Path.cwd()
    os.chdir("/")  # the run has a working directory of its own
    done = run_again(finished_run)
    assert done.code == 0, done.errors
    assert Path.cwd() == directory
    assert "5 images, 0 computed now, 0 from the cache, 5 reused" in done.output
    assert "5 images, 1 computed now" in done.output  # the masks of the corrected image
    assert (finished_run / "comparison.html").is_file()
    manifest = next((finished_run / "all" / "tags" / "latest").glob("tags.txt")).read_text()
    assert "a 2 3" in manifest
    recorded = yaml.safe_load((finished_run / "config.yaml").read_text())
    assert recorded["tags"]["corrections"] == str(finished_run / "corrections.1.csv")
    # The page of the new report names the command that started it all.
    assert f"dataset.root={recorded['dataset']['root']}" in recorded["run"]["command"]


def test_the_file_lies_where_one_stands(finished_run, run_again, tmp_path):
    here = tmp_path / "here"
    here.mkdir()
    (here / "corrections.1.csv").write_text("id,classes\r\na,cat\r\n", newline="")
    os.chdir(here)  # the output directory has a file of this name, too
    done = run_again(finished_run)
    assert done.code == 0, done.errors
    recorded = yaml.safe_load((finished_run / "config.yaml").read_text())
    assert recorded["tags"]["corrections"] == str(here / "corrections.1.csv")


@pytest.mark.parametrize("page", [False, True])
def test_settings_that_do_nothing_are_refused(finished_run, run_again, run_tool, monkeypatch, page):
    monkeypatch.setattr("pipeline.commands.app.find_spec", lambda name: name)  # of gradio
    words = ["masks=par", "executor=processes"]
    changed(finished_run, executor={"name": "processes"})
    if page:
        done = run_tool("app.py", finished_run, *words, "--no-browser")
    else:
        done = run_again(finished_run, *words)
    assert done.code == 2 and "masks=par changes nothing" in done.errors
    assert "leave it out" in done.errors and done.errors.count("\n") == 1


def test_a_recorded_configuration_is_the_one_that_ran(finished_run):
    composed, directory, command = read_run(finished_run)
    config = read_config(composed)
    recorded = yaml.safe_load((finished_run / "config.yaml").read_text())
    assert vars(config.runtime) == recorded["runtime"] and config.seed == recorded["seed"]
    assert config.tags.votes == recorded["tags"]["votes"] and config.cams.affinity
    assert directory == Path.cwd() and "stage=[tags,cams,masks,report]" in command


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"executor": {"name": "dask"}}, "has executor=dask: give that to the app, too"),
        ({"segmenter__config": "/tmp/code.py"}, "has segmenter.config=/tmp/code.py: give that"),
        ({"segmenter__pretrained": "http://a/b.pth"}, "segmenter.pretrained=http://a/b.pth: give"),
        (
            {"clip__model": "hf:me/pets", "clip__checkpoint": None},
            "has clip.model=hf:me/pets: give",
        ),
        ({"tags__method": "theirs"}, "there is no tags method theirs"),
        ({"output_dir": "elsewhere"}, "was moved since it was written: use the command"),
        ({"tags__corrections": "${oc.env:HOME}"}, "is not as runs write it"),
        ({"tags__votes": "many"}, "votes"),
        ({"run": "nothing"}, "is not as runs write it"),
    ],
)
def test_what_another_person_wrote_is_refused_in_a_sentence(
    finished_run, run_again, change, sentence
):
    changed(finished_run, **change)
    done = run_again(finished_run)
    assert done.code == 2 and sentence in done.errors, done.errors
    assert done.errors.count("\n") == 1 and "computed" not in done.output


def test_the_apps_own_command_line_may_name_code(finished_run, run_again):
    changed(finished_run, executor={"name": "processes", "workers": 1})
    done = run_again(finished_run, "executor=processes")
    assert done.code == 0, done.errors


def test_a_copy_of_a_run_elsewhere_is_not_run(finished_run, run_again, tmp_path):
    shutil.copytree(finished_run, tmp_path / "copy")
    done = run_again(tmp_path / "copy")
    assert done.code == 2 and "was moved" in done.errors
    done = run_again(tmp_path / "photographs")
    assert done.code == 2 and "config.yaml" in done.errors
