"""Chromium, for tests of pages as a reader uses them."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from tests import IN_CI
from tests.extras import library

ARGUMENTS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
MISSING = "no Chromium is installed: {} (Debian: apt install chromium)"
STORE = "stored => Object.assign(localStorage, stored)"
STORED = "Object.fromEntries(Object.entries(localStorage).sort())"
PHONE = {"viewport": {"width": 375, "height": 667}, "is_mobile": True, "has_touch": True}


def find_chromium() -> str | None:
    """Returns the path of an installed Chromium, or None."""
    names = ("chromium", "chromium-browser", "google-chrome")
    return next(filter(None, map(shutil.which, names)), None)


_running: list[Browser] = []  # Playwright starts once in a process; several conftest.py ask for it


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    if _running:
        yield _running[0]
        return
    program = find_chromium()
    if program is None:
        reason = MISSING.format("the page's tests need it")
        # A check of the whole project must not pass without them.
        (pytest.fail if IN_CI else pytest.skip)(reason)
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=program, args=ARGUMENTS)
        _running.append(started)
        yield started
        _running.clear()
        started.close()
        # The browser's driver waits for the end of its input, which a process that loads images
        # for a training inherits if it was forked while the browser was open.
        for process in multiprocessing.active_children():
            # Torch's handler of dead workers may raise a RuntimeError here.
            with suppress(RuntimeError, ProcessLookupError):
                os.kill(process.pid, signal.SIGKILL)  # joblib's processes have no kill()
                process.join()


def names(page: Page) -> list[str]:
    """Returns the names of the images that are shown."""
    return page.locator(".card:visible .name").all_text_contents()


def barriers(page: Page, inside: str = "body") -> list[str]:
    """Returns what axe-core finds, such as text that hardly stands out from its ground."""
    axe = library("axe_playwright_python.sync_playwright").Axe()
    found = axe.run(page, context=inside).response["violations"]
    return [f"{each['id']}: {[node['html'] for node in each['nodes']]}" for each in found]


def reload(page: Page) -> None:
    """Reloads a page whose choices stay: Chromium stores them in another process, a bit later.

    On a busy machine it may lose what was stored last: then it is stored and loaded once more.
    """
    stored = page.evaluate(STORED)
    for _ in range(20):
        page.wait_for_timeout(500)
        page.reload()
        if page.evaluate(STORED) == stored:
            return
        page.evaluate(STORE, stored)
    raise AssertionError(f"the reloaded page has {page.evaluate(STORED)} stored, not {stored}")


@pytest.fixture
def visit(browser: Browser) -> Iterator[Callable[..., Page]]:
    """Opens pages, and in the end checks what none of them may do."""
    pages, complaints, requests = [], [], []

    def open_page(address: str, **settings) -> Page:
        page = browser.new_context(**settings).new_page()
        page.set_default_timeout(5000)
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("dialog", lambda dialog: complaints.append(dialog.message))
        page.on("request", lambda request: requests.append(request.url))
        before = len(requests)
        page.goto(address)
        assert len(requests) > before, "the page is watched"
        pages.append(page)
        return page

    yield open_page
    for page in pages:
        page.context.close()
    assert complaints == []
    assert all(url.startswith(("file:", "data:")) for url in requests)
