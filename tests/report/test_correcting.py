"""Correct tags in the page, save the file, and run with it: in Chromium, as a person does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from pipeline.datasets.corrections import read_corrections
from tests.report.browsing import PHONE, reload
from tests.report.small_run import CLASSES, HOSTILE_CLASSES, build_run
from tests.report.test_page_in_a_browser import IDS, write

pytestmark = pytest.mark.large


def chip(page: Page, image: str, name: str):
    """Returns the button of a class in the card of an image."""
    card = page.locator(".card", has=page.locator(".name", has_text=image))
    return card.locator(f'.chip[data-name="{name}"]')


def save(page: Page, path: Path, classes: list[str] = CLASSES) -> dict:
    """Clicks "Save"; returns the file's content as a run reads it."""
    with page.expect_download() as download:
        page.get_by_role("button", name="Save", exact=True).click()
    assert download.value.suggested_filename == "corrections.csv"
    download.value.save_as(path)
    return read_corrections(path, "tags.corrections", classes)


def add(page: Page, image: str, name: str) -> None:
    page.get_by_role("button", name=f"Add a class to {image}").click()
    expect(page.get_by_label("Class to add")).to_be_focused()
    page.keyboard.type(name)
    page.keyboard.press("Enter")


def test_two_corrections_cost_two_images_and_one_taken_back_costs_none(
    visit, run_stage, arguments, tmp_path
):
    file, out = tmp_path / "corrections.csv", tmp_path / "out"
    classes = ["cat", "person", "rocket", "cup"]

    def run(*given: str) -> tuple[dict[str, tuple[int, int]], Page]:
        stages = "stage=[tags,cams,masks,report]"
        finished = run_stage(*arguments, "runtime.device=cpu", *given, stages)
        assert finished.code == 0, finished.errors
        counts = {name: (now, reused) for name, (now, _, reused) in finished.counts.items()}
        return counts, visit((out / "report.html").as_uri())

    _, page = run()
    first = page.locator(".card", has=page.locator(".name", has_text="a")).first
    tag = first.locator(".chip[aria-pressed=true]").first.get_attribute("data-name")
    missing = {*classes} - {
        b.get_attribute("data-name")
        for b in page.locator(".card").nth(1).locator(".chip[data-name]").all()
    }
    first.locator(f'.chip[data-name="{tag}"]').click()
    other = page.locator(".card").nth(1).locator(".name bdi").text_content()
    added = min(missing)
    add(page, other, added)
    right = page.locator(".card").nth(2).locator(".name bdi").text_content()
    page.locator(".card").nth(2).locator(".seen").click()
    counted = "2 changes in 2 images, 1 image confirmed"
    expect(page.locator("#changes-count")).to_have_text(counted)
    reload(page)
    expect(page.locator("#changes-count")).to_have_text(counted)
    expect(first.locator(f'.chip[data-name="{tag}"]')).to_have_attribute("aria-pressed", "false")
    save(page, file, classes)
    expect(page.locator("#command")).to_contain_text("tags.corrections=corrections.csv")

    given = f"tags.corrections={file}"
    counts, page = run(given)
    assert counts == {"tags": (0, 5), "cams": (2, 3), "masks": (2, 3)}
    expect(page.locator("#changes")).to_be_hidden()
    page.get_by_label("Show").select_option("corrected")
    expect(page.locator(".card:visible")).to_have_count(2)
    expect(chip(page, other, added)).to_have_attribute("aria-pressed", "true")
    page.get_by_label("Show").select_option("looked-at")
    expect(page.locator(".card:visible .name bdi")).to_have_text([right])
    page.get_by_label("Show").select_option("")
    page.get_by_label("Sort by").select_option("doubt:down")
    order = page.locator(".card .name bdi").all_text_contents()
    assert {*order[2:]} >= {other, right}, "what was looked at comes last"
    page.get_by_role("button", name="Reset").click()

    page.get_by_role("button", name=f"{other} corrected by hand", exact=True).click()
    page.get_by_role("button", name="as found").click()
    page.get_by_role("button", name="Close").click()
    save(page, file, classes)
    assert file.read_text().count("\n") == 3, "the header and two images"
    counts, page = run(given)
    assert counts == {"tags": (0, 5), "cams": (0, 5), "masks": (0, 5)}, "all are reused"
    expect(page.locator("#changes")).to_be_hidden()
    expect(chip(page, other, added)).to_have_count(0)


@pytest.fixture
def open_run(visit, tmp_path) -> Callable[..., Page]:
    """Opens the page of a small run."""

    def open_run(ids=IDS, classes=CLASSES, settings=None, **made) -> Page:
        inputs = build_run(tmp_path, ids, classes, **made)
        return visit(write(inputs), **(settings or {}))

    return open_run


