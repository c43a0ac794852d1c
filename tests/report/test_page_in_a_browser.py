"""The page in Chromium, as a reader uses it: with a mouse, a keyboard, a phone, and no network."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from playwright.sync_api import expect

from pipeline.evaluation.about import About
from pipeline.evaluation.record import MetricsFile
from pipeline.files.images import encode_png
from pipeline.report.page.page import write_page
from tests.report.browsing import PHONE, barriers, names
from tests.report.measured import KNOWN
from tests.report.small_run import CLASSES, HOSTILE_CLASSES, HOSTILE_IDS, PALETTE, build_run

pytestmark = pytest.mark.large

IDS = [f"{name} {k}" for k, name in enumerate(["pear", "fig", "apple", "kiwi", "plum", "lime"])]


def write(inputs, *runs: dict) -> str:
    metrics = MetricsFile(inputs.root / "metrics.json")
    metrics.runs = [*runs]
    return write_page(inputs.root / "report.html", inputs, metrics).as_uri()


def measured_masks(inputs, per_class: dict | None = None) -> dict:
    run = {"stage": "masks", "split": "val", "key": inputs.results["masks"].key, "images": 6}
    run |= {"miou": 1.0, "about": {}, "configuration": {}, "per_class": per_class or {}}
    return run | KNOWN


@pytest.fixture(scope="module")
def address(tmp_path_factory) -> str:
    failures = {"broken": "cannot be decoded"}
    return write(build_run(tmp_path_factory.mktemp("run"), IDS, CLASSES, failures=failures))


def test_images_are_searched_filtered_and_counted_aloud(visit, address):
    page = visit(address)
    count = page.locator("#count")
    expect(count).to_have_text("6 of 6 images")
    page.get_by_label("Search").fill("APPLE")
    assert names(page) == ["apple 2"]
    expect(count).to_have_text("1 of 6 images")
    page.get_by_label("Search").fill("cat")
    assert names(page) == ["pear 0", "kiwi 3"], "by their tags"
    page.get_by_role("button", name="Reset").click()
    expect(count).to_have_text("6 of 6 images")
    page.get_by_label("Class", exact=True).select_option(label="dog (2)")
    assert names(page) == ["fig 1", "plum 4"]
    page.get_by_label("Show").select_option("with-wrong")
    assert names(page) == ["fig 1", "plum 4"], "both have a wrong tag beside the right one"
    page.get_by_label("Show").select_option("without-tags")
    expect(count).to_have_text("0 of 6 images")
    page.get_by_role("button", name="Reset").click()
    page.get_by_label("Show").select_option("without-tags")
    assert names(page) == ["lime 5"]


def test_images_are_sorted(visit, address):
    page = visit(address)
    choose = page.get_by_label("Sort by").select_option
    assert names(page) == IDS
    choose("name")
    assert names(page) == sorted(IDS)
    choose("predictionIou:up")
    assert names(page) == IDS[::-1], "predictions lose a column with every image"
    choose("predictionIou:down")
    assert names(page) == IDS
    choose("disagreement:down")
    assert names(page) == IDS[::-1]
    choose("tag")
    assert names(page)[-1] == "lime 5", "the one without a tag comes last"
    assert names(page)[:2] == ["pear 0", "kiwi 3"]


def test_any_layer_is_laid_over_the_photographs(visit, address):
    page = visit(address)
    first = page.locator(".card .open .over").nth(2)
    expect(page.get_by_label("Overlay")).to_have_value("prediction")
    shown = first.get_attribute("src")
    page.get_by_label("Overlay").select_option("truth")
    assert first.get_attribute("src") not in (None, shown)
    page.get_by_label("Overlay").select_option("")
    expect(first).to_be_hidden()


def test_an_image_opens_with_all_its_pictures_decoded(visit, address):
    page = visit(address)
    page.get_by_role("button", name="fig 1", exact=True).click()
    viewer = page.get_by_role("dialog", name="fig 1", exact=True)
    expect(viewer).to_be_visible()
    assert viewer.locator("figure").count() == 1 + 2 + 4 + 3
    sizes = viewer.locator("img").evaluate_all(
        "async (images) => { await Promise.all(images.map((i) => i.decode()));"
        " return images.map((i) => i.naturalWidth); }"
    )
    assert len(sizes) == 1 + 2 * 9 and min(sizes) > 0
    expect(viewer.get_by_role("table")).to_contain_text("wrong")
    expect(
        viewer.get_by_role("img", name="ground truth: dog 25.0\N{NO-BREAK SPACE}%")
    ).to_be_visible()
    place = viewer.locator("[data-layer=truth] .place")
    expect(place).to_have_text("dog")
    viewer.get_by_label("Names").uncheck()
    expect(place).to_be_hidden()
    page.get_by_role("button", name="Close").click()
    expect(viewer).to_be_hidden()
    expect(page.get_by_role("button", name="fig 1", exact=True)).to_be_focused()


def test_the_keyboard_alone_suffices(visit, address):
    page = visit(address)
    page.keyboard.press("/")
    expect(page.get_by_label("Search")).to_be_focused()
    page.keyboard.type("i/")
    expect(page.get_by_label("Search")).to_have_value("i/")
    page.keyboard.press("Backspace")
    assert names(page) == ["fig 1", "kiwi 3", "lime 5"], "typed letters are not commands"
    page.locator(".card:visible .open").first.focus()
    page.keyboard.press("ArrowRight")
    expect(page.get_by_role("button", name="kiwi 3", exact=True)).to_be_focused()
    page.keyboard.press("Enter")
    title = page.locator("#viewer-title")
    expect(title).to_have_text("kiwi 3")
    expect(title).to_be_focused()
    page.keyboard.press("ArrowRight")
    expect(title).to_have_text("lime 5")
    page.keyboard.press("ArrowRight")
    expect(title).to_have_text("lime 5")
    expect(page.locator("#viewer-place")).to_have_text("image 3 of 3")
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowLeft")
    expect(title).to_have_text("fig 1")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.closest('dialog') !== null"), "focus stays inside"
    page.keyboard.press("Escape")
    expect(page.locator("#viewer")).to_be_hidden()
    expect(page.get_by_role("button", name="fig 1", exact=True)).to_be_focused()


def test_an_address_leads_to_an_image(visit, address):
    page = visit(address)
    page.get_by_role("button", name="apple 2", exact=True).click()
    link = page.url
    assert link.endswith("#image-3")
    expect(visit(link).get_by_role("dialog", name="apple 2")).to_be_visible()


@pytest.mark.parametrize("settings", [PHONE, {"viewport": {"width": 1280, "height": 800}}])
def test_nothing_scrolls_sideways(visit, address, settings):
    page = visit(address, **settings)
    widths = "[document.scrollingElement.scrollWidth, window.innerWidth]"
    content, window = page.evaluate(widths)
    assert content <= window == settings["viewport"]["width"]
    page.get_by_role("button", name="fig 1", exact=True).click()
    wide, there = page.locator("#viewer").evaluate("(d) => [d.scrollWidth, d.clientWidth]")
    assert wide <= there


def test_names_on_masks_do_not_cross_at_any_size(visit, tmp_path):
    classes = ["potted plant", "aeroplane", "dining table", "dog"]
    inputs = build_run(tmp_path, IDS, classes)
    for number, sample in enumerate(inputs.samples):
        labels, rng = np.zeros((48, 64), np.uint8), np.random.default_rng(number)
        for label in (1, 2, 3, 4):
            top, left = rng.integers(0, 24, 2)
            labels[top : top + 14, left : left + 20] = label
        sample.mask.path.write_bytes(encode_png(labels, PALETTE))
    page = visit(write(inputs))
    named = 0
    for image in IDS:
        page.get_by_role("button", name=image, exact=True).click()
        for size in ("180", "640"):
            page.get_by_label("Size").fill(size)
            picture = page.locator("#viewer [data-layer=truth] .picture")
            frame = picture.bounding_box()
            boxes = [place.bounding_box() for place in picture.locator(".place").all()]
            named += len(boxes)
            assert all(is_within(box, frame) for box in boxes)
            assert not any(is_crossed(a, b) for a, b in itertools.combinations(boxes, 2))
        page.keyboard.press("Escape")
    assert named > 2 * 3 * len(IDS)


def is_crossed(a: dict, b: dict) -> bool:
    return all(
        a[at] + 1 < b[at] + b[side] and b[at] + 1 < a[at] + a[side]
        for at, side in (("x", "width"), ("y", "height"))
    )


def is_within(box: dict, frame: dict) -> bool:
    return all(
        frame[at] - 1 <= box[at] and box[at] + box[side] <= frame[at] + frame[side] + 1
        for at, side in (("x", "width"), ("y", "height"))
    )


def test_what_stages_were_made_with_is_readable_on_a_laptop(visit, tmp_path):
    inputs = build_run(tmp_path, IDS, CLASSES)
    chain = {
        "method": "crf_confident",
        "cams": {"method": "clip_es", "tags": {"method": "tagclip"}},
    }
    made = {"name": "deeplabv3plus_r101", "seed": 12, "masks": chain}
    for results in inputs.stages:
        results.manifest = {**results.manifest, "configuration": made}
    page = visit(write(inputs), viewport={"width": 1440, "height": 900})
    cell = page.locator(".stages tbody td").last
    expect(cell).to_have_text("deeplabv3plus_r101, seed 12, crf_confident, clip_es, tagclip")
    wide, there = page.get_by_role("group", name="Stages").evaluate(
        "(d) => [d.scrollWidth, d.clientWidth]"
    )
    assert wide <= there, "nothing is cut"


def test_names_and_figures_stay_on_a_line_on_a_phone(visit, tmp_path):
    about = About(corrections="tags of 2 images in corrections.csv of 2026-12-01 23:29:11")
    inputs = build_run(tmp_path, ["COCO_val2014_000000123456", *IDS], CLASSES, about=about)
    page = visit(write(inputs, measured_masks(inputs)), **PHONE)
    name = page.locator(".open bdi").first
    wide, there = name.evaluate("(name) => [name.scrollWidth, name.clientWidth]")
    assert wide > there and name.get_attribute("title") == name.text_content(), "its end is cut"
    for place in (".tiles .value", ".worth dd", ".facts dt", ".open bdi"):
        page.locator(place).first.scroll_into_view_if_needed()
        lines = page.locator(place).evaluate_all(LINES)
        assert lines and {*lines} == {1}, place


LINES = """(elements) => elements.filter((e) => e.checkVisibility()).map((element) => {
  const range = document.createRange();
  range.selectNodeContents(element);
  const bottoms = [...range.getClientRects()].map((r) => r.bottom).sort((a, b) => a - b);
  return bottoms.filter((b, k) => k === 0 || b - bottoms[k - 1] > 8).length;
})"""


def test_tables_of_classes_are_sorted_by_their_headers(visit, tmp_path):
    inputs = build_run(tmp_path, IDS, CLASSES)
    per_class = {name: {"iou": k / 10} for k, name in enumerate(["background", *CLASSES])}
    page = visit(write(inputs, measured_masks(inputs, per_class)))
    names = page.locator("#classes tbody th")
    page.get_by_role("button", name="masks, IoU").click()
    assert names.all_text_contents() == ["cup", "dog", "cat", "background"]
    header = page.locator("#classes th[aria-sort]")
    expect(header).to_have_attribute("aria-sort", "descending")
    page.get_by_role("button", name="class", exact=True).click()
    assert names.all_text_contents() == ["background", "cat", "cup", "dog"]


def test_hostile_names_are_text(visit, tmp_path):
    reason = {"x": "<img src=x onerror=hacked=1>"}
    inputs = build_run(tmp_path, HOSTILE_IDS, HOSTILE_CLASSES, failures=reason)
    page = visit(write(inputs))
    for card in page.locator(".open").all():
        card.click()
        expect(page.locator("#viewer")).to_be_visible()
        page.keyboard.press("Escape")
    page.get_by_label("Class", exact=True).select_option(index=1)
    assert len(names(page)) >= 1
    assert page.evaluate("typeof hacked") == "undefined"
    assert page.locator("#failures td").last.text_content() == reason["x"]


@pytest.mark.extras
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_from_its_ground(visit, address, scheme):
    page = visit(address, color_scheme=scheme)
    page.get_by_role("button", name="fig 1", exact=True).click()
    assert not barriers(page)


def test_a_page_without_images_says_so(visit, tmp_path):
    inputs = build_run(tmp_path, IDS, CLASSES, trained=False, computed=())
    page = visit(write(inputs))
    expect(page.locator("#count")).to_have_text("There is nothing to show yet.")
