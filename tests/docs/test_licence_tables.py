"""docs/licences.md covers every package, preset and data set."""

import re
import tomllib

import pytest

from pipeline.clip.image_text import releases
from pipeline.clip.second import SECONDS
from tests import REPOSITORY

PAGE = (REPOSITORY / "docs" / "licences.md").read_text(encoding="utf-8")
CODE, SECOND, CLIP, SEGMENTERS, DATA = (part.partition("\n")[2] for part in PAGE.split("\n## ")[1:])


def presets(group):
    return {path.stem for path in (REPOSITORY / "configs" / group).glob("*.yaml")} - {"default"}


def listed(section):
    """The names in the first column of a section's last table."""
    rows = re.findall(r"^\|(.*?)\|", section, re.MULTILINE)
    return {name for row in rows for name in re.findall(r"`([a-z0-9_]+)`", row)}


@pytest.mark.parametrize(
    "section, group",
    [(CLIP, "clip"), (CODE, "segmenter"), (SEGMENTERS, "segmenter"), (DATA, "dataset")],
)
def test_every_preset_is_listed(section, group):
    assert listed(section) - {"train_aug"} == presets(group)


def test_every_second_backbone_is_listed():
    releases()  # which registers them
    assert listed(SECOND) == SECONDS.keys()


def test_every_package_is_listed():
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    required = [*project["dependencies"], *sum(project["optional-dependencies"].values(), [])]
    names = {re.match(r"[\w-]+", requirement)[0] for requirement in required}
    table = CODE[: CODE.index("The released code")]
    assert names <= {*re.findall(r"[\w-]+", table)}
