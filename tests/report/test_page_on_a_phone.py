"""The page on a phone: one row of filters, chips for thumbs, and figures in view."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import expect

from pipeline.evaluation.record import MetricsFile
from pipeline.report.page.page import write_page
from tests.report.browsing import PHONE
from tests.report.measured import KNOWN
from tests.report.small_run import CLASSES, build_run
from tests.report.test_page_in_a_browser import IDS

pytestmark = pytest.mark.large


@pytest.fixture(scope="module")
def address(tmp_path_factory) -> str:
    """A page with all chapters, and the ablation of two splits."""
    inputs = build_run(tmp_path_factory.mktemp("run"), IDS, CLASSES, remarks=["Much is odd"])
    steps = ("clip", "clip_native", "coarse_last", "coarse", "dmar", "cwr")
    variants = {name: {"map": 0.912} for name in steps}
    figures = {"images": 5000, "map": 0.9, "f1": 0.8, "precision": 0.7, "recall": 0.6}
    figures |= {"per_class": {}, "variants": variants}
    metrics = MetricsFile(inputs.root / "metrics.json")
    metrics.latest = {"tags": {"train": figures, "val": figures}}
    run = {"stage": "tags", "split": "val", "about": {}, "configuration": {}, **KNOWN, **figures}
    metrics.runs = [{**run, "key": inputs.results["tags"].key}]
    return write_page(inputs.root / "report.html", inputs, metrics).as_uri()


def test_filters_are_one_row_that_opens(visit, address):
    page = visit(address, **PHONE)
    form, chosen = page.get_by_role("search"), page.get_by_label("Class", exact=True)
    assert form.bounding_box()["height"] < 110
    expect(chosen).to_be_hidden()
    toggle = page.get_by_role("button", name="Filters")
    expect(toggle).to_have_attribute("aria-expanded", "false")
    toggle.tap()
    expect(toggle).to_have_attribute("aria-expanded", "true")
    chosen.select_option("dog")
    toggle.tap()
    expect(chosen).to_be_hidden()
    expect(page.locator("#count")).to_have_text("2 of 6 images")


def test_chips_are_large_enough_for_a_thumb(visit, address):
    page = visit(address, **PHONE)
    page.locator(".card .add").first.tap()
    page.get_by_role("dialog").get_by_role("button").first.wait_for()
    boxes = [chip.bounding_box() for chip in page.locator("button.chip:visible").all()]
    assert len(boxes) > 12
    page.keyboard.press("Escape")
    page.get_by_role("button", name="fig 1", exact=True).tap()
    names = ("Previous image", "Next image", "Close")
    for box in boxes + [page.get_by_role("button", name=name).bounding_box() for name in names]:
        assert min(box["width"], box["height"]) >= 40


@pytest.mark.parametrize("width", [320, 390])
def test_every_chapter_can_be_reached(visit, address, width):
    page = visit(address, **{**PHONE, "viewport": {"width": width, "height": 667}})
    chapters = page.locator("main > section")
    links = page.locator("nav.sections a")
    assert links.count() == chapters.count() == 7
    page.evaluate("document.documentElement.style.scrollBehavior = 'auto'")
    for link in links.all():
        expect(link).to_be_in_viewport(ratio=1)
        link.tap()
        heading = page.locator(f"{link.get_attribute('href')} h2").first
        expect(heading).to_be_in_viewport(ratio=1)
        bar = page.locator("nav.sections").bounding_box()
        assert heading.bounding_box()["y"] >= bar["y"] + bar["height"] - 1, "nothing covers it"


@pytest.mark.parametrize("width", [390, 700])
def test_a_table_that_goes_on_has_a_shadow_at_that_end(visit, address, width):
    page = visit(address, **{**PHONE, "viewport": {"width": width, "height": 667}})
    stages = page.get_by_role("group", name="Stages")

    def has_shadows(scrolled: int) -> tuple[bool, bool]:
        stages.evaluate("(table, left) => { table.scrollLeft = left; }", scrolled)
        picture = np.asarray(Image.open(io.BytesIO(stages.screenshot())).convert("L"))
        ends = picture[:, 2:8], picture[:, -8:-2]
        return tuple(bool(np.median(end) < np.median(picture) - 9) for end in ends)

    assert stages.evaluate("table => table.scrollWidth - table.clientWidth") > 90
    left = width > 640  # where no column stays in view there
    assert has_shadows(0) == (False, True)
    assert has_shadows(45) == (left, True)
    assert has_shadows(9999) == (left, False)


def test_the_steps_keep_their_figures_in_view(visit, address):
    page = visit(address, **PHONE)
    steps = page.get_by_role("group", name="Tagging, step by step")
    steps.scroll_into_view_if_needed()
    wide, there = steps.evaluate("(group) => [group.scrollWidth, group.clientWidth]")
    assert wide <= there
    for row in steps.locator("tbody tr").all():
        assert row.bounding_box()["height"] < 110, "names take a few lines, not one a word"
    stages = page.get_by_role("group", name="Stages")
    stages.scroll_into_view_if_needed()
    stages.evaluate("(group) => { group.scrollLeft = 300; }")
    expect(stages.locator("tbody th").first).to_be_in_viewport(ratio=1)


def test_the_bar_leaves_the_images_in_view(visit, address):
    page = visit(address, **PHONE)
    page.locator(".card .chip").first.tap()
    bar = page.get_by_role("region", name="Corrections")
    assert bar.bounding_box()["height"] < 667 / 4
    with page.expect_download():
        page.get_by_role("button", name="Save", exact=True).tap()
    expect(page.get_by_role("button", name="Copy")).to_be_in_viewport()
    expect(page.get_by_role("button", name="Close this bar")).to_be_in_viewport()