def test_the_file_holds_earlier_corrections_and_those_of_images_not_shown(open_run, tmp_path):
    earlier = {"val": {"elsewhere": (0, 2), "pear 0": ()}, "train": {"x;y": (1,)}}
    page = open_run(corrections=earlier, splits=("train", "val"))
    chip(page, "fig 1", "dog").click()
    found = save(page, tmp_path / "saved.csv")
    fig = found["val"].pop("fig 1")
    assert found == earlier and fig == (2,)
    chip(page, "fig 1", "dog").click()
    expect(page.locator("#changes")).to_be_hidden()
    reload(page)
    expect(page.locator("#changes")).to_be_hidden()


def test_names_are_written_so_that_they_are_read_again(open_run, tmp_path):
    classes = ["a;b", "back\\slash", 'x, "y"']
    ids = ['p,"q"', "r;s", " t", "plain", "u\nv", "u\rv", "u\r\nv"]
    page = open_run(ids, classes)
    for image in page.locator(".card").all():
        for name in classes:
            if image.locator(".chip[aria-pressed=true]", has_text=name).count() == 0:
                image.locator(".chip.add").click()
                page.get_by_label("Class to add").fill(name)
                page.keyboard.press("Enter")
    assert save(page, tmp_path / "saved.csv", classes) == {"": dict.fromkeys(ids, (0, 1, 2))}


def test_a_copy_is_shown_once_and_corrected_too(visit, tmp_path):
    inputs = build_run(tmp_path, ["a", "b", "c"], CLASSES, truth=False)
    entries = inputs.results["tags"].entries
    entries["b"] |= {name: entries["a"][name] for name in ("inputs", "tags", "scores")}
    page = visit(write(inputs))
    expect(page.locator(".card")).to_have_count(2)
    expect(page.locator("#gallery")).to_contain_text("1 is a copy of another photograph")
    chip(page, "a", "cat").click()
    expect(page.locator("#changes-count")).to_contain_text("in 2 images")
    assert save(page, tmp_path / "saved.csv") == {"": {"a": (), "b": ()}}


def test_the_keyboard_switches_tags(open_run):
    page = open_run()
    page.get_by_role("button", name="fig 1", exact=True).click()
    tags = page.locator("#viewer-tags .chip")
    first = tags.first
    before = first.get_attribute("aria-pressed")
    page.keyboard.press("1")
    expect(first).not_to_have_attribute("aria-pressed", before)
    page.keyboard.press("1")
    expect(first).to_have_attribute("aria-pressed", before)
    first.focus()
    page.keyboard.press("Space")
    expect(first).not_to_have_attribute("aria-pressed", before)
    expect(first).to_be_focused()
    page.keyboard.press("+")
    page.keyboard.type("cow")
    expect(page.locator("#add-note")).to_have_text("There is no other class cow.")
    page.keyboard.press("Escape")
    expect(page.locator("#viewer")).to_be_visible()
    expect(first).to_be_focused()


def test_a_thumb_suffices(open_run):
    page = open_run(settings=PHONE)
    wide, window = page.evaluate("[document.scrollingElement.scrollWidth, window.innerWidth]")
    chip(page, "fig 1", "dog").tap()
    expect(page.locator("#changes-count")).to_have_text("1 change in 1 image")
    assert wide <= window
    page.get_by_role("button", name="Undo all").tap()
    expect(page.locator("#changes")).to_be_hidden()


def test_hostile_classes_are_switched_as_text(open_run, tmp_path):
    page = open_run(["a", "b"], HOSTILE_CLASSES)
    for button in page.locator(".card .chip[data-name]").all():
        button.click()
    assert page.evaluate("typeof hacked") == "undefined"
    expect(page.locator("#changes-count")).to_contain_text("in 2 images")


@pytest.mark.parametrize(
    "kept",
    [
        "5",
        "{}",
        "[1, null]",
        '[["fig 1", "cat"]]',
        '[["fig 1"]]',
        '[["fig 1", [1, 2]]]',
        "torn",
        '[["fig 1", ["kitten"]]]',
    ],
)
def test_what_a_browser_kept_may_be_anything(kept, open_run):
    page = open_run()
    page.evaluate("kept => localStorage.setItem(facts.key, kept)", kept)
    reload(page)
    expect(page.locator("#changes")).to_be_hidden()
    chip(page, "fig 1", "dog").click()
    expect(page.locator("#changes-count")).to_have_text("1 change in 1 image")
    page.get_by_role("button", name="fig 1 corrected by hand", exact=True).click()
    page.keyboard.press('"')  # is no number
