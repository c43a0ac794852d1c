"""A method of ours may do no more than a plug-in: each can be moved out, or deleted."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
import yaml

from pipeline.configuration.registry import Method, find_method, methods
from tests import REPOSITORY
from tests.processes import run_python
from tests.small_runs import Finished, artefacts

MOVED = {"resclip": "dense", "excel": "cams", "piaa": "tags"}
"""Methods that other folders of methods do not need, and their groups."""

RUNS = {
    "cams": ["cams=resclip"],
    "both": ["tags=piaa_voc", "tags.encoder=sc_clip", "tags.crop=true", "cams=excel"],
}
PRESETS = (
    ["experiment=resclip_voc21", "dataset.root=VOC"],
    ["experiment=excel_voc2012"],
    ["experiment=piaa_voc2007_sc_clip"],
)

# The settings of a key that depend on where a method lies; those of a plug-in hold its prompts.
WRITTEN = ("code", "method_source", "templates")

COMPOSE = """
import json, sys
from pipeline.configuration.hydra import choices
from pipeline.errors import UserError
from pipeline.stages.config import compose

wrong = {}
for group, names in choices().items():
    for name in names:
        try:
            compose([f"{group}={name}"])
        except UserError as error:
            wrong[f"{group}={name}"] = str(error)
print(json.dumps(wrong))
"""
"""Composes every choice that there is, and prints those that cannot be."""


@pytest.fixture
def copy(tmp_path) -> Path:
    """A copy of the package, with its configurations and tools."""
    root, unused = tmp_path / "copy", shutil.ignore_patterns("__pycache__", "scenes")
    for name in ("pipeline", "configs", "tools", "data"):
        shutil.copytree(REPOSITORY / name, root / name, ignore=unused)
    shutil.copy(REPOSITORY / "pyproject.toml", root)
    return root


def folder_of(method: Method, root: Path) -> Path:
    return root.joinpath(*method.settings.__module__.split("."))


def move_out(method: Method, root: Path, name: str) -> None:
    """Moves the folder and the presets of a method into a package that lies beside a copy."""
    ours, theirs = folder_of(method, root), root.parent / name
    shutil.move(ours, theirs)
    for path in theirs.glob("*.py"):
        path.write_text(path.read_text().replace(method.settings.__module__, name))
    for preset in method.preset_files:
        place = preset.relative_to(REPOSITORY)
        (theirs / place).parent.mkdir(parents=True, exist_ok=True)
        shutil.move(root / place, theirs / place)


def python(root: Path, *arguments: object, cwd: Path | None = None) -> Finished:
    done = run_python(*arguments, cwd=cwd or root, PYTHONPATH=f"{root}:{root.parent}")
    assert done.returncode == 0, done.stderr
    return Finished(done.returncode, done.stdout, done.stderr)


def without_place(settings: object) -> object:
    """Returns settings without those that say where a method lies."""
    if isinstance(settings, dict):
        return {k: without_place(v) for k, v in settings.items() if k not in WRITTEN}
    return settings


def stored(out: Path) -> dict[str, bytes]:
    """Returns the results of the images, by stage and name: keys name where a method lies."""
    found = artefacts(out).items()
    return {
        f"{Path(path).parts[1]}/{'/'.join(Path(path).parts[3:])}": content
        for path, content in found
        if not path.endswith(".jsonl") and "latest" not in Path(path).parts
    }


def configurations(out: Path) -> dict[str, object]:
    manifests = (path for path in out.glob("*/*/*/manifest.json") if "latest" not in path.parts)
    return {
        path.parts[-3]: without_place(json.loads(path.read_text())["configuration"])
        for path in manifests
    }


def rows(root: Path, out: Path) -> str:
    """Returns the leaderboard without its keys and commits."""
    tool, board = root / "tools" / "make_tables.py", out / "l.md"
    # Where there are no other results in outputs/.
    table = python(root, tool, out, "--leaderboard", "--output", board, cwd=out)
    return re.sub(r"`?[0-9a-f]{10,12}\+?`?( +)?", "", table.output.partition("\nwritten to")[0])


@pytest.mark.large
def test_methods_that_are_moved_out_do_all_that_they_did(copy, tmp_path):
    for name, group in MOVED.items():
        move_out(find_method(group, name), copy, f"their_{name}")
    plugins = f"plugins=[{','.join(f'their_{name}' for name in MOVED)}]"
    for name, chosen in RUNS.items():
        run = ["tools/run_stage.py", "dataset=demo", "dataset.limit=3", "dataset.split=val"]
        run += [*chosen, "compat=released"]
        run += ["runtime.workers=1", "stage=[tags,cams,masks,evaluate]"]
        ours, theirs = tmp_path / name / "ours", tmp_path / name / "theirs"
        run = [*run, f"dataset.root={tmp_path / 'scenes'}"]
        python(REPOSITORY, *run, f"output_dir={ours}")
        python(copy, *run, plugins, f"output_dir={theirs}")
        assert stored(ours) == stored(theirs)
        assert configurations(ours) == configurations(theirs)
        board = rows(REPOSITORY, ours)
        assert "mIoU" in board and board == rows(copy, theirs)
    for preset in PRESETS:
        compose = ["tools/run_stage.py", "--cfg", "job", *preset]
        composed = python(REPOSITORY, *compose).output
        assert yaml.safe_load(composed) == yaml.safe_load(python(copy, *compose, plugins).output)
    listed = python(copy, "tools/run_stage.py", plugins, "--help").output
    assert listed == python(REPOSITORY, "tools/run_stage.py", "--help").output


@pytest.mark.large
def test_methods_can_be_deleted(copy):
    for name, group in MOVED.items():
        method = find_method(group, name)
        shutil.rmtree(folder_of(method, copy))
        for preset in method.preset_files:
            (copy / preset.relative_to(REPOSITORY)).unlink()
    text = python(copy, "tools/run_stage.py", "--help").output
    named = re.compile("|".join(MOVED))
    assert not named.search(text.partition("\nchoices")[2])
    files = (copy / "configs").rglob("*.yaml")
    studies = {path.stem for path in files if named.search(path.read_text())}
    wrong = json.loads(python(copy, "-c", COMPOSE).output)
    assert {choice.partition("=")[2] for choice in wrong} <= studies
    assert studies <= {
        "leaderboard",
        "leaderboard_tags",
        "leaderboard_cams",
        "leaderboard_masks",
        "leaderboard_second",
    }
    demo = ["dataset=demo", "dataset.limit=2", "dataset.split=val", "stage=[tags,cams,masks]"]
    python(copy, "tools/run_stage.py", *demo, f"output_dir={copy / 'out'}")
    for command in (["ruff", "check", "pipeline", "tools"], ["importlinter.cli"]):
        pytest.importorskip(command[0].partition(".")[0])
        runs = (
            ["-m", *command]
            if command[0] == "ruff"
            else ["-c", "from importlinter.cli import lint_imports_command as run; run()"]
        )
        python(copy, *runs)


def test_no_module_of_the_core_names_a_method():
    """Those that build on another method, and the paper's own two that are the defaults, do."""
    builds_on = {
        "resclip": {"naclip"},
        "piaa": {"sclip", "itaclip", "sc_clip"},
        "itaclip": {"sclip"},
        "talk2dino": {"as_trained"},
        "lposs": {"as_trained", "value_path"},
        "trident": {"proxyclip"},
    }
    texts = {
        path.relative_to(REPOSITORY): path.read_text(encoding="utf-8")
        for path in (REPOSITORY / "pipeline").rglob("*.py")
        if "models"
        not in path.relative_to(
            REPOSITORY
        ).parts  # of the same name as the method that it was published with
    }
    methods_in_folders = [
        method
        for method in methods()
        if method.is_ours
        and folder_of(method, REPOSITORY).is_dir()
        and method.name not in ("clip", "tagclip", "clip_es")
    ]
    assert len(methods_in_folders) >= 10
    for method in methods_in_folders:
        own = folder_of(method, Path())
        allowed = [
            folder_of(other, Path())
            for other in methods_in_folders
            if method.name in builds_on.get(other.name, ())
        ]
        words = re.compile(
            rf"(?<![\w-])({method.name}|{method.label or method.name})(?![\w-])", re.IGNORECASE
        )
        for path, text in texts.items():
            if not any(folder in path.parents for folder in (own, *allowed)):
                assert not words.search(text), f"{path} names {method.name}"
