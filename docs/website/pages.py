"""Writes the pages of the site that follow from the code: one page per choice, and the Python API.

They are reStructuredText, as the docstrings that they quote are, and none is committed.
"""

from __future__ import annotations

import re
import shutil
import textwrap
from functools import cache
from pathlib import Path

from omegaconf import OmegaConf

from pipeline.commands.settings_help import (
    Choice,
    as_yaml,
    computed_anew,
    described_choices,
    settings_of,
    type_of,
)
from pipeline.configuration.registry import Method, method_of
from pipeline.configuration.settings import REQUIRED, Declared
from pipeline.report.tables.published import load_published
from pipeline.stages.config import compose
from website.api import api_page, heading
from website.choices import page_of, presets, title_of

NAVIGATION = {
    "Use": [
        "docs/installation",
        "docs/photographs",
        "docs/app",
        "docs/command-line",
        "docs/python",
        "docs/segmenters",
    ],
    "Method": [
        "docs/method",
        "docs/other-methods",
        "docs/compare-methods",
        "docs/experiments",
        "docs/published-results",
    ],
    "Data": [
        "docs/data-sets",
        "docs/import",
        "docs/export",
        "docs/licences",
        "data/demo/README",
        "data/demo/CLIP",
        "data/demo/SECOND",
        "data/demo_crowded/README",
    ],
    "Operate": ["docs/speed", "docs/clusters", "docs/reliability"],
    "Extend": ["docs/add-a-method", "docs/add-a-dataset", "docs/contributing"],
    "Reference": ["docs/settings", "docs/presets", "docs/changes", "docs/reference/index"],
}
"""The captions of the navigation, and the pages below each; every page is in it."""

COMMAND = "python tools/run_stage.py"
DOCS = Path(__file__).parents[1]
GROUPS = ("dataset", "tags", "cams", "masks", "segmenter")
STAGES = {"tags": 2, "cams": 3, "masks": 4, "predictions": 5}
"""A stage whose result is measured → the number of groups that decide its metrics."""

INDEX = """Reference
=========

A page for each choice of ``dataset=``, ``tags=``, ``cams=``, ``masks=`` and ``executor=``, and for
each further group of settings. Where a page says none, type ``null`` on the command line.

.. toctree::
   :maxdepth: 1

   api
"""


def settings_page(choice: Choice) -> str:
    """Returns the page of a choice."""
    values = None
    if choice.group == "dataset":
        values = OmegaConf.to_container(compose([f"dataset={choice.name}"])).get("dataset")
    settings = settings_of(choice, values)
    parts = [heading(title_of(choice), "="), choice.text]
    if choice.name:
        needed = [f"{s.key}=…" for s in settings if s.default == REQUIRED]
        parts.append(_code("sh", " ".join([COMMAND, title_of(choice), *needed])))
    if choice.method:
        parts.append(_traits(choice.method))
    parts += [heading("Settings", "-"), f".. program:: {title_of(choice)}"]
    parts += map(_setting, settings)
    if files := list(presets(choice)):
        parts.append(heading("Presets", "-"))
        for path in files:
            text = path.read_text(encoding="utf-8")
            parts += [heading(f"{choice.group}={path.stem}", "~"), _code("yaml", text)]
    parts += _figures(choice)
    return "\n\n".join(part for part in parts if part) + "\n"


def _setting(setting: Declared) -> str:
    rule, default = setting.rule, setting.default
    if default == REQUIRED:
        told = "Required"
    elif shown := as_yaml(default):
        told = f"Default: ``{textwrap.shorten(shown, 160, placeholder=' …')}``"
    else:
        told = "Its keys follow"
    if rule.choices:
        told += "; one of " + ", ".join(f"``{word}``" for word in rule.choices)
    told += f"; {rule.bounds}" if rule.bounds else ""
    first = setting.meaning[:1]  # α stays as it is
    lines = [(first.upper() if first.isascii() else first) + setting.meaning[1:], f"{told}."]
    lines.append(f"*A change computes anew:* {computed_anew(setting)}.")
    body = textwrap.indent("\n\n".join(lines), "   ")
    return f".. option:: {setting.key}=<{type_of(setting) or 'value'}>\n\n{body}"


def _traits(method: Method) -> str:
    lines = [f"* Code: ``{method.code}``"]
    if method.source:
        link = r"`arXiv \1 <https://arxiv.org/abs/\1>`__"
        lines.insert(0, "* Source: " + re.sub(r"arXiv (\d{4}\.\d{5})", link, method.source))
    if method.section:
        anchor = re.sub(r"[^\w\- ]", "", method.section).lower().replace(" ", "-")
        link = f"`{method.section} <../{_page_of(method.section)}.html#{anchor}>`__"
        lines.insert(1, f"* Computation: {link}")
    quirks = [quirk.name for quirk in method.quirks]
    for name, words in {"Quirks": quirks, "Variants": method.variants}.items():
        if words:
            lines.append(f"* {name}: " + ", ".join(f"``{word}``" for word in words))
    return "\n".join(lines)


def _page_of(section: str) -> str:
    """Returns the name of the page that defines a method."""
    text = (DOCS / "method.md").read_text(encoding="utf-8")
    return "method" if f"\n## {section}\n" in text else "other-methods"


def _figures(choice: Choice) -> list[str]:
    """Returns the published results of a choice that our presets reproduce, as a table."""
    rows = []
    for table in load_published():
        for figure in table.figures:
            deciding = GROUPS[: STAGES[figure.stage]] if figure.experiment else ()
            if choice.group not in deciding or title_of(choice) not in _chosen(figure.experiment):
                continue
            again = figure.row.rerun.get(figure.column.name, "")
            link = f"``{COMMAND} {figure.column.command}``"
            measured = f"{table.title}: {figure.column.label} ({table.unit.rstrip(', %')})"
            rows.append((measured, figure.row.method, figure.value, again, link))
    if not rows:
        return []
    header = ("table", "method", "published, %", "re-run", "command")
    cells = "\n".join(
        "\n".join(f"   {'* -' if n == 0 else '  -'} {cell}".rstrip() for n, cell in enumerate(row))
        for row in (header, *rows)
    )
    return [
        heading("Published results", "-"),
        "None was measured by us; ``pipeline/report/tables/published.yaml`` has their sources.",
        f".. list-table::\n   :header-rows: 1\n\n{cells}",
    ]


@cache
def _chosen(experiment: str) -> frozenset[str]:
    """Returns the titles of what a preset of ``experiment=`` chooses."""
    config = compose([f"experiment={experiment}"])
    found = (method_of(OmegaConf.get_type(config, g)()) for g in ("tags", "cams", "masks"))
    methods_chosen = (f"{method.group}={method.name}" for method in found)
    return frozenset([*methods_chosen, f"dataset={config.dataset.name}", "segmenter"])


def write_pages(folder: Path) -> None:
    """Writes all pages into a folder, in place of what it held."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    texts = {page_of(choice): settings_page(choice) for choice in described_choices()}
    index = INDEX + "".join(f"   {page}\n" for page in texts)
    for name, text in {**texts, "api": api_page(), "index": index}.items():
        (folder / f"{name}.rst").write_text(text, encoding="utf-8")


def _code(language: str, text: str) -> str:
    return f".. code-block:: {language}\n\n{textwrap.indent(text, '   ')}"
