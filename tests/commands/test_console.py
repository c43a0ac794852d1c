"""The console command, and commands in messages as the program was started."""

from __future__ import annotations

import re
import sys

import pytest

from pipeline.commands import console
from pipeline.commands.command_line import answer
from pipeline.configuration.removed import REMOVED_WORDS
from pipeline.engine import versions
from pipeline.errors import UserError, as_started
from tests import REPOSITORY
from tests.processes import run_python

SCRIPTS = ("run_stage", "train_demo_clip", "train_demo_second")
"""The stages, and how the demo's weights were made."""


def run(monkeypatch, capsys, *words: str) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["/somewhere/bin/afseg", *words])
    code = 0
    try:
        console.main()
    except SystemExit as ended:
        code = ended.code
    return code, *capsys.readouterr()


def test_the_command_line_does_not_print_the_warnings_of_pillow():
    program = """
import warnings, pipeline.commands
for module in ("PIL.TiffImagePlugin", "mine"):
    warnings.warn_explicit(f"of {module}", UserWarning, "odd.py", 1, module)
"""
    finished = run_python("-c", program)
    assert "of mine" in finished.stderr and "PIL" not in finished.stderr


def test_every_tool_is_a_word_of_the_command():
    tools = {path.stem for path in (REPOSITORY / "tools").glob("[a-z]*.py")}
    assert {*console.WHEN_INTERRUPTED} == tools - {*SCRIPTS, "import_masks"}
    page = (REPOSITORY / "docs" / "installation.md").read_text(encoding="utf-8")
    needing = re.search(r"Only\s`(.*)` and `(.*)` need a clone", page).groups()
    for tool in ("benchmark", *SCRIPTS[1:]):  # which run code of tools/
        assert any(map((REPOSITORY / f"tools/{tool}.py").match, needing)), tool


def test_the_first_word_chooses_the_tool(monkeypatch, capsys):
    code, output, _ = run(monkeypatch, capsys, "export-onnx", "--help")
    assert code == 0 and output.startswith("usage: afseg export-onnx [-h]")
    assert "  afseg export-onnx --checkpoint" in output and "tools/" not in output


def test_a_tool_that_was_removed_names_what_replaces_it(monkeypatch, capsys):
    code, _, errors = run(monkeypatch, capsys, "import-masks", "MASKS", "--classes", "cat")
    assert code == 2 and "import-masks was removed: give masks=file" in errors


@pytest.mark.parametrize("word", REMOVED_WORDS)
def test_a_word_that_went_is_answered_by_what_replaces_it(word, run_tool, run_stage):
    tool, _, option = word.partition(" ")
    if "=" in word:
        finished, name = run_stage("dataset=demo", word, "stage=segmenter", "dry_run=true"), word
    else:
        typed = [*(["FOLDER", "--images", "FOLDER"] if "overlay" in tool else ()), option]
        finished, name = run_tool(tool, *filter(None, typed)), option or tool.removesuffix(".py")
    assert finished.code == 2
    assert finished.errors == f"error: {name} was removed: {REMOVED_WORDS[word]}\n"


def test_options_and_settings_are_those_of_the_stages(monkeypatch, capsys):
    code, output, _ = run(monkeypatch, capsys, "help", "seed")
    assert code == 0 and output.startswith("seed=0\n")
    code, _, errors = run(monkeypatch, capsys, "stage=tagz")
    assert code == 2 and "there is no stage tagz" in errors
    code, _, errors = run(monkeypatch, capsys, "stge=tags")
    assert code == 2 and "afseg --cfg job shows them all" in errors


@pytest.mark.parametrize(
    ("word", "remedy"),
    [
        ("predcit", "predcit is not a command: did you mean predict? choose from app,"),
        ("export_onnx", "did you mean export-onnx?"),
        ("tags", "tags is a stage: run afseg stage=tags"),
    ],
)
def test_a_wrong_word_is_answered_with_the_nearest(word, remedy, monkeypatch, capsys):
    code, _, errors = run(monkeypatch, capsys, word)
    assert code == 2 and remedy in errors


@pytest.mark.parametrize(
    ("program", "tool", "stages"),
    [
        ("tools/predict.py", "python tools/predict.py x", "python tools/run_stage.py s"),
        ("/a b/tools/clean.py", "python '/a b/tools/predict.py' x", None),
        ("/usr/bin/afseg", "afseg predict x", "afseg s"),
        ("afseg.exe", "afseg predict x", "afseg s"),
        ("/lib/pipeline/__main__.py", "python tools/predict.py x", "python tools/run_stage.py s"),
        ("notebook.py", "python tools/predict.py x", "python tools/run_stage.py s"),
    ],
)
def test_commands_are_shown_as_the_program_was_started(program, tool, stages, monkeypatch):
    monkeypatch.setattr(sys, "argv", [program])
    assert as_started("python tools/predict.py x") == tool
    if stages is not None:
        assert as_started("python tools/run_stage.py s") == stages


def test_what_a_user_typed_is_not_rewritten(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["/usr/bin/afseg"])
    wrong = "/home/me/tools/train.py is not a folder, nor is /my/python tools/predict.py"

    def fail(_):
        raise UserError(wrong)

    with pytest.raises(SystemExit):
        answer(fail)
    assert capsys.readouterr().err == f"error: {wrong}\n"


def test_all_three_forms_are_helpful_without_arguments(monkeypatch, capsys):
    code, output, _ = run(monkeypatch, capsys)
    assert code == 0 and "usage: afseg [OPTION] [stage=STAGE]" in output and "tools/" not in output
    assert "  afseg tables " in output and "  afseg export-onnx " in output
    monkeypatch.setattr(sys, "argv", ["pipeline/__main__.py"])
    console.main()
    output = capsys.readouterr().out
    assert "usage: python tools/run_stage.py [" in output and "-m pipeline" not in output


@pytest.mark.parametrize("program", ["/lib/pipeline/__main__.py", "notebook.py"])
def test_an_installed_package_has_no_tools(program, monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "argv", [program])
    monkeypatch.setattr("pipeline.errors.__file__", str(tmp_path / "pipeline" / "errors.py"))
    assert as_started("python tools/predict.py x") == "afseg predict x"
    assert as_started("python tools/run_stage.py s") == "afseg s"


def test_the_version_is_ours(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(sys, "argv", ["afseg", "--version"])
    console.main()
    assert capsys.readouterr().out == f"{versions.package_version()}\n"
    monkeypatch.setattr(versions, "_REPOSITORY", tmp_path)
    monkeypatch.setattr(versions, "version", lambda _: "7.8.9")
    console.main()
    assert capsys.readouterr().out == "7.8.9\n"


def test_another_failed_import_is_a_bug():
    def fail(_):
        raise ImportError("cannot import name 'x' from 'y'")

    with pytest.raises(ImportError):
        answer(fail)
