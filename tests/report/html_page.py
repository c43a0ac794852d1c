"""A page, parsed."""

from __future__ import annotations

from html.parser import HTMLParser

from pipeline.evaluation.record import MetricsFile
from pipeline.report.page.page import write_page


class Page(HTMLParser):
    """Elements, their attributes and all text of a page."""

    def __init__(self, html):
        super().__init__()
        self.html, self.elements, self.text = html, [], ""
        self._silent = False
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        self._silent = tag in ("script", "style")

    def handle_endtag(self, tag):
        self._silent = False

    def handle_data(self, data):
        if not self._silent:
            self.text += data

    def find(self, tag, **wanted):
        return [a for name, a in self.elements if name == tag and wanted.items() <= a.items()]


def page_of(inputs):
    """Writes the page of a run, with the figures of its metrics.json."""
    metrics = MetricsFile(inputs.root / "metrics.json")
    path = write_page(inputs.root / "report.html", inputs, metrics)
    return Page(path.read_text(encoding="utf-8"))
