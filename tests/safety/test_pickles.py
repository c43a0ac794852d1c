"""No file but weights is unpickled: the readers of pickles are these, and no others."""

from __future__ import annotations

import ast
from collections.abc import Iterator

import pytest

from tests import REPOSITORY

READERS = {"pickle.load", "pickle.loads", "pickle.Unpickler", "torch.load", "torch.jit.load"}
READERS |= {"torch.hub.load_state_dict_from_url", "numpy.load", "marshal.load", "marshal.loads"}
READERS |= {"numpy.lib.format.read_array", "numpy.lib.format.open_memmap", "joblib.load"}
"""What reads pickles or code; NumPy's do unless ``allow_pickle`` is False."""

MODULES = {"_pickle", "cloudpickle", "dill", "jsonpickle", "pandas", "shelve"}
"""Modules that are for pickles, or read them by themselves."""

ALLOWED = {
    "pipeline/clip/weights/torchscript.py": {"pickle.Unpickler"},  # with names of its own
    "pipeline/engine/workers.py": {"pickle.loads"},  # of the process that asks for results
    "pipeline/files/weight_files.py": {"torch.load(weights_only=True)"},
    "tools/train_demo_clip.py": {"torch.load(weights_only=True)"},
    "examples/convert_cams.py": {"numpy.load(allow_pickle=True)"},  # which users run themselves
}


def readers(source: str) -> Iterator[str]:
    """Yields the readers that a program names, with the argument that says what they may run."""
    tree, names, calls = ast.parse(source), {}, {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for each in node.names:
                top = each.name.partition(".")[0]
                names[each.asname or top] = each.name if each.asname else top
                yield from {top} & MODULES
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from {node.module.partition(".")[0]} & MODULES
            names |= {each.asname or each.name: f"{node.module}.{each.name}" for each in node.names}
        elif isinstance(node, ast.Call):
            calls[node.func] = [ast.unparse(argument) for argument in node.keywords]
    for node in ast.walk(tree):
        if (name := name_of(node, names)) in READERS:
            said = [each for each in calls.get(node, ()) if "weights_only" in each]
            said += [each for each in calls.get(node, ()) if "allow_pickle" in each]
            if said != ["allow_pickle=False"]:
                yield f"{name}({said[0]})" if said else name


def name_of(node: ast.AST, names: dict[str, str]) -> str:
    """Returns the dotted name of what an expression stands for, "" for other expressions."""
    if isinstance(node, ast.Attribute):
        return f"{name_of(node.value, names)}.{node.attr}"
    return names.get(node.id, "") if isinstance(node, ast.Name) else ""


def test_these_read_pickles_and_no_others():
    found: dict[str, set[str]] = {}
    for folder in ("pipeline", "tools", "examples", "docs"):
        for path in sorted((REPOSITORY / folder).rglob("*.py")):
            if used := {*readers(path.read_text(encoding="utf-8"))}:
                found[path.relative_to(REPOSITORY).as_posix()] = used
    assert found == ALLOWED


@pytest.mark.parametrize(
    ("program", "reader"),
    [
        ("import pickle\npickle.loads(b'')", "pickle.loads"),
        ("import pickle as p\nclass Reader(p.Unpickler): pass", "pickle.Unpickler"),
        ("from pickle import load as read\nread(file)", "pickle.load"),
        ("import torch\ntorch.load(path)", "torch.load"),
        ("import torch\ntorch.load(p, weights_only=no)", "torch.load(weights_only=no)"),
        ("import numpy as np\nnp.load(p, allow_pickle=True)", "numpy.load(allow_pickle=True)"),
        ("import numpy as np\nread = np.lib.format.read_array", "numpy.lib.format.read_array"),
        ("def read():\n    import dill", "dill"),
        ("from pandas import read_csv", "pandas"),
    ],
)
def test_the_scan_sees(program, reader):
    assert [*readers(program)] == [reader]


def test_the_scan_lets_through_what_runs_no_code():
    program = "import pickle, numpy as np\nnp.load(p, allow_pickle=False)\npickle.dumps(a)"
    assert not [*readers(f"{program}\nnp.save(p, a)")]
