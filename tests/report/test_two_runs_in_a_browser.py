"""The page of two runs in Chromium: on a phone, in the dark, without a network."""

from __future__ import annotations

import pytest
from playwright.sync_api import expect

from pipeline.commands.compare import run
from tests.report.browsing import PHONE, barriers
from tests.report.small_run import HOSTILE_CLASSES
from tests.report.two_runs import build_two

pytestmark = pytest.mark.large


@pytest.fixture(scope="module")
def address(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("two")
    run([*map(str, build_two(folder / "runs")), "--output", str(folder / "comparison.html")])
    return (folder / "comparison.html").as_uri()


@pytest.mark.parametrize("settings", [PHONE, {"viewport": {"width": 1440, "height": 900}}])
def test_nothing_scrolls_sideways_and_all_pictures_are_decoded(visit, address, settings):
    page = visit(address, **settings)
    content, window = page.evaluate("[document.scrollingElement.scrollWidth, window.innerWidth]")
    assert content <= window == settings["viewport"]["width"]
    images = page.locator("article img")
    images.evaluate_all("(all) => all.forEach((image) => { image.loading = 'eager'; })")
    widths = images.evaluate_all(
        "async (all) => { await Promise.all(all.map((i) => i.decode()));"
        " return all.map((i) => i.naturalWidth); }"
    )
    assert len(widths) == 3 * (1 + 2 * 4) and min(widths) > 0
    panels = page.locator("article").first.locator("figure")
    tops = {round(panels.nth(k).bounding_box()["y"]) for k in range(5)}
    assert len(tops) == (3 if settings is PHONE else 1)


@pytest.mark.extras
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_from_its_ground(visit, address, scheme):
    assert not barriers(visit(address, color_scheme=scheme))


def test_tables_are_sorted_by_their_differences(visit, address):
    page = visit(address)
    names = page.get_by_role("group", name="Classes").locator("tbody th")
    page.get_by_role("button", name="segmenter B − A").click()
    assert names.all_text_contents() == ["cup", "background", "cat", "dog"]


def test_hostile_names_do_nothing(visit, tmp_path):
    runs = build_two(tmp_path / "<img src=x onerror=hacked=1>", HOSTILE_CLASSES)
    for manifest in runs[1].glob("*/*/*/manifest.json"):
        text = manifest.read_text()
        manifest.write_text(
            text.replace('"alpha": 0.25', '"alpha": "<img src=x onerror=hacked=1>"')
        )
    run([*map(str, runs), "--output", str(tmp_path / "c.html")])
    page = visit((tmp_path / "c.html").as_uri())
    assert page.evaluate("typeof hacked") == "undefined"
    expect(page.get_by_role("heading", level=1)).to_contain_text("<img src=x onerror=hacked=1>")
