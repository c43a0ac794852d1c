"""Draws the pictures of README and docs/ anew, and executes the quickstart: ``make pictures``.

It runs the demo, and tags the scenes whose report is corrected in a picture, in a fresh folder, and
takes pictures of both reports and of the app in Chromium.
"""

from __future__ import annotations

import base64
import io
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import nbformat
from nbclient import NotebookClient
from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright

from tests import REPOSITORY
from tests.app.started import Started
from tests.report.browsing import ARGUMENTS, MISSING, find_chromium

NOTEBOOK = REPOSITORY / "examples" / "quickstart.ipynb"
DEMO = ("dataset=demo", "clip=demo")
AFTERNOON = ("dataset=demo_crowded", "dataset.split=train", "stage=[tags,report]")
VIEWPORT = {"width": 1140, "height": 720}
WAIT = 300_000  # milliseconds
SCALE = 1.1  # pixels of a picture for each of the page
PROGRESS = re.compile(r"^.* \d+/\d+ +[\d.]+/s .*\n", re.MULTILINE)  # of a long stage


def run(output: Path, *settings: str) -> Path:
    """Runs the pipeline into a folder, and returns the folder."""
    command = [sys.executable, "tools/run_stage.py", *settings, f"output_dir={output}"]
    subprocess.run(command, cwd=REPOSITORY, check=True)
    return output


def shrink(png: bytes) -> bytes:
    """Returns a PNG file of the same picture with a palette, which is a third as large."""
    buffer = io.BytesIO()
    picture = Image.open(io.BytesIO(png)).convert("RGB")
    palette = picture.quantize(256, kmeans=1)
    picture.quantize(palette=palette).save(buffer, "PNG", optimize=True)  # dithered
    return buffer.getvalue()


def open_report(browser: Browser, output: Path) -> Page:
    """Opens the report of a run."""
    page = browser.new_context(viewport=VIEWPORT, device_scale_factor=SCALE).new_page()
    page.goto((output / "report.html").as_uri())
    return page


def picture_of_image(page: Page, image: str) -> bytes:
    """Opens an image of a report, and returns a picture of all that was computed of it."""
    page.set_viewport_size({**VIEWPORT, "height": 940})
    page.get_by_role("button", name=image, exact=True).click()
    page.get_by_label("Size").fill("180")
    # The path of the photograph, which is above, is of this machine.
    page.locator("#viewer .panels").evaluate("panels => panels.scrollIntoView()")
    return page.screenshot(animations="disabled")


def picture_of_correcting(page: Page) -> bytes:
    """Corrects two images of a report, marks another as right, and returns a picture of it."""
    page.get_by_label("Sort by").select_option("doubt:down")
    cards, mistakes = page.locator(".card:visible"), page.locator(".chip.wrong, .chip.missed")
    for card in cards.all()[:2]:
        # A click draws the chips of its card anew.
        while (chip := card.locator(mistakes).first).count():
            chip.click()
    cards.and_(page.locator(":not(.corrected)")).filter(has_not=mistakes).first.locator(
        ".seen"
    ).click()
    page.mouse.move(0, 0)
    page.locator(".controls").evaluate("form => scrollTo(0, form.offsetTop - 60)")
    return page.screenshot(animations="disabled")


def pictures_of_app(browser: Browser, scenes: Path, output: Path) -> dict[str, bytes]:
    """Uses each part of the app, and returns its pictures."""
    photographs = output / "PHOTOS"
    photographs.mkdir()
    for scene in sorted(scenes.glob("*[0-9].png"))[:40]:
        shutil.copy(scene, photographs)
    words = ("PHOTOS", "clip=demo", "classes=[disc,square,star,hexagon]")
    app = Started(*words, cwd=output)
    page = browser.new_context(viewport=VIEWPORT, device_scale_factor=SCALE).new_page()
    page.set_default_timeout(WAIT)
    page.goto(app.address)
    page.locator("#folder h2").first.wait_for()
    page.locator("#folder_status", has_text=re.compile(r"PHOTOS\s*$")).wait_for()  # and not "left"
    page.set_viewport_size({**VIEWPORT, "height": 1100})
    pictures = {"first-look-folder": page.screenshot(animations="disabled")}
    page.get_by_role("tab", name="A photograph").click()
    page.set_input_files("input[type=file]", photographs / "00001.png")
    page.locator("#status", has_text="mask").wait_for()
    page.set_viewport_size({**VIEWPORT, "height": 1220})
    page.wait_for_timeout(1000)  # pictures fade in
    pictures["first-look-photograph"] = page.screenshot(animations="disabled")
    app.end()
    app = Started(output)
    page.set_viewport_size(VIEWPORT)
    page.goto(app.address)
    picture_of_correcting(page)
    page.get_by_role("button", name="Save").click()
    page.get_by_text("Saved as corrections.1").wait_for()
    pictures["first-look-run"] = page.screenshot(animations="disabled")
    app.end()
    return pictures


def execute(notebook: Path, folder: Path) -> None:
    """Executes a notebook in a folder, and stores its outputs in it.

    Lines of progress, warnings and the path of the folder differ between machines, and are removed.
    """
    content = nbformat.read(notebook, as_version=4)
    settings = {"resources": {"metadata": {"path": str(folder)}}, "record_timing": False}
    client = NotebookClient(content, coalesce_streams=True, **settings)
    client.execute(env={**os.environ, "PYTHONPATH": str(REPOSITORY), "PYTHONWARNINGS": "ignore"})
    for output in (output for cell in content.cells for output in cell.get("outputs", ())):
        if output.output_type == "stream":
            output.text = PROGRESS.sub("", output.text).replace(f"{folder}/", "")
        elif png := output.get("data", {}).get("image/png"):
            output.data["image/png"] = base64.b64encode(shrink(base64.b64decode(png))).decode()
    nbformat.write(content, notebook)


def main() -> None:
    """Draws all pictures."""
    chromium = find_chromium()
    if chromium is None:
        sys.exit(MISSING.format("pictures of the reports need it"))
    with TemporaryDirectory() as folder:
        demo = run(Path(folder, "demo"), *DEMO)
        afternoon = run(Path(folder, "afternoon"), *AFTERNOON)
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=chromium, args=ARGUMENTS)
            pictures = {
                "demo": (demo / "examples.png").read_bytes(),
                "report": picture_of_image(open_report(browser, demo), "00004"),
                "correcting": picture_of_correcting(open_report(browser, afternoon)),
            }
            scenes = REPOSITORY / "data/demo/scenes/v1/val"
            pictures |= pictures_of_app(browser, scenes, afternoon)
            browser.close()
        for name, png in pictures.items():
            (REPOSITORY / "docs" / f"{name}.png").write_bytes(shrink(png))
        execute(NOTEBOOK, Path(folder).resolve())


if __name__ == "__main__":
    main()
