"""How Sphinx builds the site (``make docs``): README and the pages as they are, and the reference.

The source folder is the repository, so that links between pages, pictures and files are the same
on the site as on a host of git repositories.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from docutils import nodes
from docutils.utils.math.latex2mathml import tex2mathml
from pygments.lexers.special import TextLexer
from sphinx.application import Sphinx

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "docs")]

from website.api import api_page  # noqa: E402  it lies beside this file
from website.markup import repair_pages  # noqa: E402
from website.navigation import NAVIGATION  # noqa: E402

project = "Segmentation without a single annotation"
extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
]
# A name that a module hands on is documented there; its source is elsewhere.
viewcode_follow_imported_members = False
root_doc = "README"
include_patterns = ["README.md", "docs/**", "data/**"]
exclude_patterns = [".*", "site", "outputs", "data/*/scenes"]
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 4
napoleon_use_ivar = True
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
highlight_language = "text"
html_theme = "furo"
html_title = project
html_static_path = ["static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_copyright = False
html_show_sphinx = False
html_math_renderer = "mathml"

TOCTREE = """
```{{toctree}}
:hidden:
:caption: {caption}

{pages}
```
"""


def add_navigation(app: Sphinx, docname: str, source: list[str]) -> None:
    """Appends the navigation to the start page, which other readers of README do not need."""
    if docname == root_doc:
        for caption, pages in NAVIGATION.items():
            source[0] += TOCTREE.format(caption=caption, pages="\n".join(pages))


def draw_formula(self: nodes.NodeVisitor, node: nodes.math | nodes.math_block) -> None:
    """Writes a formula as MathML, which browsers draw without a script."""
    is_block = isinstance(node, nodes.math_block)
    formula = tex2mathml(node.astext(), as_block=is_block)
    around = '<div style="overflow-x: auto" role="group" aria-label="Formula" tabindex="0">'
    self.body.append(f"{around}{formula}</div>" if is_block else formula)
    raise nodes.SkipNode


def write_reference(_: Sphinx) -> None:
    """Writes the reference of the Python API, which is not committed."""
    folder = ROOT / "docs" / "reference"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    (folder / "api.rst").write_text(api_page(), encoding="utf-8")


def finish_site(app: Sphinx, error: Exception | None) -> None:
    """Repairs the pages, and makes README the page that a server sends first."""
    if error is None:
        repair_pages(Path(app.outdir))
        shutil.copy(Path(app.outdir) / "README.html", Path(app.outdir) / "index.html")


def setup(app: Sphinx) -> None:
    """Connects the functions above."""
    app.add_lexer("csv", TextLexer)  # Pygments has none
    app.add_html_math_renderer("mathml", (draw_formula, None), (draw_formula, None))
    app.connect("builder-inited", write_reference)
    app.connect("source-read", add_navigation)
    app.connect("build-finished", finish_site)
