"""The pages of the app in Chromium, as a person uses them."""

from __future__ import annotations

import base64
import io
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from time import perf_counter

import pytest
from PIL import Image
from playwright.sync_api import Locator, Page, expect

from pipeline.datasets.scenes import load_world
from tests import REPOSITORY
from tests.app.conftest import SCENES
from tests.extras import library
from tests.report.browsing import barriers, reload

pytestmark = pytest.mark.extras

NAMES = "disc\nsquare\nstar\nring"
WAIT = 120_000  # milliseconds: the machine may be busy
DESK, PHONE = {"width": 1440, "height": 1000}, {"width": 390, "height": 844}


@pytest.fixture
def visit(browser) -> Callable[..., Page]:  # noqa: F811
    """Opens an app; in the end, no page may have asked another host or failed."""
    library("gradio")
    visited, complaints = [], []

    def open_page(address: str, **settings) -> Page:
        page = browser.new_context(**settings).new_page()
        page.set_default_timeout(WAIT)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda request: visited.append(request.url))
        page.goto(address)
        return page

    yield open_page
    hosts = {re.sub(r"^(\w+://[^/:]*).*", r"\1", url) for url in visited}
    assert {host for host in hosts if host.startswith("http")} <= {"http://127.0.0.1"}
    assert not complaints


_DROP = """written => {
  const bytes = Uint8Array.from(atob(written), (each) => each.charCodeAt(0)), dataTransfer = new DataTransfer();
  dataTransfer.items.add(new File([bytes], "IMG_2.heic"));
  const place = document.querySelector("input[type=file]").closest("button");
  place.dispatchEvent(new DragEvent("drop", { bubbles: true, cancelable: true, dataTransfer }));
}"""  # noqa: E501


def segment(page: Page, image) -> None:
    page.set_input_files("input[type=file]", image)
    expect(page.locator("#status")).to_contain_text("mask", timeout=WAIT)


def style(element: Locator, name: str) -> str:
    return element.evaluate(f"element => getComputedStyle(element)['{name}']")


def threshold_of(bar: Locator) -> float:
    return float(bar.evaluate("bar => bar.style.getPropertyValue('--threshold')"))


@pytest.mark.parametrize(("viewport", "scheme"), [(DESK, "light"), (PHONE, "dark")])
def test_the_start_has_names_an_example_and_remedies(start, visit, viewport, scheme):
    page = visit(start("clip=demo").address, viewport=viewport, color_scheme=scheme)
    expect(page).to_have_title("afseg")
    names = page.get_by_label("Class names")
    assert names.input_value().split() == [*load_world("demo")["classes"]]
    assert names.get_attribute("placeholder")
    for label, default in {"Tagger": "TagCLIP", "CAMs": "CLIP-ES", "Refiner": "CRF"}.items():
        expect(page.get_by_label(label)).to_have_value(default)
    page.get_by_role("button", name="Try an example").click()
    expect(page.locator("#mask .legend")).to_contain_text("background", timeout=WAIT)
    # Our parts follow the theme, and the legend can be read on a phone.
    dark = scheme == "dark"
    for part in ("#scores table", "#mask figcaption"):
        red = int(re.findall(r"\d+", style(page.locator(part), "color"))[0])
        assert (red > 128) == dark, part
    size = style(page.locator("#mask .legend"), "fontSize")
    assert float(size.removesuffix("px")) >= 14
    page.get_by_text("What to do about missed and wrong classes").click()
    expect(page.locator("#remedies")).to_contain_text("tags.reidentify=false")
    for part in ("#scores", "#cams", "#mask", "#about", "#remedies"):
        assert not barriers(page, part)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    page.goto(page.get_by_role("link", name="The guide").evaluate("link => link.href"))
    expect(page.get_by_role("heading", name="Missed and wrong classes")).to_be_visible()
    assert page.locator("img").first.evaluate("picture => picture.naturalWidth")
    assert not barriers(page, "main")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_what_was_typed_stays_after_a_reload(start, visit, tmp_path):
    (tmp_path / "names.yaml").write_text("{classes: [disc, star], backgrounds: [lawn]}")
    address = start("clip=demo", f"classes={tmp_path / 'names.yaml'}").address
    page = visit(address)
    expect(page.get_by_label("Class names")).to_have_value("disc\nstar")
    expect(page.get_by_label("Backgrounds")).to_have_value("lawn")
    page.get_by_label("Class names").fill("star\nring")
    page.get_by_label("Backgrounds").fill("grass")
    page.get_by_label("number input for Minimum score").fill("0.6")
    page.wait_for_function("Object.values(localStorage).join().includes('0.6')")
    reload(page)
    expect(page.get_by_label("Class names")).to_have_value("star\nring")
    expect(page.get_by_label("Backgrounds")).to_have_value("grass")
    expect(page.get_by_label("number input for Minimum score")).to_have_value("0.6")


