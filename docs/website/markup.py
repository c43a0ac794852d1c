"""Repairs the markup of Sphinx and its theme for readers with a keyboard or a screen reader."""

from __future__ import annotations

import re
from pathlib import Path

REPAIRS = {
    r'(<p class="caption" role="heading")>': r'\1 aria-level="2">',
    r'(<aside class="sidebar-drawer")>': r'\1 aria-label="All pages">',
    r'(<aside class="toc-drawer[^"]*")>': r'\1 aria-label="On this page">',
    # What scrolls sideways; commands are wrapped.
    r'(?<!highlight-sh notranslate"><div class="highlight">)<pre>': '<pre tabindex="0">',
    r'(<div class="table-wrapper[^"]*")>': r'\1 role="group" aria-label="Table" tabindex="0">',
    r'<th class="head[^"]*"><p></p></th>': "<td></td>",
}
"""What is found, as a regular expression → what takes its place."""


def repair(text: str) -> str:
    """Returns a page with all repairs; a page that has them stays as it is."""
    for found, repaired in REPAIRS.items():
        text = re.sub(found, repaired, text)
    return text


def repair_pages(site: Path) -> None:
    """Repairs all pages of a site."""
    for path in site.rglob("*.html"):
        path.write_text(repair(path.read_text(encoding="utf-8")), encoding="utf-8")
