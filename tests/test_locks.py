"""The locks are in step with the ranges: ``requirements/lock.sh`` was run after the last change."""

from __future__ import annotations

import re
import tomllib

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests import REPOSITORY

FOLDER = REPOSITORY / "requirements"
PYTHONS = ("3.11", "3.12", "3.13", "3.14")
LOCKS = [f"lock-{family}py{p.replace('.', '')}.txt" for family in ("", "onedl-") for p in PYTHONS]
PINNED = re.compile(r"([\w.-]+)==([^\s;]+)(?: ;[^\\]+)?(?: --hash=sha256:[0-9a-f]{64})+")


def ranges(name: str) -> list[Requirement]:
    """Returns the requirements in a file of ranges."""
    lines = (REPOSITORY / name).read_text().splitlines()
    return [Requirement(line) for line in lines if line and not line.startswith("#")]


def pinned(name: str) -> dict[str, str]:
    """Returns the version of each package in a lock, where every line is pinned and hashed."""
    text = (FOLDER / name).read_text().replace("\\\n", "")
    lines = [re.sub(" +", " ", line) for line in text.splitlines() if line.strip()]
    found = [PINNED.fullmatch(line) for line in lines if not line.lstrip().startswith("#")]
    assert found and all(found), f"{name}: {lines[found.index(None)][:80]}"
    return {match[1]: match[2] for match in found}


def test_every_supported_python_has_a_lock_of_each_family():
    assert {path.name for path in FOLDER.glob("lock-*.txt") if "cpu" not in path.name} == {*LOCKS}
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    minors = [f"3.{minor}" for minor in range(30)]
    specifier = Requirement(f"python{project['requires-python']}").specifier
    assert [minor for minor in minors if minor in specifier] == [*PYTHONS]


@pytest.mark.parametrize("name", [*LOCKS, "build.txt"])
def test_a_lock_holds_every_requirement_at_a_version_in_its_range(name):
    locked, wanted = pinned(name), ranges("requirements/build.in")
    if name != "build.txt":
        wanted = ranges("requirements.txt") + ranges("requirements/opencv.in")
        if "onedl" in name:
            replaced = {r.name for r in ranges("requirements/onedl-overrides.txt")}
            wanted = [r for r in wanted if r.name not in replaced] + ranges("requirements/onedl.in")
            assert not replaced & locked.keys()
        assert "opencv-python" not in locked, "it requires libraries of a desktop"
    for requirement in wanted:
        version = locked.get(canonicalize_name(requirement.name))
        assert version and version in requirement.specifier, f"{requirement}: make lock"


def test_no_lock_replaces_what_the_build_has_installed():
    build = pinned("build.txt")
    for name in LOCKS:
        assert all(
            build.get(package, version) == version for package, version in pinned(name).items()
        )
