"""The code blocks of README and of the pages in docs/, and what is to be done with each."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass, field
from pathlib import Path

from tests import REPOSITORY

PAGES = [
    REPOSITORY / "README.md",
    *sorted((REPOSITORY / "docs").glob("*.md")),
]

_FENCE = re.compile(r"^```(\S*)[ \t]*(.*?)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
MODES = ("run", "compose", "norun")


@dataclass(frozen=True)
class Block:
    """A fenced block of a page.

    Its info string says what a test does with it: ``sh run`` executes it on stand-ins for data and
    weights, ``sh compose reason="…"`` has its settings or arguments checked, ``sh norun`` neither;
    ``yaml file=NAME`` is written to a file for the commands after it.

    Attributes:
        page: the file.
        line: where it begins.
        language: "sh", "python", "yaml", …; "" where there is none.
        mode: of :data:`MODES`; "" where the page says none.
        options: what else the info string says.
        text: what stands between the fences.
    """

    page: Path
    line: int
    language: str
    mode: str
    options: dict[str, str] = field(default_factory=dict)
    text: str = ""

    @property
    def place(self) -> str:
        return f"{self.page.relative_to(REPOSITORY)}:{self.line}"

    @property
    def commands(self) -> list[str]:
        """The command lines of a block of the shell, without comments alone."""
        lines = self.text.replace("\\\n", " ").splitlines()
        return [line for line in lines if shlex.split(line, comments=True)]


def read_blocks(page: Path) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    blocks = []
    for match in _FENCE.finditer(text):
        language, info, body = match.groups()
        words = shlex.split(info)
        mode = words.pop(0) if words and "=" not in words[0] else ""
        options = dict(word.split("=", 1) for word in words)
        line = text.count("\n", 0, match.start()) + 1
        blocks.append(Block(page, line, language, mode, options, body))
    return blocks


def read_prose(page: Path) -> str:
    """Returns a page without its fenced blocks."""
    return _FENCE.sub("", page.read_text(encoding="utf-8"))
