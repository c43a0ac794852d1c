"""Look through images and their tags: in Chromium, with filters, marks, and many images at once."""

from __future__ import annotations

import pytest
from playwright.sync_api import Page, expect

from tests.report.browsing import names, reload
from tests.report.small_run import CLASSES, build_run
from tests.report.test_correcting import add, chip, open_run, save  # noqa: F401  a fixture
from tests.report.test_page_in_a_browser import IDS, write

pytestmark = pytest.mark.large


def mark(page: Page, image: str):
    """Returns the button that marks an image as looked at and right."""
    return page.locator(".card").get_by_role("button", name=f"✓ confirm {image}")


def test_search_filters_and_order_follow_corrections_at_once(open_run):  # noqa: F811
    page = open_run()
    chip(page, "pear 0", "cat").click()
    page.get_by_label("Search").fill("cat")
    assert names(page) == ["kiwi 3"]
    page.get_by_role("button", name="Reset").click()
    page.get_by_label("Class", exact=True).select_option(label="cat (1)")
    assert names(page) == ["kiwi 3"]
    page.get_by_role("button", name="Reset").click()
    page.get_by_label("Show").select_option("without-tags")
    assert names(page) == ["pear 0", "lime 5"]
    add(page, "lime 5", "cat")
    assert names(page) == ["pear 0"]
    expect(page.locator("#count")).to_have_text("1 of 6 images")
    expect(page.locator(".card:visible .open")).to_be_focused()
    page.get_by_label("Show").select_option("with-missed")
    assert names(page) == ["pear 0", "lime 5"]
    page.get_by_role("button", name="Reset").click()
    page.get_by_label("Sort by").select_option("tag")
    assert names(page)[0] == "kiwi 3" and names(page)[1] == "lime 5"
    assert names(page)[-1] == "pear 0", "it has no tag any more"


def test_the_keyboard_goes_on_where_an_image_left_those_shown(open_run):  # noqa: F811
    page = open_run()
    add(page, "lime 5", "cup")
    page.get_by_label("Class", exact=True).select_option("cup")
    assert names(page) == ["fig 1", "apple 2", "plum 4", "lime 5"]
    chip(page, "apple 2", "cup").press("Space")
    assert names(page) == ["fig 1", "plum 4", "lime 5"]
    expect(page.get_by_role("button", name="plum 4", exact=True)).to_be_focused()
    page.keyboard.press("Enter")
    place = page.locator("#viewer-place")
    expect(place).to_have_text("image 2 of 3")
    page.locator("#viewer-tags .chip", has_text="cup").click()
    expect(place).to_have_text("no longer among those shown")
    page.keyboard.press("ArrowRight")
    expect(page.locator("#viewer-title")).to_have_text("lime 5")
    page.keyboard.press("ArrowLeft")
    expect(page.locator("#viewer-title")).to_have_text("fig 1")


def test_a_slash_shows_the_box_and_the_first_images(open_run):  # noqa: F811
    page = open_run(settings={"viewport": {"width": 1280, "height": 720}})
    page.evaluate("document.documentElement.style.scrollBehavior = 'auto'")
    for place in ("0", "document.body.scrollHeight"):
        page.evaluate(f"scrollTo(0, {place})")
        page.keyboard.press("/")
        page.get_by_label("Search").fill("i")
        expect(page.get_by_label("Search")).to_be_in_viewport(ratio=1)
        expect(page.locator(".card:visible").first).to_be_in_viewport(ratio=0.9)
        covered = page.locator("nav").bounding_box()
        assert page.get_by_label("Search").bounding_box()["y"] > covered["y"] + covered["height"]
        page.keyboard.press("Escape")
        page.locator("h1").click()


def test_a_correction_leaves_the_overlay_as_a_person_chose_it(open_run):  # noqa: F811
    page = open_run()
    over = page.locator(".card .open .over").first
    expect(over).to_be_visible()
    page.get_by_role("button", name="fig 1", exact=True).click()
    panels = page.locator("#viewer figure:visible")
    assert panels.count() > 5
    page.keyboard.press("1")
    page.keyboard.press("ArrowRight")
    assert panels.count() > 5
    expect(page.locator("#changes-count")).to_have_text("1 change in 1 image")
    page.get_by_role("button", name="Close").click()
    expect(over).to_be_visible()
    page.get_by_role("button", name="fig 1", exact=False).first.click()
    page.get_by_label("Image only").check()
    expect(panels).to_have_count(1)
    expect(panels).to_have_attribute("data-layer", "photograph")
    page.get_by_role("button", name="Close").click()
    expect(over).to_be_hidden()
    page.get_by_role("button", name="fig 1", exact=False).first.click()
    page.get_by_label("Image only").uncheck()
    assert panels.count() > 5
    page.get_by_role("button", name="Close").click()
    expect(over).to_be_visible()
    page.wait_for_function("location.hash === '#gallery'")  # or it opens the image again
    reload(page)
    expect(page.locator("#changes")).to_be_visible()
    expect(over).to_be_visible()
    page.get_by_label("Overlay").select_option("")
    page.get_by_role("button", name="Undo all").click()
    reload(page)
    expect(over).to_be_hidden()


