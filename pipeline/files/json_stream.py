"""Reads large JSON files element by element, and tells where each element lies."""

import json
import re
from collections.abc import Iterator
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.errors import UserError, shown

_SPACE = re.compile(rb"[ \t\r\n]*")
_WINDOW = 1 << 12  # bytes that are decoded for an element at first
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class Element(NamedTuple):
    """A part of a JSON file.

    Attributes:
        key: of an object at the top, the key that it lies under; "" in a list at the top.
        value: an element of the list; or the whole value, where no list lies under the key.
        start: its first byte in the file.
        length: its number of bytes.
    """

    key: str
    value: Any
    start: int
    length: int


def stream_json(path: Path, remedy: str) -> Iterator[Element]:
    """Yields the elements of a list, or of the lists of an object, in the order of the file.

    The file is UTF-8; one element of it is in memory at a time.

    Raises:
        UserError: it cannot be read, or is not JSON to its end; ends with the ``remedy``.
    """
    try:
        with path.open("rb") as file, mmap(file.fileno(), 0, access=ACCESS_READ) as data:
            yield from _Scanner(data).elements()
    except (ValueError, RecursionError) as error:
        reason = "is nested too deeply" if isinstance(error, RecursionError) else f"({error})"
        raise UserError(f"{shown(path)} is not complete JSON {reason}: {remedy}") from error
    except OSError as error:
        raise UserError(f"{shown(path)} cannot be read ({error.strerror}): {remedy}") from error


def read_element(path: Path, start: int, length: int) -> Any:  # noqa: ANN401
    """Returns the value of an element; raises a ValueError or OSError if the file has changed."""
    with path.open("rb") as file:
        file.seek(start)
        return json.loads(file.read(length))


class _Scanner:
    """A position in a file."""

    def __init__(self, data: mmap) -> None:
        self._data = data
        self._at = len(_BYTE_ORDER_MARK) if data[:3] == _BYTE_ORDER_MARK else 0
        self._scan = json.JSONDecoder().raw_decode

    def elements(self) -> Iterator[Element]:
        """Yields all elements of the file."""
        if self._take("[{") == "[":
            yield from self._list("")
        elif not self._skip("}"):
            while True:
                key = str(self._value("").value)
                self._take(":")
                if self._skip("["):
                    yield from self._list(key)
                else:
                    yield self._value(key)
                if self._take(",}") == "}":
                    break
        if self._peek():
            raise ValueError(f"more text follows its end, at byte {self._at}")

    def _list(self, key: str) -> Iterator[Element]:
        if not self._skip("]"):
            yield self._value(key)
            while self._take(",]") == ",":
                yield self._value(key)

    def _value(self, key: str) -> Element:
        """Returns the next value."""
        self._peek()
        start, window = self._at, _WINDOW
        while True:
            data = self._data[start : start + window]
            try:
                # Bytes as characters, so that places are those in the file.
                value, length = self._scan(data.decode("latin-1"))
                if length < len(data) or len(data) < window:  # else a number may go on
                    break
            except ValueError as error:
                if len(data) < window:
                    raise ValueError(f"no complete value at byte {start}") from error
            window *= 8
        self._at += length
        if not data[:length].isascii():
            value = json.loads(data[:length])
        return Element(key, value, start, length)

    def _peek(self) -> str:
        """Returns the next character that is not white space; "" at the end."""
        self._at = _SPACE.match(self._data, self._at).end()
        return chr(self._data[self._at]) if self._at < len(self._data) else ""

    def _skip(self, character: str) -> bool:
        """Tells whether this character is next, which is then passed."""
        found = self._peek() == character
        self._at += found
        return found

    def _take(self, expected: str) -> str:
        """Returns the next character, which is one of those ``expected``."""
        if not (found := self._peek()) or found not in expected:
            here = f"{found!r} at byte {self._at}" if found else "it ends"
            raise ValueError(f"{here} where {' or '.join(expected)} is expected")
        self._at += 1
        return found
