"""The generated pages of the site, and the check of the built one; neither requires Sphinx."""

from __future__ import annotations

import dataclasses
import importlib
import re
from types import ModuleType

import pytest

from pipeline.configuration.registry import methods
from tests import REPOSITORY

pytestmark = pytest.mark.large

OURS = [m for m in methods() if m.is_ours]


@pytest.fixture(scope="module")
def website():
    """Returns a function that imports a module of ``docs/website``."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(REPOSITORY / "docs")
        yield lambda name: importlib.import_module(f"website.{name}")


@pytest.fixture(scope="module")
def pages(website, tmp_path_factory) -> dict[str, str]:
    """Returns the generated pages by their names."""
    folder = tmp_path_factory.mktemp("site") / "reference"
    folder.mkdir()
    (folder / "of-a-method-that-is-gone.rst").touch()
    website("pages").write_pages(folder)
    return {path.stem: path.read_text(encoding="utf-8") for path in folder.iterdir()}


def options(page: str) -> dict[str, str]:
    """Returns the settings on a page: key → the paragraph below it."""
    return dict(re.findall(r"^\.\. option:: ([\w.]+)=.*\n\n   (.*)$", page, re.MULTILINE))


@pytest.mark.parametrize("method", OURS, ids=lambda m: f"{m.group}={m.name}")
def test_every_method_has_a_page_with_each_of_its_settings(pages, method):
    page = pages[f"{method.group}-{method.name}"]
    expected = {f"{method.group}.{f.name}" for f in dataclasses.fields(method.settings)}
    assert expected and expected <= options(page).keys()
    assert f"python tools/run_stage.py {method.group}={method.name}" in page


def test_every_setting_says_what_it_means(pages):
    settings = {(name, *each) for name, page in pages.items() for each in options(page).items()}
    assert len(settings) > 300
    assert [s for s in settings if re.match(r"(Default|Required|Its keys|$)", s[2])] == []


def test_a_page_has_type_default_range_choices_source_presets_and_figures(pages):
    page = pages["cams-clip_es"]
    for expected in (
        ".. option:: cams.box_threshold=<float>",
        "Default: ``0.4``; at least 0 and at most 1.",
        "Default: ``clip_es``; one of ``imagenet``, ",
        "*A change computes anew:* only the metrics (CAMs are measured with it, not made).",
        "`arXiv 2212.09506 <https://arxiv.org/abs/2212.09506>`__",
        "<../method.html#3-cams-clip-es>",
        "\ncams=clip_es_voc2012\n~~~",
        "     - 64.8\n     - 64.7\n     - ``python tools/run_stage.py experiment=cls_seg_voc2012",
    ):
        assert expected in page, expected
    assert "92.8" in pages["tags-tagclip"]
    assert "92.8" not in page, "a result of tags, on which CAMs have no influence"
    assert "Published results" not in pages["cams-file"]
    assert "75.0" in pages["masks-crf"] and "75.0" not in pages["tags-tagclip"]


def test_other_groups_and_settings_within_settings_have_pages(pages):
    assert "masks.crf.iterations" in options(pages["masks-crf"])
    assert {"dataset.mask_folders", "dataset.training.iterations"} <= options(
        pages["dataset-voc2012"]
    ).keys()
    assert "``[aeroplane, bicycle," in pages["dataset-voc2012"]
    assert "executor.cluster" in options(pages["executor-dask"])
    assert "executor=slurm" in pages["executor-dask"]
    assert {"seed", "rounds"} <= options(pages["other-keys"]).keys()
    assert "segmenter=segformer_b0" in pages["segmenter"] and "71.1" in pages["segmenter"]
    assert "of-a-method-that-is-gone" not in pages
    listed = set(re.findall(r"^   ([\w-]+)$", pages["index"], re.MULTILINE))
    assert listed == pages.keys() - {"index"}


def test_sections_that_methods_name_are_headings():
    pages = (REPOSITORY / "docs" / f"{name}.md" for name in ("method", "other-methods"))
    text = "".join(page.read_text(encoding="utf-8") for page in pages)
    named = {method.section for method in OURS} - {""}
    assert named and named <= set(re.findall("^##+ (.*)", text, re.MULTILINE))


def test_the_reference_has_what_readers_are_told_to_import(pages):
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
    } <= set(pages["api"].splitlines())


def test_the_navigation_has_every_page(website):
    navigation = website("pages").NAVIGATION
    listed = [page for pages in navigation.values() for page in pages]
    written = [*(REPOSITORY / "docs").glob("*.md"), *(REPOSITORY / "data").rglob("*.md")]
    assert sorted(listed) == sorted(
        [f"{p.relative_to(REPOSITORY).with_suffix('').as_posix()}" for p in written]
        + ["docs/reference/index"]
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