def test_a_plus_opens_a_menu_at_the_chip(open_run):  # noqa: F811
    page = open_run()
    plus = page.get_by_role("button", name="Add a class to fig 1")
    plus.click()
    menu = page.get_by_role("dialog", name="Add a class to fig 1")
    expect(page.locator("#viewer")).to_be_hidden()
    chip_box, menu_box = plus.bounding_box(), menu.bounding_box()
    assert abs(menu_box["x"] - chip_box["x"]) < 9
    assert 0 <= menu_box["y"] - chip_box["y"] - chip_box["height"] < 9
    expect(menu.get_by_role("button")).to_have_text(["cat"], use_inner_text=True)
    page.keyboard.press("Escape")
    expect(menu).to_be_hidden()
    expect(plus).to_be_focused()
    plus.press("Enter")
    page.keyboard.press("Tab")
    expect(menu.get_by_role("button", name="cat")).to_be_focused()
    page.keyboard.press("Enter")
    expect(menu).to_be_hidden()
    expect(chip(page, "fig 1", "cat")).to_have_attribute("aria-pressed", "true")
    expect(plus).to_be_focused()


def test_the_best_match_of_what_is_typed_is_added(open_run):  # noqa: F811
    page = open_run(["a"], ["wildcat", "cattle", "cat", "dog"])
    add(page, "a", "CAT")
    expect(chip(page, "a", "cat")).to_have_attribute("aria-pressed", "true")
    assert page.locator(".card .chip[data-name]").count() == 2, "and the missed one"


def test_keys_stand_on_the_chips_of_the_viewer(open_run):  # noqa: F811
    page = open_run()
    drawn = "all => all.map((chip) => getComputedStyle(chip, '::before').content)"
    assert {*page.locator(".card .chip").evaluate_all(drawn)} == {"none"}
    expect(page.locator(".card .chip[data-name][aria-keyshortcuts]")).to_have_count(0)
    page.get_by_role("button", name="fig 1", exact=True).click()
    keys = page.locator("#viewer-tags .chip[data-name]").evaluate_all(drawn)
    assert [key[:3] for key in keys] == ['"1"', '"2"', '"3"']


def test_what_is_on_is_not_struck_through_and_verdicts_follow(open_run):  # noqa: F811
    page = open_run()
    wrong, right = chip(page, "fig 1", "cup"), chip(page, "fig 1", "dog")
    line = "e => getComputedStyle(e.querySelector('bdi')).textDecorationLine"
    expect(wrong).to_contain_text("✗")
    assert wrong.evaluate(line) == "none"
    wrong.click()
    expect(wrong).not_to_contain_text("✗")
    right.click()
    expect(right).to_contain_text("○")
    right.click()
    expect(right).to_contain_text("✓")


def test_an_image_that_is_right_is_marked_counted_apart_and_taken_back(open_run, tmp_path):  # noqa: F811
    page = open_run()
    count = page.locator("#changes-count")
    mark(page, "kiwi 3").click()
    expect(count).to_have_text("1 image confirmed")
    chip(page, "fig 1", "cup").click()
    expect(count).to_have_text("1 change in 1 image, 1 image confirmed")
    expect(mark(page, "fig 1")).to_be_disabled()
    page.get_by_role("button", name="lime 5", exact=True).click()
    page.keyboard.press("0")
    page.keyboard.press("Escape")
    expect(page.locator("#looked-at")).to_have_text("3")
    page.wait_for_function("location.hash === '#gallery'")  # or it opens the image again
    reload(page)
    expect(count).to_have_text("1 change in 1 image, 2 images confirmed")
    expect(page.get_by_label("Wanted number")).to_have_value("20")
    page.get_by_label("Wanted number").fill("50")
    page.get_by_label("Wanted number").press("Enter")
    page.get_by_label("Show").select_option("looked-at")
    assert names(page) == ["kiwi 3", "lime 5"]
    mark(page, "lime 5").click()
    assert names(page) == ["kiwi 3"]
    assert save(page, tmp_path / "saved.csv") == {"": {"kiwi 3": (0,), "fig 1": (1,)}}
    reload(page)
    expect(page.get_by_label("Wanted number")).to_have_value("50")
    expect(page.locator("#looked-at")).to_have_text("2")