def test_a_photograph_without_a_tag_has_no_mask(start, visit, scenes):
    page = visit(start("clip=demo", "tags.min_score=1", "classes=[disc,star]").address)
    menu = page.get_by_label("Refiner")
    menu.click()
    offered = page.get_by_role("option").all_inner_texts()
    names = {each.strip(" \n✓") for each in offered}
    assert {"CRF", "PAMR", "argmax", "dense", "regions"} <= names and "" not in names
    page.get_by_role("option", name="argmax").click()
    segment(page, scenes / "1.png")
    expect(page.locator("#status")).to_contain_text("no name was found", timeout=WAIT)
    expect(page.locator("#scores tr.tag")).to_have_count(0)
    expect(page.locator("#mask img")).to_have_count(0)


def test_names_are_tried_on_a_photograph(start, visit, scenes):
    given = f"classes=[{NAMES.replace(chr(10), ',')}]"
    page = visit(start("clip=demo", "masks=crf_confident", given).address, viewport=DESK)
    segment(page, scenes / "1.png")
    scores = page.locator("#scores")
    expect(scores.locator("tr.tag")).to_contain_text("square")
    assert page.get_by_label("Class names").input_value() == NAMES
    assert re.fullmatch(r"tags [\d.]+ s, CAMs [\d.]+ s, mask [\d.]+ s", page.inner_text("#status"))
    expect(page.locator("#cams li")).to_have_text(["CAM of square"])
    assert not [each for part in ("#scores", "#cams", "#mask") for each in barriers(page, part)]
    # The mask is drawn over grey, its legend is text, and every bar has the photograph's threshold.
    assert "grayscale" in style(page.locator("#mask .photograph"), "filter")
    expect(page.locator("#mask .legend")).to_contain_text("square")
    assert page.get_by_role("link", name="Download the mask").get_attribute("download")
    bars = scores.locator(".meter").all()
    assert len(bars) == 4 and len({threshold_of(bar) for bar in bars}) == 1
    before = threshold_of(bars[0])
    # A name is changed by the keyboard, and computed after a pause.
    page.get_by_label("Class names").fill("disc\nhexagon, hex\n<b>star</b>")
    expect(scores).to_contain_text("hexagon", timeout=WAIT)
    expect(scores).to_contain_text("<b>star</b>")
    # The threshold makes no tag of what is below it.
    page.get_by_label("number input for Minimum score").fill("1")
    expect(scores.locator("tr.tag")).to_have_count(0, timeout=WAIT)
    assert before < threshold_of(scores.locator(".meter").first) == 1
    page.get_by_label("Class names").fill("")
    expect(page.locator("#status")).to_contain_text("no names are given", timeout=WAIT)


def test_a_changed_name_is_answered_soon(start, visit, scenes):
    page = visit(start("clip=demo", "classes=[disc]").address)
    segment(page, scenes / "1.png")
    seconds = []
    for name in ("star", "ring", "cross", "heart", "arrow", "triangle", "hexagon", "crescent"):
        began = perf_counter()
        page.get_by_label("Class names").fill(f"square\n{name}")
        expect(page.locator("#scores")).to_contain_text(name, timeout=WAIT)
        expect(page.locator("#status")).to_contain_text("mask", timeout=WAIT)
        seconds.append(perf_counter() - began)
    assert min(seconds) <= 1.5, "of which 0.35 are the pause"


