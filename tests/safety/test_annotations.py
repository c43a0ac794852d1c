"""Annotation files that name other files, grow without end as they are read, or are damaged."""

from __future__ import annotations

import time
from pathlib import Path
from xml.etree import ElementTree

import pytest

from pipeline.datasets.voc import read_objects
from pipeline.errors import UserError

SECRET = "a secret of this machine"


def laughs(levels: int, width: int = 10) -> str:
    """Entities of which each is the one before ten times."""
    lines = ['<!ENTITY lol0 "dog">']
    lines += [f'<!ENTITY lol{n} "{f"&lol{n - 1};" * width}">' for n in range(1, levels)]
    return "\n".join(lines)


def annotation(name: str, before: str = "") -> str:
    return f"{before}<annotation><object><name>{name}</name></object></annotation>"


def documents(secret: Path) -> dict[str, bytes]:
    """Returns what is tried → an annotation of VOC."""
    external = f'<!DOCTYPE a [<!ENTITY x SYSTEM "{secret.as_uri()}">]>'
    texts = {
        "a billion laughs": annotation("&lol8;", f"<!DOCTYPE a [{laughs(9)}]>"),
        "a few laughs": annotation("&lol2;", f"<!DOCTYPE a [{laughs(3, 2)}]>"),
        "quadratic growth": annotation(
            "&x;" * 20_000, f'<!DOCTYPE a [<!ENTITY x "{"dog" * 10_000}">]>'
        ),
        "another file": annotation("&x;", external),
        "another file as a parameter": annotation(
            "dog", f'<!DOCTYPE a [<!ENTITY % x SYSTEM "{secret.as_uri()}"> %x;]>'
        ),
        "a document type elsewhere": annotation("dog", f'<!DOCTYPE a SYSTEM "{secret.as_uri()}">'),
        "an unknown entity": annotation("&unknown;"),
    }
    found = {name: text.encode() for name, text in texts.items()}
    found["a few laughs in UTF-16"] = texts["a few laughs"].encode("utf-16")
    encoding = '<?xml version="1.0" encoding="{}"?><annotation/>'
    found["an unknown encoding"] = encoding.format("evil").encode()
    found["an encoding of mails"] = encoding.format("utf-7").encode()
    found["UTF-16 that is cut"] = "<annotation/>".encode("utf-16")[:-3]
    damaged = {"nothing": b"", "zeros": b"\0" * 50, "an element without an end": b"<annotation>"}
    return found | damaged


@pytest.mark.parametrize("name", documents(Path("/")))
def test_annotations_of_voc_are_plain(name, tmp_path):
    secret, path = tmp_path / "secret", tmp_path / "a.xml"
    secret.write_text(SECRET)
    path.write_bytes(documents(secret)[name])
    began = time.monotonic()
    with pytest.raises(UserError) as caught:
        read_objects(path, {"dog": 0}, True, "PASCAL VOC 2007")
    assert str(caught.value) == f"{path} cannot be read: replace it"
    assert time.monotonic() - began < 60


def test_a_parser_that_takes_entities_is_what_is_refused(tmp_path):
    """So that the files above are live: Python's own parser expands what is small."""
    path = tmp_path / "a.xml"
    path.write_bytes(documents(tmp_path)["a few laughs"])
    assert ElementTree.parse(path).getroot().findtext("object/name") == "dog" * 4


def test_deep_annotations_are_one_sentence_or_read(tmp_path):
    path = tmp_path / "a.xml"
    path.write_text("<annotation>" + "<object>" * 100_000)
    with pytest.raises(UserError, match="cannot be read"):
        read_objects(path, {"dog": 0}, True, "PASCAL VOC 2007")
    path.write_text(
        "<annotation>"
        + "<part>" * 100_000
        + "</part>" * 100_000
        + "<object><name>dog</name></object></annotation>"
    )
    assert read_objects(path, {"dog": 0}, True, "PASCAL VOC 2007") == (0,)
