"""What the site is written from, and the check of the built one; neither requires Sphinx."""

from __future__ import annotations

import importlib
import re
from types import ModuleType

import pytest

from tests import REPOSITORY

pytestmark = pytest.mark.large


@pytest.fixture(scope="module")
def website():
    """Returns a function that imports a module of ``docs/website``."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(REPOSITORY / "docs")
        yield lambda name: importlib.import_module(f"website.{name}")


def test_the_reference_has_what_readers_are_told_to_import(website):
    assert {
        ".. autoclass:: pipeline.Labeller",
        ".. autoclass:: pipeline.Segmenter",
        ".. autofunction:: pipeline.load_image",
        ".. autoclass:: pipeline.engine.registry.register",
        ".. autofunction:: pipeline.engine.settings.setting",
        ".. autoclass:: pipeline.tags.tagger.Tagger",
        ".. autoclass:: pipeline.cams.method.CamMethod",
        ".. autoclass:: pipeline.masks.refiner.Refiner",
        ".. autoexception:: pipeline.errors.ImageError",
        ".. autodata:: pipeline.datasets.settings.GROUND_TRUTH",
    } <= set(website("api").api_page().splitlines())


def test_the_navigation_has_every_page(website):
    navigation = website("navigation").NAVIGATION
    listed = [page for pages in navigation.values() for page in pages]
    written = [*(REPOSITORY / "docs").glob("*.md"), *(REPOSITORY / "data").rglob("*.md")]
    assert sorted(listed) == sorted(
        [f"{p.relative_to(REPOSITORY).with_suffix('').as_posix()}" for p in written]
        + ["docs/reference/api"]
    )


def test_the_check_names_links_that_lead_nowhere_and_what_is_loaded_from_elsewhere(
    website, tmp_path
):
    check: ModuleType = website("check")
    (tmp_path / "b").mkdir()
    (tmp_path / "a.css").write_text("@font-face { src: url(b/font.woff); }")
    (tmp_path / "b" / "c.html").write_text('<h1 id="here">c</h1><a href="../a.html#top">a</a>')
    page = '<link href="a.css"><a href="b/c.html#here">c</a><a href="https://x.org">x</a>'
    (tmp_path / "a.html").write_text(page)
    assert list(check.problems(tmp_path)) == []

    (tmp_path / "a.css").write_text("@import 'https://fonts.org/a.css'; b { src: url(//x.org/f) }")
    page = '<script src="https://x.org/s.js"></script><img src="no.png"><a href="b/c.html#gone">'
    (tmp_path / "a.html").write_text(page)
    assert list(check.problems(tmp_path)) == [
        "a.html: https://x.org/s.js is loaded from elsewhere",
        "a.html: no.png does not exist",
        "a.html: b/c.html#gone: that page does not have this anchor",
        "a.css: https://fonts.org/a.css is loaded from elsewhere",
        "a.css: //x.org/f is loaded from elsewhere",
    ]
    assert list(check.problems(tmp_path / "empty")) == [f"{tmp_path / 'empty'} has no pages"]


WRITTEN = """<aside class="sidebar-drawer"><p class="caption" role="heading">Use</p></aside>
<div class="highlight-sh notranslate"><div class="highlight"><pre>python a.py</pre></div></div>
<div class="highlight-yaml notranslate"><div class="highlight"><pre>a: b</pre></div></div>
<div class="table-wrapper docutils"><table><tr><th class="head"><p></p></th></tr></table></div>
<aside class="toc-drawer no-toc"></aside>"""
"""What Sphinx and Furo write."""


def test_what_scrolls_can_be_reached_and_what_is_named_has_a_name_of_its_own(website, tmp_path):
    check, path = website("check"), tmp_path / "a.html"
    path.write_text(WRITTEN)
    assert list(check.problems(tmp_path)) == [
        "a.html: an aside has no name",
        "a.html: a heading has no level",
        "a.html: a pre that scrolls cannot be reached with a keyboard",
        "a.html: a div that scrolls cannot be reached with a keyboard",
        "a.html: no button copies the commands",
    ]
    (tmp_path / "copybutton.js").touch()
    path.write_text(f'<script src="copybutton.js"></script>{WRITTEN}')
    website("markup").repair_pages(tmp_path)
    assert list(check.problems(tmp_path)) == []
    repaired = path.read_text()
    assert repaired.count("tabindex") == 2, "commands wrap, and do not scroll"
    assert "<th" not in repaired, "a header without a word"
    assert website("markup").repair(repaired) == repaired


def test_a_long_command_wraps():
    style = (REPOSITORY / "docs" / "website" / "static" / "site.css").read_text()
    assert "white-space: pre-wrap" in re.search(r"\.highlight-sh pre {(.*?)}", style)[1]
