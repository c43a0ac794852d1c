"""Requests that a page of ours would never send, to the app as it is started."""

from __future__ import annotations

import json
import zlib
from http.client import HTTPConnection
from pathlib import Path
from struct import pack
from urllib.parse import urlsplit

import pytest

from tests.app.started import Started
from tests.extras import library

pytestmark = pytest.mark.extras

BOUNDARY = "boundary"


class Client:
    """Somebody who has the address, and sends whatever they like."""

    def __init__(self, address: str):
        self.place = urlsplit(address)
        self.cookie = ""
        _, headers, _ = self.ask("GET", f"/?{self.place.query}")
        self.cookie = headers["set-cookie"].partition(";")[0]

    def ask(self, method: str, path: str, body: bytes | None = None, **headers: str):
        connection = HTTPConnection(self.place.hostname, self.place.port, timeout=120)
        given = {"Cookie": self.cookie} if self.cookie else {}
        connection.request(method, path, body, given | headers)
        answer = connection.getresponse()
        found = {name.lower(): value for name, value in answer.getheaders()}
        return answer.status, found, answer.read()

    def upload(self, name: str, content: bytes) -> str:
        head = f'Content-Disposition: form-data; name="files"; filename="{name}"'
        begin = f"--{BOUNDARY}\r\n{head}\r\nContent-Type: image/png\r\n\r\n".encode()
        body = begin + content + f"\r\n--{BOUNDARY}--\r\n".encode()
        kind = f"multipart/form-data; boundary={BOUNDARY}"
        status, _, found = self.ask("POST", "/gradio_api/upload", body, **{"Content-Type": kind})
        assert status == 200, found
        return json.loads(found)[0]

    def segment(self, path: object, *, names="disc", tagger="tagclip") -> str:
        """Presses the button with any values; returns all that the page is told."""
        _, _, config = self.ask("GET", "/config")
        config = json.loads(config)
        [button] = [c["id"] for c in config["components"] if c["props"].get("elem_id") == "segment"]
        [call] = [d["id"] for d in config["dependencies"] if [button, "click"] in d["targets"]]
        image = {"path": str(path), "meta": {"_type": "gradio.FileData"}}
        data = [image, names, "", 0.3, tagger, "clip_es", "crf"]
        join = {"data": data, "fn_index": call, "session_hash": "s", "trigger_id": button}
        kind = {"Content-Type": "application/json"}
        status, _, found = self.ask(
            "POST", "/gradio_api/queue/join", json.dumps(join).encode(), **kind
        )
        if status != 200:
            return found.decode()
        return self.ask("GET", "/gradio_api/queue/data?session_hash=s")[2].decode()


@pytest.fixture(scope="module")
def client():
    library("gradio")
    app = Started("clip=demo", "classes=[disc]")
    yield Client(app.address)
    assert app.end() in (0, 130)


def png_of(width: int, height: int) -> bytes:
    """Returns a PNG of black pixels, one bit each; its file is small."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return pack(">I", len(data)) + kind + data + pack(">I", zlib.crc32(kind + data))

    packer, rows = zlib.compressobj(9), b""
    for _ in range(height):
        rows += packer.compress(bytes(1 + (width + 7) // 8))
    header = pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    content = chunk(b"IHDR", header) + chunk(b"IDAT", rows + packer.flush())
    return b"\x89PNG\r\n\x1a\n" + content + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    "path",
    [
        "/gradio_api/file=/etc/passwd",
        "/gradio_api/file=../../../../etc/passwd",
        "/gradio_api/file=..%2f..%2f..%2fetc%2fpasswd",
        "/file=/etc/passwd",
        "/static/../../../etc/passwd",
        "/assets/..%2f..%2f..%2f..%2fetc%2fpasswd",
        f"/gradio_api/file={Path(__file__).resolve()}",
        "/custom_component/../../../etc/passwd",
        "/docs",
        "/openapi.json",
    ],
)
def test_no_other_file_is_served(client, path):
    status, _, found = client.ask("GET", path)
    assert status in (403, 404, 422, 307) and b"root:" not in found and b"tests.app" not in found


def test_a_path_of_this_machine_is_no_photograph(client, scenes):
    told = client.segment(scenes / "1.png")
    assert "CAMs" not in told and '"success": false' in told.replace(
        '"success":false', '"success": false'
    )


@pytest.mark.parametrize("value", ["file", "tagclip tags.corrections=/etc/passwd", "../x"])
def test_a_method_that_is_not_offered_is_none(client, scenes, value):
    path = client.upload("a.png", (scenes / "1.png").read_bytes())
    told = client.segment(path, tagger=value)
    assert "mask" not in told and "passwd:" not in told and "not in the list of choices" in told


def test_a_bomb_of_pixels_is_refused_in_a_sentence(client):
    path = client.upload("bomb.png", png_of(60_000, 60_000))
    told = client.segment(path)
    assert "pixels" in told and "CAMs" not in told


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.html", b"<script>alert(1)</script>"),
        ("a.svg", b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>'),
        ("../../a.html", b"<script>alert(1)</script>"),
    ],
)
def test_an_uploaded_page_is_not_shown(client, name, content):
    path = client.upload(name, content)
    assert "afseg-app-" in path and ".." not in path
    status, headers, _ = client.ask("GET", f"/gradio_api/file={path}")
    assert status != 200 or "attachment" in headers["content-disposition"]
    told = client.segment(path)
    assert "cannot be decoded" in told or "cannot identify" in told or "success" in told
    assert "CAMs" not in told


def test_names_with_markup_are_names(client, scenes):
    path = client.upload("a.png", (scenes / "1.png").read_bytes())
    name = "<img src=x onerror=alert(1)>"
    told = client.segment(path, names=f"disc\n{name}")
    assert "&lt;img src=x" in told and "<img src=x" not in told


def test_uploads_are_removed_in_the_end(scenes):
    library("gradio")
    app = Started("clip=demo", "classes=[disc]")
    path = Path(Client(app.address).upload("a.png", (scenes / "1.png").read_bytes()))
    assert path.is_file()
    app.end()
    assert not path.exists()
