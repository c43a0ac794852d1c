"""The two kinds of failure that are not bugs, and what their sentences are made of."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable

_MAX_SHOWN = 160
"""Characters of a user's input that an error repeats."""


class UserError(Exception):
    """Something the user can fix: one sentence that holds the remedy. Ends with exit code 2."""


class ImageError(Exception):
    """One image cannot be used. It is recorded in ``failures.jsonl``; the others go on."""


def shown(given: object) -> str:
    """Returns a user's input as an error repeats it: on one line, and shortened.

    Long input loses its middle, since paths are told apart by their ends.
    """
    text, half = str(given), _MAX_SHOWN // 2
    if len(text) <= _MAX_SHOWN and len(escaped := _escaped(text)) <= _MAX_SHOWN:
        return escaped
    return f"{_escaped(text[:half])[:half]}…{_escaped(text[-half:])[-half:]}"


def _escaped(text: str) -> str:
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def did_you_mean(wrong: object, known: Iterable[str], count: int = 1, cutoff: float = 0.6) -> str:
    """Returns the nearest known names as a question and a space, or "" if none is near.

    Upper and lower case count as equal. At most ``count`` names are proposed, of a similarity in
    [0, 1] of at least ``cutoff``; see :func:`difflib.get_close_matches`.
    """
    names = {name.lower(): name for name in known}
    nearest = difflib.get_close_matches(str(wrong).lower(), names, count, cutoff)
    return f"did you mean {' or '.join(names[name] for name in nearest)}? " if nearest else ""


def check_choice(wrong: str, given: object, known: Collection[str]) -> None:
    """Raises a UserError with the nearest known name, and all of them, unless one was given.

    ``wrong`` says what is wrong otherwise, such as "there is no executor local2".
    """
    if given not in known:
        raise UserError(f"{wrong}: {did_you_mean(given, known)}choose from {', '.join(known)}")
