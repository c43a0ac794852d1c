"""References in docstrings, such as :func:`choose_tags`, name something that exists."""

from __future__ import annotations

import builtins
import importlib.util
import pkgutil
import re
from pathlib import Path

import pytest

import pipeline

_ROLE = re.compile(r":(?:class|func|meth|mod|data|attr|exc):`[~!]?([\w.]+)`")
MODULES = [
    m.name
    for m in pkgutil.walk_packages(pipeline.__path__, "pipeline.")
    if "__main__" not in m.name
]


def exists(name: str, module: object) -> bool:
    """Tells whether a name is found in a module, its classes or the built-ins, or is absolute."""
    classes = [each for each in vars(module).values() if isinstance(each, type)]
    if any(has(place, name) for place in (module, *classes, builtins)):
        return True
    parent, _, last = name.rpartition(".")
    try:
        return has(pkgutil.resolve_name(parent), last)
    except (ImportError, AttributeError, ValueError):
        return False


def has(place: object, name: str) -> bool:
    """Tells whether an object has an attribute, or a dataclass a field without a default."""
    first, _, rest = name.partition(".")
    if first in getattr(place, "__dataclass_fields__", {}):
        return True
    return hasattr(place, first) and (not rest or has(getattr(place, first), rest))


def test_references_lead_somewhere():
    lost = []
    has_app = importlib.util.find_spec("gradio") is not None
    names = [name for name in MODULES if has_app or not name.startswith("pipeline.app.")]
    for module in map(importlib.import_module, names):
        references = _ROLE.findall(Path(module.__file__).read_text(encoding="utf-8"))
        lost += [(module.__name__, each) for each in references if not exists(each, module)]
    assert not lost


@pytest.mark.parametrize("name", ["choose_tag", "pipeline.api.Labeler", "Tagger.streams", "numpi"])
def test_a_wrong_reference_would_be_found(name):
    assert not exists(name, importlib.import_module("pipeline.tags.tagger"))
