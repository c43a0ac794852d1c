"""The environment that make creates: with uv as with pip, whose settings count, or with pip."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests import REPOSITORY

INSTALL, VENV = (REPOSITORY / "requirements" / name for name in ("install.sh", "venv.sh"))
PASSED_ON = ("SSL_CERT_FILE", "UV_")


def write_program(path: Path, *lines: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(["#!/bin/sh", f'echo "{path.name} $*" >> "$LOG"', *lines, ""]))
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


class Machine:
    """A folder of programs that write into a log what they are called with."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.log = folder, folder / "log"
        self.environment = {"PATH": f"{folder}/bin", "LOG": str(self.log), "TMPDIR": str(folder)}
        for name in ("sh", "cat", "cp", "env", "mkdir", "mktemp", "rm", "sed", "sort", "tr"):
            (folder / "bin").mkdir(exist_ok=True)
            (folder / "bin" / name).symlink_to(shutil.which(name))

    def install(self, settings: str = "", *, uv: str = "true", pip_has_uv: str = "true") -> list:
        """Returns the calls and variables of an installation with these settings of pip."""
        (self.folder / "settings").write_text(settings)
        write_program(
            self.folder / "environment/bin/python",
            'case "$*" in',
            f'"-m pip config list") cat {self.folder}/settings ;;',
            '"-m uv --version") false ;;',
            f'"-m uv cache dir") echo {self.folder}/cache ;;',
            f'"-m uv pip install"*) env >> "$LOG"; {uv} ;;',
            f'"-m pip install --quiet"*) {pip_has_uv} ;;',
            "esac",
        )
        self.run(INSTALL, self.folder / "environment", "-r", "r.txt")
        lines = self.log.read_text().splitlines()
        installs = ("python -m uv pip", "python -m pip install -r", *PASSED_ON)
        return [line for line in lines if line.startswith(installs)]

    def run(self, *command: object) -> subprocess.CompletedProcess:
        words = [str(word) for word in command]
        environment = self.environment
        return subprocess.run(
            words, env=environment, cwd=self.folder, capture_output=True, text=True
        )


@pytest.fixture
def machine(tmp_path) -> Machine:
    return Machine(tmp_path)


BY_PIP = ["python -m pip install -r r.txt"]


@pytest.mark.parametrize(
    ("settings", "variables"),
    [
        ("", []),
        (":env:.constraint='/c.txt'", ["UV_CONSTRAINT=/c.txt"]),
        (":env:.find-links='/opt/wheels'", ["UV_FIND_LINKS=/opt/wheels"]),
        (r"global.find-links='\n/a\n/b'", ["UV_FIND_LINKS=/a,/b"]),
        ("global.index-url='https://u:p@x/s?a=b'", ["UV_DEFAULT_INDEX=https://u:p@x/s?a=b"]),
        (':env:.extra-index-url="https://x/\'"', ["UV_INDEX=https://x/'"]),
        (":env:.cert='/c.pem'\nglobal.timeout='9'", ["UV_HTTP_TIMEOUT=9", "SSL_CERT_FILE=/c.pem"]),
        (
            ":env:.index-url='https://a'\nglobal.index-url='https://b'",
            ["UV_DEFAULT_INDEX=https://a"],
        ),
        (":env:.no-cache-dir='1'\n:env:.disable-pip-version-check='1'", ["UV_NO_CACHE=1"]),
    ],
)
def test_uv_obeys_the_settings_of_pip(settings, variables, machine):
    call, *found = machine.install(settings)
    assert call.startswith("python -m uv pip install --python") and call.endswith(" -r r.txt")
    assert sorted(found) == sorted(variables)


@pytest.mark.parametrize("name", [":env:.no-index", "install.find-links", "global.proxy"])
def test_pip_installs_where_uv_lacks_a_setting(name, machine):
    assert machine.install(f"global.timeout='9'\n{name}='1'") == BY_PIP


def test_pip_installs_where_uv_cannot(machine):
    assert machine.install(pip_has_uv="false") == BY_PIP
    machine.log.unlink()
    assert machine.install(uv="false")[-1:] == BY_PIP


def test_uv_goes_without_a_cache_that_cannot_be_written(machine):
    (machine.folder / "cache").write_text("a file")
    assert "UV_NO_CACHE=1" in machine.install()


@pytest.mark.skipif(find_spec("pip") is None, reason="there is no pip")
def test_pip_writes_its_settings_as_they_are_read(machine):
    given = {"PIP_CONFIG_FILE": os.devnull, "PIP_FIND_LINKS": "/a\n/b", "PIP_CONSTRAINT": "/c /d"}
    command = [sys.executable, "-m", "pip", "config", "list"]
    listed = subprocess.run(command, env={**os.environ, **given}, capture_output=True, text=True)
    lines = [line for line in listed.stdout.splitlines() if "find" in line or "constr" in line]
    _, *variables = machine.install("\n".join(lines))
    assert sorted(variables) == ["UV_CONSTRAINT=/c /d", "UV_FIND_LINKS=/a,/b"]


def test_a_supported_python_makes_the_environment(machine):
    write_program(machine.folder / "python3", f'[ "$1" = -m ] || {sys.executable} "$@"')
    assert machine.run(VENV, machine.folder / "python3", "ENV").returncode == 0
    assert machine.log.read_text().splitlines()[-1] == "python3 -m venv ENV"


@pytest.mark.parametrize("downloads", [True, False])
@pytest.mark.parametrize("has_uv", [True, False])
def test_uv_finds_a_python_that_is_supported(has_uv, downloads, machine):
    """Such as for 3.10: with the uv that is there, or one in a temporary environment."""
    uv, python = machine.folder / ("bin/uv" if has_uv else "uv"), machine.folder / "python3"
    write_program(uv, "true" if downloads else "false")
    write_program(machine.folder / "pip", f'cp {uv} "${{0%/*}}"')
    write_program(python, f'[ "$1" = -m ] && mkdir "$3/bin" && cp {machine.folder}/pip "$3/bin"')
    finished = machine.run(VENV, python, "ENV", "demo")
    calls = machine.log.read_text().splitlines()
    assert ("python3 -m venv" in calls[1]) is not has_uv and not list(machine.folder.glob("tmp*"))
    assert calls[-1] == "uv venv --seed --allow-existing --python >=3.11,<3.15 ENV"
    assert finished.returncode == (0 if downloads else 2)
    remedy = "Python 3.11 to 3.14 is required: make demo PYTHON=python3.11"
    assert (remedy in finished.stderr) is not downloads