def test_a_mark_of_an_earlier_file_stays_until_it_is_taken_back(visit, tmp_path):
    corrections = {"val": {"kiwi 3": (0,), "fig 1": (1,)}}
    inputs = build_run(tmp_path, IDS, CLASSES, corrections=corrections)
    entries = inputs.results["tags"].entries
    entries["kiwi 3"]["found"], entries["fig 1"]["found"] = [0], [1, 2]
    entries["fig 1"]["tags"] = [1]
    page = visit(write(inputs))
    expect(page.locator("#changes")).to_be_hidden()
    expect(mark(page, "kiwi 3")).to_have_attribute("aria-pressed", "true")
    mark(page, "kiwi 3").click()
    expect(page.locator("#changes-count")).to_have_text("1 mark taken back")
    reload(page)
    expect(page.locator("#changes-count")).to_have_text("1 mark taken back")
    assert save(page, tmp_path / "saved.csv") == {"": {"fig 1": (1,)}}
    add(page, "fig 1", "cup")
    expect(mark(page, "fig 1")).to_have_attribute("aria-pressed", "false")
    mark(page, "fig 1").click()
    assert save(page, tmp_path / "saved.csv") == {"": {"fig 1": (1, 2)}}
    assert page.locator(".card", has_text="kiwi 3").get_attribute("data-doubt") is None


def test_an_image_has_a_class_in_its_tags_mask_or_prediction(open_run):  # noqa: F811
    page = open_run(truth=False, trained=False, computed=("tags",))
    expect(page.get_by_label("Class in")).to_be_hidden()
    page = open_run(truth=False)
    chosen, within = page.get_by_label("Class", exact=True), page.get_by_label("Class in")
    assert within.locator("option").all_text_contents() == ["tags", "mask", "prediction"]
    chosen.select_option(label="cup (3)")
    assert names(page) == ["fig 1", "apple 2", "plum 4"]
    within.select_option("prediction")
    expect(chosen.locator(":checked")).to_have_text("cup (2)")
    assert names(page) == ["apple 2", "lime 5"]
    expect(page.locator("#take")).to_have_text("Remove the tag cup from 1 of the 2 images shown")
    chip(page, "apple 2", "cup").click()
    assert names(page) == ["apple 2", "lime 5"], "a prediction stays as it is"
    page.get_by_role("button", name="Reset").click()
    expect(within).to_have_value("tags")


def test_a_class_is_taken_from_all_images_shown(open_run, tmp_path):  # noqa: F811
    page = open_run()
    take = page.locator("#take")
    expect(take).to_be_hidden()
    page.get_by_label("Class", exact=True).select_option("cup")
    expect(take).to_have_text("Remove the tag cup from all 3 images shown")
    page.get_by_label("Search").fill("p")  # apple, plum, and fig by its tag "cup"
    page.get_by_label("Search").fill("pl")
    expect(take).to_have_text("Remove the tag cup from all 2 images shown")
    take.click()
    expect(take).to_be_hidden()
    expect(page.locator("#changes-count")).to_have_text("2 changes in 2 images")
    chip(page, "fig 1", "dog").evaluate("(button) => button.click()")
    page.get_by_role("button", name="Undo", exact=True).click()
    expect(page.locator("#changes-count")).to_have_text("2 changes in 2 images")
    page.get_by_role("button", name="Undo", exact=True).click()
    expect(page.locator("#changes")).to_be_hidden()
    expect(take).to_have_text("Remove the tag cup from all 2 images shown")


def test_the_bar_can_be_closed_and_its_command_copied(open_run, tmp_path):  # noqa: F811
    page = open_run(command="afseg stage=report")
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    chip(page, "pear 0", "cat").click()
    expect(page.get_by_role("button", name="Copy")).to_be_hidden()
    save(page, tmp_path / "saved.csv")
    page.get_by_role("button", name="Copy").click()
    expect(page.locator("#copy")).to_have_text("Copied")
    copied = page.evaluate("navigator.clipboard.readText()")
    assert copied == "afseg stage=report tags.corrections=corrections.csv"
    page.get_by_role("button", name="Close this bar").click()
    expect(page.locator("#changes")).to_be_hidden()
    chip(page, "pear 0", "cat").click()
    chip(page, "fig 1", "dog").click()
    expect(page.locator("#changes-count")).to_have_text("1 change in 1 image")
