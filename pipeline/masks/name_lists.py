"""Lists of the names that ``masks=dense`` compares pixels with, and those that come with it."""

import re
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from pipeline.datasets.vocabulary import Names, Vocabulary, as_names
from pipeline.errors import UserError, shown
from pipeline.files.text import given_path, read_text

FOLDER = Path(__file__).with_name("names")
"""The lists of the authors, to the letter: ``<name>.txt`` has a line for each class, and
``differences.yaml`` what other lists have instead."""

_MAX_BYTES = 1 << 20
_BETWEEN = re.compile(r"(?<!\\), ")


def shipped_lists() -> list[str]:
    """Returns the names of the lists that come with the package."""
    return sorted({path.stem for path in FOLDER.glob("*.txt")} | _differences().keys())


def read_name_list(given: str | None, vocabulary: Vocabulary) -> Names:
    """Returns the names of each class, the background's first where there is one.

    Args:
        given: the name of a list that comes with the package, or the path of a file: a line for
            each class, in the order of the classes, its names separated by ", "; ``\\,`` is a comma
            inside a name. None takes the names for CAMs and the backgrounds of the vocabulary;
            "classes" the names of the classes alone.

    Raises:
        UserError: no such list, or it does not fit the classes.
    """
    if given is None:
        backgrounds = (vocabulary.backgrounds,) if vocabulary.backgrounds else ()
        return (*backgrounds, *vocabulary.cam_names)
    if given == "classes":
        return tuple((name,) for name in vocabulary.classes)
    names = names_in(given)
    count = len(vocabulary.classes)
    if len(names) not in (count, count + 1):
        raise UserError(
            f"masks.names={shown(given)} holds {len(names)} lines for {count} classes: give one for"
            " each class, in their order, and one before them if there is a background"
        )
    return names


def names_in(given: str) -> Names:
    """Returns the names in every line of a list, as :func:`read_name_list` is given it.

    A UserError refuses a list that does not exist, and a name that CLIP cannot read.
    """
    key = f"masks.names={shown(given)}"
    if given in shipped_lists():
        lines = _shipped_lines(given)
    else:
        path = given_path(given, "masks.names")
        wanted = f"give a file with a line for each class, or one of {', '.join(shipped_lists())}"
        # splitlines() would also break lines at characters at which editors do not.
        lines = read_text(path, key, wanted, _MAX_BYTES).replace("\r", "\n").split("\n")
    given_names = (_BETWEEN.split(line) for line in lines if line.strip())
    return tuple(as_names([n.replace("\\,", ",") for n in names], key) for names in given_names)


@cache
def _differences() -> dict[str, dict[str, Any]]:
    return yaml.safe_load((FOLDER / "differences.yaml").read_text(encoding="utf-8"))


def _shipped_lines(name: str) -> list[str]:
    if name not in _differences():
        return (FOLDER / f"{name}.txt").read_text(encoding="utf-8").splitlines()
    difference = _differences()[name]
    lines = _shipped_lines(difference["like"])
    if not difference.get("background", True):
        lines = lines[1:]
    others = difference.get("lines", {})
    return [others.get(number, line) for number, line in enumerate(lines, start=1)]


def has_background(names: Names, vocabulary: Vocabulary) -> bool:
    """Tells whether the first of the names are those of the background."""
    return len(names) > len(vocabulary.classes)
