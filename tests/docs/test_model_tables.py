"""docs/compare-methods.md: the tables of models, held against what models and methods declare."""

from __future__ import annotations

import re

from pipeline.clip.image_text import releases
from pipeline.configuration.registry import methods
from tests import REPOSITORY

PAGE = (REPOSITORY / "docs" / "compare-methods.md").read_text(encoding="utf-8")
SECTION = PAGE[PAGE.index("## Other models than CLIP") : PAGE.index("## The tables")]


def test_every_model_is_listed_with_what_it_requires():
    rows = [row for row in SECTION.splitlines() if row.startswith("| `")]
    for name, release in releases().items():
        if release.module.startswith("pipeline."):
            (row,) = [row for row in rows if f"`{name}`" in row.split("|")[1]]
            required = " ".join(release.packages)
            assert (f"pip install {required}" if required else "| nothing |") in row


def test_methods_that_need_a_whole_image_are_those_that_say_so():
    listed = {*re.findall(r"^\| `(\w+=\w+)` \|", SECTION, re.MULTILINE)}
    declared = {
        f"{method.group}={method.name}"
        for method in methods()
        if method.uses_clip and method.is_ours and method.settings().without_whole_image("x")
    }
    assert listed == declared and len(listed) == 5
