"""Every link within README and docs/ leads somewhere, also to a heading."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree

import pytest

from tests import REPOSITORY
from tests.docs.pages import PAGES

_LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")


def headings(text: str) -> set[str]:
    """Returns the anchors that GitHub gives headings."""
    found = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title).strip().lower().replace(" ", "-") for title in found}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPOSITORY)))
def test_links_lead_somewhere(page):
    links = _LINK.findall(page.read_text(encoding="utf-8"))
    for link in links:
        if "://" in link:
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.is_relative_to(REPOSITORY), link
        assert target.exists(), f"{page.name} links to {link}"
        if anchor:
            assert anchor in headings(target.read_text(encoding="utf-8")), link


def test_the_readme_links_to_every_page():
    def linked(page):
        links = _LINK.findall(page.read_text(encoding="utf-8"))
        return {(page.parent / link.partition("#")[0]).resolve() for link in links}

    assert {*PAGES[2:]} <= linked(PAGES[0])


def test_the_figure_is_whole_and_needs_nothing_else():
    path = REPOSITORY / "docs" / "method.svg"
    root = ElementTree.parse(path).getroot()
    assert root.attrib["viewBox"]
    ids = {e.attrib["id"] for e in root.iter() if "id" in e.attrib}
    used = {v for e in root.iter() for k, v in e.attrib.items() if k.endswith("href")}
    assert used and all(name.startswith("#") and name[1:] in ids for name in used)
    assert {"title", "description"} <= ids
