"""Reads large JSON files element by element, and tells where each element lies."""

import codecs
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from pipeline.errors import UserError, shown
from pipeline.files.images import refuse_special_file

_SPACE = re.compile(r"[ \t\r\n]*")
_BLOCK = 1 << 20  # bytes that are read at a time
_MAX_ELEMENT = 1 << 26  # bytes; lists of short lists take thirty times as much memory
_BYTE_ORDER_MARK = codecs.BOM_UTF8.decode("latin-1")


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


def stream_json(
    path: Path, remedy: str, show: Callable[[int], object] | None = None
) -> Iterator[Element]:
    """Yields the elements of a list, or of the lists of an object, in the order of the file.

    The file is UTF-8; one element of it is in memory at a time. ``show`` gets the number of bytes
    that were read, now and then. Raises a UserError that ends with the ``remedy`` if it cannot be
    read, or is not JSON to its end.
    """
    try:
        with path.open("rb") as file:
            yield from _Scanner(file, show).elements()
    except (ValueError, RecursionError) as error:
        reason = "is nested too deeply" if isinstance(error, RecursionError) else f"({error})"
        raise UserError(f"{shown(path)} is not complete JSON {reason}: {remedy}") from error
    except OSError as error:
        raise UserError(f"{shown(path)} cannot be read ({error.strerror}): {remedy}") from error


def read_element(path: Path, start: int = 0, length: int = _MAX_ELEMENT) -> Any:  # noqa: ANN401
    """Returns the value of an element, or of a whole file, which is not large.

    Raises an ImageError or OSError if it is not a file or cannot be read, and a ValueError or
    RecursionError if it is not JSON.
    """
    refuse_special_file(path)
    with path.open("rb") as file:
        file.seek(start)
        return json.loads(file.read(length))


class _Scanner:
    """A position in a file, and the text that was read around it: a character for each byte."""

    def __init__(self, file: BinaryIO, show: Callable[[int], object] | None):
        self._file, self._show, self._text, self._at = file, show, "", 0
        self._before = 0  # bytes of the file before the text
        self._scan = json.JSONDecoder().raw_decode
        if self._read_on() and self._text.startswith(_BYTE_ORDER_MARK):
            self._at = len(_BYTE_ORDER_MARK)

    def elements(self) -> Iterator[Element]:
        """Yields all elements of the file."""
        if self._take("[{") == "[":
            yield from (self._value("") for _ in self._items("]"))
        else:
            for _ in self._items("}"):
                key = self._value("").value
                if not isinstance(key, str):
                    raise ValueError(f"no key before byte {self._place}")
                self._take(":")
                if self._peek() == "[":
                    self._at += 1
                    yield from (self._value(key) for _ in self._items("]"))
                else:
                    yield self._value(key)
        if self._peek():
            raise ValueError(f"more text follows its end, at byte {self._place}")

    @property
    def _place(self) -> int:
        return self._before + self._at

    def _items(self, closing: str) -> Iterator[None]:
        """Stops at each item of a list or an object, and passes what lies between them."""
        if self._peek() == closing:
            self._at += 1
            return
        yield
        while self._take("," + closing) == ",":
            yield

    def _value(self, key: str) -> Element:
        """Returns the next value."""
        self._peek()
        while True:
            try:
                value, end = self._scan(self._text, self._at)
            except ValueError as error:
                if len(self._text) - self._at > _MAX_ELEMENT or not self._read_on():
                    raise ValueError(f"no complete value at byte {self._place}") from error
            else:
                if end + 2 < len(self._text) or not self._read_on():  # a number may end in "e+"
                    break
        text, start = self._text[self._at : end], self._place
        if not text.isascii():
            value = json.loads(text.encode("latin-1"))
        self._at = end
        return Element(key, value, start, len(text))

    def _read_on(self) -> bool:
        """Reads more of the file, and forgets what was passed; tells whether there was more."""
        if data := self._file.read(max(_BLOCK, len(self._text) - self._at)):
            self._before += self._at
            self._text, self._at = self._text[self._at :] + data.decode("latin-1"), 0
            if self._show:
                self._show(self._before)
        return bool(data)

    def _peek(self) -> str:
        """Returns the next character that is not white space; "" at the end."""
        while True:
            self._at = _SPACE.match(self._text, self._at).end()
            if self._at < len(self._text) or not self._read_on():
                return self._text[self._at : self._at + 1]

    def _take(self, expected: str) -> str:
        """Returns the next character, which is one of those ``expected``."""
        if not (found := self._peek()) or found not in expected:
            here = f"{found!r} at byte {self._place}" if found else "it ends"
            raise ValueError(f"{here} where {' or '.join(expected)} is expected")
        self._at += 1
        return found
