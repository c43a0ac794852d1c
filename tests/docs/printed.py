"""What the program prints for a person to type, read from the source.

So a message that no test provokes is found, too. A form is a text with its values taken out, as in
``{wrong}: run stage={stage.command} first``.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

from tests import REPOSITORY

CODE = [p for room in ("pipeline", "tools") for p in sorted((REPOSITORY / room).rglob("*.py"))]
FILES = [
    path
    for path in sorted((REPOSITORY / "pipeline").rglob("*"))
    if path.suffix in (".txt", ".yaml", ".html", ".js", ".md") and path.parent.name != "names"
]
_MARKUP = re.compile(r"<[^<>]*(?:>|$)|^[^<>]*>|\{[{%#].*?[}%#]\}")
_VALUE = re.compile(r"\{[^{}]*(?:\{[^{}]*\}[^{}]*)*\}")
_RUN = re.compile(
    r"\brun (?:stage|experiment)=|^(?! *(?:usage: )?python tools/).*\bpython tools/\w",
    re.MULTILINE,
)
_WRITERS = ("command", "next_command")
_INNER = ("pipeline/errors.py", "pipeline/commands/command_line.py")
"""The files of these functions, whose own texts are not forms."""


@dataclass(frozen=True)
class Form:
    """A text of the source, in which ``{expression}`` stands for a value."""

    file: str
    line: int
    text: str

    @property
    def place(self) -> str:
        return f"{self.file}:{self.line}: {self.text}"

    @property
    def pattern(self) -> re.Pattern[str]:
        """Matches what is printed."""
        return re.compile(".*?".join(map(re.escape, _VALUE.split(self.text.strip()))))


@cache
def trees() -> dict[str, ast.Module]:
    """File → its program."""
    return {str(p.relative_to(REPOSITORY)): ast.parse(p.read_text("utf-8")) for p in CODE}


@cache
def texts() -> list[Form]:
    """Texts of several words: of the code without docstrings, and lines of the files beside it."""
    found = [
        Form(file, node.lineno, text)
        for file, tree in trees().items()
        for node, text in _strings(tree)
    ]
    for path in FILES:
        name, is_page = str(path.relative_to(REPOSITORY)), path.suffix in (".html", ".js")
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            found.append(Form(name, number, _MARKUP.sub("", line) if is_page else line))
    return [form for form in found if " " in form.text.strip()]


def _strings(tree: ast.AST) -> Iterator[tuple[ast.expr, str]]:
    """Yields the texts of a program; of an f-string the whole, and the texts in its values."""
    others = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr):
            others.add(node.value)
        elif isinstance(node, ast.JoinedStr):
            others |= {*node.values}
            yield node, _spelled(node)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in others:
            yield node, node.value


def _spelled(text: ast.JoinedStr) -> str:
    return "".join(
        part.value if isinstance(part, ast.Constant) else f"{{{ast.unparse(part.value)}}}"
        for part in text.values
    )


@cache
def commands() -> list[Form]:
    """Forms that hold a command line, or tell to run stages; :func:`examples` are others."""
    found = [form for form in texts() if _RUN.search(form.text)]
    for file, tree in trees().items():
        whole = {}
        for text in ast.walk(tree):
            if isinstance(text, ast.JoinedStr):
                whole |= dict.fromkeys(ast.walk(text), _spelled(text))
        for call in ast.walk(tree) if file not in _INNER else ():
            if isinstance(call, ast.Call) and getattr(call.func, "id", "") in _WRITERS:
                found.append(Form(file, call.lineno, whole.get(call, ast.unparse(call))))
    return [*dict.fromkeys(found)]


def examples() -> list[Form]:
    """The command lines of ``--help`` that stand on a line of their own."""
    found = re.compile(r"^ *(?:usage: )?(python tools/\w+\.py.*?)(?:   .*)?$", re.MULTILINE)
    return [
        Form(form.file, form.line, line) for form in texts() for line in found.findall(form.text)
    ]


@cache
def options() -> dict[str, set[str]]:
    """File of a command line → the options that it declares."""
    declared = {}
    for file, tree in trees().items():
        for call in ast.walk(tree):
            if isinstance(call, ast.Call):
                words = [each.value for each in call.args if isinstance(each, ast.Constant)]
                names = {
                    w for w in words if isinstance(w, str) and w.startswith("-") and " " not in w
                }
                if "BooleanOptionalAction" in ast.unparse(call):
                    names |= {w.replace("--", "--no-", 1) for w in names}
                name = getattr(call.func, "attr", getattr(call.func, "id", ""))
                if names and name in ("add", "add_argument"):
                    declared.setdefault(file, {"--help", "--version"}).update(names)
    return declared
