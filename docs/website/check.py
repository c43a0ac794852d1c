"""Checks the built site: links lead somewhere, nothing is loaded from elsewhere, all is reachable.

Usage: python docs/website/check.py site
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

LOADED = ("script", "link", "img", "source", "iframe", "video", "audio", "object", "embed", "use")


class Page(HTMLParser):
    """The anchors of a page, its links with the elements that they are of, and its faults."""

    def __init__(self, text: str):
        super().__init__()
        self.anchors: set[str] = {"", "top"}
        self.links: list[tuple[str, str]] = []
        self.faults: dict[str, None] = {}
        self.has_commands = False
        self._wraps = False
        self.feed(text)
        has_button = any("copybutton" in link for tag, link in self.links if tag == "script")
        if self.has_commands and not has_button:
            self.faults["no button copies the commands"] = None

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Keeps ids, links and faults."""
        given = {name: value or "" for name, value in attrs}
        classes = given.get("class", "").split()
        if any(name.startswith("highlight-") for name in classes):
            self._wraps = "highlight-sh" in classes
            self.has_commands |= self._wraps
        scrolls = tag == "pre" and not self._wraps or "table-wrapper" in classes
        if scrolls and "tabindex" not in given:
            self.faults[f"a {tag} that scrolls cannot be reached with a keyboard"] = None
        if given.get("role") == "heading" and "aria-level" not in given:
            self.faults["a heading has no level"] = None
        if tag == "aside" and "aria-label" not in given:
            self.faults["an aside has no name"] = None
        for name, value in attrs:
            if name in ("id", "name") and value:
                self.anchors.add(value)
            elif name in ("href", "src", "data", "xlink:href") and value:
                self.links.append((tag, value))


def problems(site: Path) -> Iterator[str]:
    """Yields what is wrong with a site, one sentence for each link and each kind of fault."""
    pages = {path: Page(path.read_text(encoding="utf-8")) for path in site.rglob("*.html")}
    if not pages:
        yield f"{site} has no pages"
    for path, page in pages.items():
        yield from (f"{path.relative_to(site)}: {fault}" for fault in page.faults)
        for tag, link in dict.fromkeys(page.links):
            where, parts = f"{path.relative_to(site)}: {link}", urlsplit(link)
            if parts.scheme or parts.netloc:
                if tag in LOADED and parts.scheme != "data":
                    yield f"{where} is loaded from elsewhere"
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path.resolve()
            if not target.is_file():
                yield f"{where} does not exist"
            elif target in pages and unquote(parts.fragment) not in pages[target].anchors:
                yield f"{where}: that page does not have this anchor"
    for path in site.rglob("*.css"):
        for link in re.findall(
            r"(?:url\(|@import )['\"]?((?:https?:)?//[^'\")]+)", path.read_text()
        ):
            yield f"{path.relative_to(site)}: {link} is loaded from elsewhere"


if __name__ == "__main__":
    found = list(problems(Path(sys.argv[1]).resolve()))
    sys.exit("\n".join(found) or 0)