def test_what_is_no_photograph_is_told_in_a_sentence(start, visit, tmp_path):
    page = visit(start("clip=demo", "classes=[disc]").address, viewport=PHONE, color_scheme="dark")
    page.get_by_role("button", name="Segment").click()
    expect(page.locator("#status")).to_contain_text("no photograph is given", timeout=WAIT)
    picture = tmp_path / "drawing.svg"
    picture.write_text('<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>')
    for path in (picture, picture.with_suffix(".jpg")):
        path.write_bytes(picture.read_bytes())
        page.set_input_files("input[type=file]", path)
        expect(page.locator("#status")).to_contain_text(f"{path.name} cannot be", timeout=WAIT)
        page.get_by_label("Remove Image").click()
        expect(page.locator("#status")).to_contain_text("no photograph is given", timeout=WAIT)
    # Browsers that do not know HEIC say nothing of its type.
    library("pillow_heif").register_heif_opener()
    buffer = io.BytesIO()
    Image.new("RGB", (64, 64), "red").save(buffer, format="HEIF")
    file = {"name": "IMG_1.HEIC", "mimeType": "", "buffer": buffer.getvalue()}
    page.set_input_files("input[type=file]", file)
    expect(page.locator("#status")).to_contain_text("mask", timeout=WAIT)
    page.get_by_label("Remove Image").click()
    page.evaluate(_DROP, base64.b64encode(buffer.getvalue()).decode())
    expect(page.locator("#status")).to_contain_text("mask", timeout=WAIT)
    # Nothing is wider than a phone.
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


@pytest.mark.parametrize(("viewport", "scheme"), [(DESK, "light"), (PHONE, "dark")])
def test_names_are_chosen_for_a_folder(start, visit, scenes, viewport, scheme):
    given = 'classes=["disc",{name: square, names: [square, box]},star]'
    address = start(scenes, "clip=demo", "cams=sclip", given).address
    page = visit(address, viewport=viewport, color_scheme=scheme)
    written = page.get_by_label("Class names").input_value()
    assert written == "disc\nsquare, box\nstar"
    status, shown = page.locator("#folder_status"), page.locator("#folder")
    # Names that are given are tried at once; other ones do not wait for them.
    expect(status).to_contain_text(f"{SCENES + 1} photographs of", timeout=WAIT)
    page.get_by_label("Class names").fill("heart\nring")
    expect(shown.get_by_role("heading", name=re.compile("^ring: "))).to_be_visible(timeout=WAIT)
    # Those that were changed in the other tab are tried when this one is opened again.
    page.get_by_role("tab", name="A photograph").click()
    page.get_by_label("Class names").fill(written)
    expect(page.get_by_role("button", name="Segment")).to_be_visible()
    page.wait_for_timeout(2000)
    page.get_by_role("tab", name="The folder").click()
    looked_at = f"{SCENES} of {SCENES + 1} photographs of "
    expect(status).to_contain_text(looked_at, timeout=WAIT)
    expect(status).to_contain_text("; broken.png cannot be decoded")
    expect(shown.get_by_role("heading", name=re.compile("^square: 1 of"))).to_be_visible()
    # Each photograph is listed once a name; a browser may draw the cards after the status.
    expect(shown.locator("img")).to_have_count(3 * SCENES, timeout=WAIT)
    files = shown.locator("ul").first.locator(".file").all_inner_texts()
    assert sorted(files) == [f"{index}.png" for index in range(SCENES)]
    assert len({threshold_of(bar) for bar in shown.locator("ul").first.locator(".meter").all()}) > 1
    assert not barriers(page, "#folder")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    # The run takes its names, so it cannot begin without them.
    run, command = (
        page.get_by_role("button", name="Run", exact=True),
        page.locator("#command textarea"),
    )
    expect(run).to_be_enabled()
    page.get_by_label("Class names").fill("")
    expect(run).to_be_disabled(timeout=WAIT)
    page.get_by_label("Class names").fill("disc\ncross, plus sign\nstar")
    expect(shown).to_contain_text("cross: ", timeout=WAIT)
    page.get_by_label("Photographs to look at").fill("2")
    expect(status).to_have_text(re.compile(rf"^\s*2 of {SCENES + 1} .*scenes\s*$"), timeout=WAIT)
    expect(shown.locator("img")).to_have_count(3 * 2, timeout=WAIT)
    page.get_by_label("Masks", exact=True).check()
    expect(command).to_have_value(re.compile("stage=.tags,cams,masks,report"), timeout=WAIT)
    page.get_by_label("Masks and a network").check()
    expect(command).not_to_have_value(re.compile("stage="), timeout=WAIT)
    command = command.input_value()
    assert "cams=sclip" in command
    assert 'dataset.classes=["disc",{name:"cross",names:["cross","plus sign"]},"star"]' in command
    python = command.replace("python", sys.executable, 1)
    planned = subprocess.run(
        f"{python} dry_run=true", shell=True, cwd=REPOSITORY, capture_output=True
    )
    assert planned.returncode == 0, planned.stderr


