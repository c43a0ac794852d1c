"""What is installed: the requirements, and a wheel that runs from any folder."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from hatchling.builders.wheel import WheelBuilder

from pipeline.engine import versions
from tests import REPOSITORY

PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
DEVELOPMENT = ("test", "lint")  # the groups that README's two commands need

DATED = ("regex", "distributed")  # their versions are dates, of which none is a major one


def test_the_requirements_are_those_of_the_package_its_extras_and_its_tests():
    lines = (REPOSITORY / "requirements.txt").read_text().splitlines()
    listed = [line for line in lines if line and not line.startswith("#")]
    extras = dict(PROJECT["project"]["optional-dependencies"])
    for name in ("backbones", "app"):  # in an environment of their own
        apart = extras.pop(name)
        assert apart and not {*apart} & {*listed}
    extras = extras.values()
    groups = [PROJECT["dependency-groups"][name] for name in DEVELOPMENT]
    declared = [*PROJECT["project"]["dependencies"], *sum([*extras, *groups], [])]
    assert sorted(listed) == sorted(declared)


def test_every_requirement_has_bounds():
    lines = (REPOSITORY / "requirements.txt").read_text().splitlines()
    for line in [*lines, *PROJECT["dependency-groups"]["extras"]]:
        upper = "" if line.startswith(DATED) else r",<\d"
        assert line.startswith("#") or re.match(rf"[\w-]+(\[\w+\])?>=[\d.]+{upper}", line), line


def test_a_module_fits_on_a_few_screens():
    page = (REPOSITORY / "docs" / "contributing.md").read_text(encoding="utf-8")
    limit = int(re.search(r"none exceeds (\d+)", page)[1])
    for path in (REPOSITORY / "pipeline").rglob("*.py"):
        assert len(path.read_text(encoding="utf-8").splitlines()) <= limit, path


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """Returns a folder with an installed wheel."""
    folder = tmp_path_factory.mktemp("site-packages")
    (wheel,) = WheelBuilder(str(REPOSITORY)).build(directory=str(folder), versions=["standard"])
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    Path(wheel).unlink()
    return folder


@pytest.mark.large
def test_a_wheel_holds_what_runs_need(installed):
    package = installed / "pipeline"
    shipped = [
        *(REPOSITORY / "configs").rglob("*.yaml"),
        *(REPOSITORY / "data").glob("*/scenes.yaml"),
        REPOSITORY / "docs" / "data-sets.md",
        *(REPOSITORY / "examples" / name for name in ("convert_cams.py", "segment.py")),
    ]
    for path in shipped:
        assert (package / path.relative_to(REPOSITORY)).is_file()
    code = [path for path in (REPOSITORY / "pipeline").rglob("*") if path.is_file()]
    for path in [path for path in code if "__pycache__" not in path.parts]:
        assert (installed / path.relative_to(REPOSITORY)).is_file()
    assert (package / "py.typed").is_file(), "else type checkers read no annotation"
    (about,) = installed.glob("*.dist-info")
    assert "afseg = pipeline.commands.console:main" in (about / "entry_points.txt").read_text()
    assert {path.name for path in installed.iterdir()} == {"pipeline", about.name}


@pytest.mark.large
def test_an_editable_install_requires_nothing_more(tmp_path):
    """A locked environment holds hatchling, and nothing may be fetched beside the lock."""
    (wheel,) = WheelBuilder(str(REPOSITORY)).build(directory=str(tmp_path), versions=["editable"])
    with zipfile.ZipFile(wheel) as archive:
        [link] = [name for name in archive.namelist() if name.endswith(".pth")]
        assert archive.read(link).decode().strip() == str(REPOSITORY)


@pytest.mark.skipif(shutil.which("make") is None, reason="there is no make")
@pytest.mark.parametrize("locked", ["", "1", "onedl"])
def test_make_installs_the_package_last(locked, tmp_path):
    target = f"{tmp_path}/installed"
    command = [
        "make",
        "--dry-run",
        "--no-print-directory",
        f"LOCKED={locked}",
        f"VENV={tmp_path}",
        target,
    ]
    lines = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True).stdout
    *before, install, touch = lines.splitlines()
    assert sum("pip install" in line for line in before) == bool(locked), "what installs the rest"
    how = "--no-deps --no-build-isolation --editable ."
    assert (install, touch) == (f"requirements/install.sh {tmp_path} {how}", f"touch {target}")
    (tmp_path / "installed").touch()
    newer = [*command, "--what-if=pyproject.toml"]
    lines = subprocess.run(newer, cwd=REPOSITORY, capture_output=True, text=True).stdout
    assert install in lines


@pytest.mark.large
def test_an_installed_package_runs_the_demo_from_any_folder(installed, tmp_path):
    words = ["stage=tags", "dataset=demo", "clip=demo", "dataset.split=val", "dataset.limit=2"]
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    command = [sys.executable, "-m", "pipeline", *words]
    run = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert "next: afseg stage=cams dataset=demo" in run.stdout
    folder = tmp_path / "outputs/demo/val/tags/latest"
    assert len((folder / "tags.txt").read_text().splitlines()) == 2
    # The commit of the build, not of a repository around the environment.
    found = json.loads((folder / "manifest.json").read_text())["versions"]["commit"]
    assert found == versions.commit()


def test_manifests_name_what_computes_pixels_and_weights(monkeypatch):
    def version(package: str) -> str:
        if package.startswith("opencv"):
            return "5.0"
        raise versions.PackageNotFoundError

    monkeypatch.setattr(versions, "version", version)
    found = versions.versions.__wrapped__()
    assert found["opencv-python"] == found["opencv-python-headless"] == "5.0"  # one hides the other
    missing = {name for name, number in found.items() if number == "missing"}
    of_pixels = {"numpy", "scipy", "scikit-image", "pillow", "pydensecrf2", "torchvision"}
    of_weights = {"torch", "open_clip_torch", "timm", "mmsegmentation", "mmengine", "mmcv-lite"}
    of_text = {"scikit-learn"}
    assert missing == of_pixels | of_weights | of_text


@pytest.fixture
def described(monkeypatch) -> dict[str, str]:
    """What git answers: to the search for a tag, and to that for the commit."""
    answers = {"--tags": "", "--always": "0123456789"}
    monkeypatch.setattr(versions, "_describe", lambda *options: answers[options[0]])
    versions.commit.cache_clear()
    yield answers
    versions.commit.cache_clear()


@pytest.mark.parametrize(
    ("tag", "commit", "wanted"),
    [
        ("", "0123456789", "0.1.0+g0123456789"),
        ("v1.2.3", "0123456789+", "1.2.3+g0123456789.changed"),
        ("v1.2.3", "", "1.2.3"),
    ],
)
def test_the_version_names_the_tag_and_the_commit(tag, commit, wanted, described):
    described.update({"--tags": tag, "--always": commit})
    assert versions.package_version() == wanted


def test_an_installed_package_knows_its_commit(tmp_path, monkeypatch):
    monkeypatch.setattr(versions, "_REPOSITORY", tmp_path)
    for version, wanted in (
        ("0.1.0+g0123456789.changed", "0123456789+"),
        ("0.1.0+g0123456789", "0123456789"),
        ("0.1.0", "unknown"),
    ):
        monkeypatch.setattr(versions, "version", lambda _, version=version: version)
        versions.commit.cache_clear()
        assert versions.commit() == wanted
    versions.commit.cache_clear()
