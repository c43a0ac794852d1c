"""Text files that people write, and what of them an error shows."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path

from pipeline.errors import UserError

_MOST_BYTES = 1 << 28
"""Of a file that is read whole; COCO's longest list has 15 million."""

_MOST_SHOWN = 160
"""Characters of what a person gave that an error repeats."""


def read_text(path: Path, name: str, wanted: str, most_bytes: int = _MOST_BYTES) -> str:
    """Reads a text file in UTF-8, with or without a byte-order mark.

    Args:
        path: the file.
        name: what an error calls it, as ``dataset.labels=list.txt``.
        wanted: what an error asks for instead.
        most_bytes: of a larger file it is said that it is none of those.

    Raises:
        UserError: no such file, or one that is not text.
    """
    try:
        if not path.is_file():  # a pipe would be waited for
            raise UserError(f"{name} is no file: {wanted}")
        if path.stat().st_size > most_bytes:
            raise UserError(f"{name} holds more than {most_bytes} bytes: {wanted}")
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{name} is not UTF-8 text: save it as such") from error
    except OSError as error:
        raise UserError(f"{name} cannot be read ({error.strerror}): {wanted}") from error
    if "\0" in text:
        raise UserError(f"{name} holds NUL bytes and is not UTF-8 text: save it as such")
    return text


def given_path(given: str, name: str) -> Path:
    """Returns a path that a person gave, with ``~`` replaced by the home folder.

    Args:
        given: the path.
        name: the configuration's key for it.

    Raises:
        UserError: it names somebody's home who is not known here.
    """
    try:
        return Path(given).expanduser()
    except RuntimeError as error:
        raise UserError(
            f"{name}={shown(given)} begins with a home folder that is not known here: give the"
            " whole path"
        ) from error


def shown(given: object) -> str:
    """Returns what a person gave as an error repeats it: on one line, and not too long of it.

    Of what is longer the middle is left out, since paths are told apart by their ends.
    """
    text, half = str(given), _MOST_SHOWN // 2
    if len(text) <= _MOST_SHOWN and len(escaped := _escaped(text)) <= _MOST_SHOWN:
        return escaped
    return f"{_escaped(text[:half])[:half]}…{_escaped(text[-half:])[-half:]}"


def _escaped(text: str) -> str:
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def did_you_mean(wrong: object, known: Iterable[str]) -> str:
    """Returns the nearest of what is known, as a question before further text; or nothing."""
    near = difflib.get_close_matches(str(wrong), list(known), 1)
    return f"did you mean {near[0]}? " if near else ""


def in_words(seconds: float | None) -> str:
    """Returns a duration in words, or a dash if it is not known."""
    if seconds is None:
        return "–"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"