def test_the_run_with_these_names_is_started_from_the_page(start, visit, scenes, tmp_path):
    own = ("plugins=[tests.plugins.keys]", "cams=key_key")
    settings = (*own, "stage=[tags,report]", "runtime.workers=1", f"output_dir={tmp_path / 'out'}")
    page = visit(start(scenes, "clip=demo", "classes=[disc,star]", *settings).address)
    expect(page.locator("#command textarea")).to_have_value(re.compile("stage="), timeout=WAIT)
    page.get_by_role("button", name="Run", exact=True).click()
    expect(page.locator("#run_status")).to_contain_text("The run has finished", timeout=WAIT)
    assert not barriers(page, "#run_status")
    page.get_by_role("link", name="Open its report").click()
    expect(page.locator("#cards .card")).to_have_count(SCENES)


@pytest.fixture
def finished_run(run_stage, scenes, tmp_path):
    shutil.copytree(scenes, tmp_path / "scenes")
    done = run_stage(
        *("dataset=folder", f"dataset.root={tmp_path / 'scenes'}", "clip=demo"),
        *("dataset.classes=[disc,square,star]", "stage=[tags,cams,masks,report]"),
        *("runtime.workers=1", f"output_dir={tmp_path / 'out'}"),
    )
    assert done.code == 0, done.errors
    return tmp_path / "out"


def test_two_windows_lose_no_correction(start, visit, finished_run):
    first = visit(start(finished_run).address, viewport=DESK)
    later = first.context.new_page()
    later.goto(first.url)

    def mark(page: Page, image: str) -> None:
        page.locator(".card", has_text=image).locator("button.seen").click()

    mark(first, "1")
    mark(first, "2")
    first.wait_for_load_state("networkidle")
    for image in ("3", "4", "1"):
        mark(later, image)
    expect(later.get_by_text("reload this page")).to_be_visible()
    mark(later, "1")  # as it was, as far as this window knows
    count = later.locator("#changes-count")
    expect(count).to_have_text("2 images confirmed")
    later.wait_for_load_state("networkidle")
    later.reload()
    expect(count).to_have_text("4 images confirmed")
    later.wait_for_load_state("networkidle")
    assert later.evaluate("sessionStorage.length") == 0, "the server has it"
    first.reload()
    expect(first.locator("#changes-count")).to_have_text("4 images confirmed")


@pytest.mark.parametrize(("viewport", "scheme"), [(DESK, "light"), (PHONE, "dark")])
def test_a_run_is_corrected_and_run_again(start, visit, finished_run, viewport, scheme):
    app = start(finished_run)
    page = visit(app.address, viewport=viewport, color_scheme=scheme)
    expect(page.locator("#cards .card")).to_have_count(SCENES)
    page.locator(".card", has_text="1").locator("button.chip[data-name]").first.press("Enter")
    # What is not saved is kept by the server, and not by the port.
    expect(page.locator("#changes-count")).to_contain_text("1 change in 1 image")
    page.wait_for_load_state("networkidle")
    assert app.end() in (0, 130)
    page = visit(start(finished_run).address, viewport=viewport, color_scheme=scheme)
    expect(page.locator("#changes-count")).to_contain_text("1 change in 1 image")
    page.get_by_role("button", name="Save").press("Enter")
    expect(page.get_by_text("Saved as corrections.1.csv.")).to_be_visible()
    assert not barriers(page, "#changes")
    run = page.get_by_role("button", name="Run", exact=True)
    expect(run).to_be_focused()
    run.press("Enter")
    expect(page.get_by_text("The run has finished")).to_be_visible(timeout=WAIT)
    page.get_by_role("link", name="the comparison").click()
    expect(page.locator("h1")).to_be_visible()
    page.goto(page.url.replace("/comparison", ""))
    expect(page.get_by_role("link", name="the comparison")).to_be_visible()  # still
    expect(page.locator(".card.corrected")).to_have_count(1)
    state = {"running": True, "line": "tags 2/4", "code": None, "log": ""}
    page.route("**/report/state", lambda route: route.fulfill(json=state))
    page.reload()
    stop = page.get_by_role("button", name="Stop")
    expect(stop).to_be_visible()
    state["line"] = "error: the disk is full"  # after which Python takes a while to end
    expect(page.get_by_text(state["line"])).to_be_visible()
    expect(stop).to_be_hidden()
