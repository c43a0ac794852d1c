"""The reference of the names that the pages tell their readers to import."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
from collections.abc import Iterator
from pathlib import Path

PAGES = Path(__file__).parents[1]
FURTHER = {
    "python.md": ("pipeline.files.images.to_image",),
    "add-a-method.md": (
        "pipeline.configuration.registry.Method",
        "pipeline.configuration.settings.Rule",
        "pipeline.clip.frozen.Resources",
        "pipeline.cams.cams.Cams",
    ),
    "add-a-dataset.md": ("pipeline.datasets.vocabulary.Vocabulary",),
}
"""Page → names of the API that it mentions, beside those that its examples import."""


def api_page() -> str:
    """Returns the reference of the names that the pages tell their readers to import."""
    parts, seen = [_heading("Python API", "=")], set()
    for page, further in FURTHER.items():
        text = (PAGES / page).read_text(encoding="utf-8")
        names = [n for n in dict.fromkeys([*_imported(text), *further]) if n not in seen]
        seen.update(names)
        title = re.search("^# (.*)", text, re.MULTILINE).group(1)
        parts += [_heading(title, "-"), f":doc:`/docs/{Path(page).stem}` explains their use."]
        parts += map(_documented, sorted(names, key=lambda name: name.rpartition(".")[2].lower()))
    return "\n\n".join(parts) + "\n"


def _imported(text: str) -> Iterator[str]:
    """Yields the names of ours that a page's examples import, or that its text mentions."""
    for block in re.findall(r"^```python[^\n]*\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and node.module.split(".")[0] == "pipeline":
                yield from (f"{node.module}.{each.name}" for each in node.names)
    yield from re.findall(r"`(pipeline\.[\w.]+\.[A-Za-z]\w*)[`(]", text)


def _heading(title: str, rule: str) -> str:
    return f"{title}\n{rule * len(title)}"


def _documented(name: str) -> str:
    module, _, attribute = name.rpartition(".")
    found = getattr(importlib.import_module(module), attribute)
    if not callable(found):
        return f".. autodata:: {_defined(name)}\n   :no-value:"
    if not isinstance(found, type):
        return f".. autofunction:: {name}"
    kind = "autoexception" if issubclass(found, Exception) else "autoclass"
    return f".. {kind}:: {name}\n   :members:\n   :special-members: __call__"


def _defined(name: str) -> str:
    """Returns the name in the module that defines it: Sphinx finds the text of data only there."""
    module, _, attribute = name.rpartition(".")
    for node in ast.parse(inspect.getsource(importlib.import_module(module))).body:
        if isinstance(node, ast.ImportFrom) and attribute in {each.name for each in node.names}:
            return _defined(f"{node.module}.{attribute}")
    return name
