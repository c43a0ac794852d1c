"""Every tool explains itself, and answers wrong use with one sentence."""

from __future__ import annotations

import errno
import gc
import io
import os
import re
import subprocess
import sys

import pytest
from hydra.core.global_hydra import GlobalHydra

from pipeline.commands.command_line import answer, collect_garbage, next_command
from pipeline.commands.console import WHEN_INTERRUPTED
from pipeline.engine.progress import say, track
from pipeline.errors import UserError
from pipeline.stages.pipeline import COMMANDS
from tests import REPOSITORY
from tests.processes import run_python

TOOLS = sorted(path.name for path in (REPOSITORY / "tools").glob("[a-z]*.py"))
TOOLS.remove("import_masks.py")  # which says what to do instead


@pytest.mark.parametrize("tool", TOOLS)
def test_help_shows_what_to_type(run_tool, tool, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    GlobalHydra.instance().clear()
    finished = run_tool(tool, "--help")
    assert finished.code == 0, finished.errors
    assert finished.output.startswith("usage: " if tool != "run_stage.py" else "Trains a segmenter")
    usage, _, examples = finished.output.partition("examples")
    assert f"python tools/{tool}" in usage
    # argparse leaves what an option is for to whoever declares it.
    assert len(re.findall(rf"^ +python tools/{tool}", examples, re.MULTILINE)) >= 1


def test_the_help_of_the_pipeline_names_every_stage_command_and_choice(run_tool):
    GlobalHydra.instance().clear()
    text = run_tool("run_stage.py", "--help").output
    GlobalHydra.instance().clear()
    assert run_tool("run_stage.py").output == text, "without arguments"
    for tool in WHEN_INTERRUPTED:
        assert re.search(rf"^  python tools/{tool}\.py  +\w", text, re.MULTILINE), tool
    for stage in (*COMMANDS, "status"):
        assert re.search(rf"^  {stage} ", text, re.MULTILINE), stage
    for path in (REPOSITORY / "configs").glob("[!h]*/[!_]*.yaml"):  # but Hydra's own
        assert path.stem in text
    assert "dry_run=true" in text and "--config-dir" in text


@pytest.mark.parametrize("tool", [*TOOLS, "-m pipeline"])
def test_a_python_without_the_packages_is_one_sentence(tool):
    words = tool.split() if tool.startswith("-m") else [f"tools/{tool}"]
    words += ["--checkpoint", "c", "--output", "o.onnx"]  # export_onnx imports none for its help
    done = run_python("-S", *words)
    said = rf"error: {re.escape(sys.executable)} has no package \w+: use \.venv/bin/python, which"
    assert done.returncode == 2 and re.match(said, done.stderr), done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("tool", [name for name in TOOLS if name != "run_stage.py"])
def test_an_unknown_option_is_answered_with_one_sentence(run_tool, tool):
    finished = run_tool(tool, "--no-such-option")
    assert finished.code == 2
    assert finished.errors.startswith("error: ") and finished.errors.count("\n") == 1


@pytest.mark.parametrize(
    ("given", "stage", "wanted"),
    [
        (["stage=tags", "seed=1"], "cams", "stage=cams seed=1"),
        ([], "cams", "stage=cams"),
        (["--config-dir", "a b", "seed=1"], "cams", "stage=cams --config-dir 'a b' seed=1"),
        (["dataset.classes=[a b,c]"], "train", "stage=train 'dataset.classes=[a b,c]'"),
        (["-m", "seed=1,2", "dry_run=true"], None, "-m seed=1,2"),
    ],
)
def test_what_comes_next(given, stage, wanted):
    assert next_command(given, stage) == f"python tools/run_stage.py {wanted}"


def test_short_progress_is_quiet_without_a_terminal(capsys):
    with track("tags val", 3) as advance:
        advance(note="1 left out")
    assert capsys.readouterr() == ("", "")


def test_long_progress_is_lines_without_a_terminal(capsys, monkeypatch):
    now = 0.0
    monkeypatch.setattr("pipeline.engine.progress.time.monotonic", lambda: now)
    with track("train light", 1000) as advance:
        say("loading")  # which is no step
        for _ in range(1000):
            now += 1
            advance(note="loss 0.5")
    out, shown = capsys.readouterr()
    assert not out and "\x1b" not in shown and "\r" not in shown
    lines = shown.splitlines()
    assert 40 <= len(lines) <= 50  # of 2% each, which take 20 seconds
    assert all(line.startswith("train light") and line.endswith("loss 0.5") for line in lines)
    assert [re.search(r"(\d+)/1000", line)[1] for line in lines[:3]] == ["21", "42", "63"]


def test_nothing_is_said_beside_a_bar_that_has_ended(monkeypatch):
    """A library's caller may have closed what stderr was then."""
    closed = io.StringIO()
    monkeypatch.setattr("sys.stderr", closed)
    monkeypatch.setattr("pipeline.engine.progress._SECONDS", -1)
    with track("images", 4) as advance:
        advance(2)
        say("loading")
    assert "images" in closed.getvalue() and "2/4" in closed.getvalue()
    closed.close()
    say("loading CLIP")


@pytest.mark.parametrize(("columns", "said"), [(140, "2 left out, 1 of them twice"), (80, "2 le")])
def test_progress_shows_speed_time_left_and_failures(columns, said, capsys, monkeypatch):
    monkeypatch.setattr("rich.console.Console.is_terminal", True)
    monkeypatch.setenv("COLUMNS", str(columns))
    with track("tags and cams train_aug", 40_000) as advance:
        for _ in range(3):
            advance(10_000, "2 left out, 1 of them twice")
    shown = capsys.readouterr().err
    assert "tags and cams train_aug" in shown and "30000/40000" in shown and said in shown
    assert re.search(r"\d+\.\d/s", shown) and re.search(r"\d:\d\d:\d\d", shown)


def system_error(number: int, *path: str) -> OSError:
    return OSError(number, os.strerror(number), *path)


OF_JOBLIB = UnboundLocalError("cannot access local variable 'child_r'")
OF_JOBLIB.__context__ = system_error(errno.EMFILE)
OF_GPU = type("OutOfMemoryError", (RuntimeError,), {})("CUDA out of memory. Tried to …")
LIMIT = "memory, or the number of processes, threads or files, is at its limit"


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (system_error(errno.EACCES, "out/all/masks"), "cannot read or write out/all/masks: Permis"),
        (MemoryError(), LIMIT),
        (system_error(errno.ENOMEM), LIMIT),
        (system_error(errno.EAGAIN), LIMIT),  # of a process over ulimit -u
        (system_error(errno.EMFILE, "/lib/torch.py"), LIMIT),
        (RuntimeError("can't start new thread"), LIMIT),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), LIMIT),
        (ImportError("libtorch_cpu.so: failed to map segment from shared object"), LIMIT),
        (OF_JOBLIB, LIMIT),  # which hides that files ran out
        (OF_GPU, "the GPU's memory ran out: lower runtime.batch_size and runtime.crop_batch_size"),
        (ImportError("libGL.so.1: cannot open shared object file"), "OpenCV requires libGL.so.1"),
    ],
    ids=repr,
)
def test_faults_of_the_system_are_one_sentence(error, message, capsys):
    def fail(_):
        raise error

    with pytest.raises(SystemExit) as ended:
        answer(fail)
    said = capsys.readouterr().err
    assert ended.value.code == 2 and said.startswith(f"error: {message}")
    assert said.count("\n") == 1 and ("ulimit -v, -u and -n" in said) == (message == LIMIT)
    assert ("apt install libgl1" in said) == ("OpenCV" in message)


@pytest.mark.parametrize("number", [errno.EROFS, errno.ENOENT])
def test_a_shared_memory_that_cannot_be_written_is_named(number, capsys, monkeypatch):
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setattr("os.access", lambda path, mode: path != "/dev/shm")

    def fail(_):
        raise system_error(number)  # as semaphores do

    with pytest.raises(SystemExit) as ended:
        answer(fail)
    said = capsys.readouterr().err
    assert ended.value.code == 2 and "since /dev/shm cannot be written: mount it" in said
    monkeypatch.setattr("os.access", lambda path, mode: True)
    with pytest.raises(SystemExit if number == errno.EROFS else FileNotFoundError):
        answer(fail)
    assert "/dev/shm" not in capsys.readouterr().err


def test_output_escapes_what_a_terminal_cannot_show():
    code = "from pipeline.commands.command_line import answer; from rich.console import Console\n"
    code += "answer(lambda _: (print('tags → 3…'), Console().print('cams → Zoë')))"
    done = run_python("-c", code, PYTHONIOENCODING="ascii")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "tags \\u2192 3\\u2026\ncams \\u2192 Zo\\xeb\n"


def test_file_names_do_not_depend_on_the_locale():
    code = "import sys; from pipeline.commands.command_line import answer\n"
    code += "answer(lambda _: print(sys.getfilesystemencoding(), sys.argv))"
    done = run_python("-c", code, "ça va", LC_ALL="C", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "utf-8 ['-c', 'ça va']\n"


def test_what_was_imported_and_no_garbage_is_kept_from_the_collector(monkeypatch):
    called = []
    monkeypatch.setattr("gc.freeze", lambda: called.append(gc.isenabled()))
    monkeypatch.setattr("atexit.register", called.append)
    gc.disable()
    for _job in range(2):
        collect_garbage()
        assert gc.isenabled() and called == [False, gc.unfreeze]


def test_output_may_be_a_stream_of_a_notebook(monkeypatch):
    monkeypatch.setattr("sys.stdout", shown := io.StringIO())  # which has no reconfigure
    answer(lambda _: print("shown"))
    assert shown.getvalue() == "shown\n"


def test_a_stream_that_was_closed_loses_what_is_printed(monkeypatch):
    for name in ("stdout", "stderr"):
        monkeypatch.setattr(f"sys.{name}", closed := io.TextIOWrapper(io.BytesIO()))
        closed.close()
    answer(lambda _: (print("lost \udce9"), print("lost \udce9", file=sys.stderr)))


@pytest.mark.parametrize("ends", [">&-", "2>&-", "<&- >&- 2>&-", "1</dev/null", "2</dev/null"])
def test_without_output_files_get_nothing_that_is_printed(ends, tmp_path):
    code = """
import os, pathlib, sys
from pipeline.commands.command_line import answer

def write(_):
    file = open(sys.argv[1], "w")
    print("lost", flush=True)
    print("lost", file=sys.stderr)
    os.write(1, b"of a library"), os.write(2, b"of a library")
    file.write("kept")
    file.close()

answer(write)
"""
    command = ["sh", "-c", f'exec "$@" {ends}', "sh", sys.executable, "-c", code, tmp_path / "file"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "file").read_text() == "kept"


class FullStream(io.StringIO):
    def write(self, _):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_an_error_has_its_exit_code_where_stderr_is_full(monkeypatch):
    def fail(_):
        raise UserError("wrong")

    monkeypatch.setattr("sys.stderr", FullStream())
    with pytest.raises(SystemExit) as ended:
        answer(fail)
    assert ended.value.code == 2


def test_a_reader_that_ends_early_is_not_an_error(monkeypatch):
    reader, writer = os.pipe()
    os.close(reader)
    monkeypatch.setattr("sys.stdout", os.fdopen(writer, "w"))
    with pytest.raises(SystemExit) as ended:
        answer(lambda _: print("help"))
    assert ended.value.code == 141
    print("more", flush=True)  # what Python writes at the end is lost in silence
