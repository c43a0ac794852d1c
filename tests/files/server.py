"""A web server on the loopback that can be told to fail as real ones do."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Pause:
    """A pause in the middle of an answer.

    Attributes:
        after: the number of bytes before it.
        reached: is set when these were sent.
        over: the rest follows when it is set.
    """

    after: int
    reached: threading.Event = field(default_factory=threading.Event)
    over: threading.Event = field(default_factory=threading.Event)


@dataclass
class Answer:
    """How a request is answered.

    Attributes:
        status: of HTTP; others than 200 have no content.
        reason: the words after the status.
        stop_after: the connection ends after so many bytes.
        announced: a Content-Length that is not that of the content.
        ranges: whether a part of the file can be asked for.
        framing: what tells where the content ends: its "length", "chunked", or the "close" of the
            connection.
        headers: further ones.
        pause: one after some bytes.
    """

    status: int = 200
    reason: str | None = None
    stop_after: int | None = None
    announced: int | None = None
    ranges: bool = True
    framing: str = "length"
    headers: dict[str, str] = field(default_factory=dict)
    pause: Pause | None = None


class Server(ThreadingHTTPServer):
    """Serves :attr:`files`; the answers in :attr:`plan` are used up, one a request.

    Attributes:
        files: path without a slash → content.
        plan: path → its next answers.
        usual: the answer where none is planned.
        requests: path and Range of every request.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files: dict[str, bytes] = {}
        self.plan: dict[str, list[Answer]] = {}
        self.usual = Answer()
        self.requests: list[tuple[str, str | None]] = []

    def url(self, path: str = "") -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/{path}"

    @property
    def ranges(self) -> list[str | None]:
        return [asked for _, asked in self.requests]


class _Handler(BaseHTTPRequestHandler):
    def log_message(self, *_) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path, asked = self.path[1:], self.headers["Range"]
        self.server.requests.append((path, asked))
        planned = self.server.plan.get(path)
        answer = planned.pop(0) if planned else self.server.usual
        content, status = self.server.files.get(path), answer.status
        if content is None and status == 200:
            status = 404
        if status != 200:
            self._send(status, answer.headers, answer.reason)
            return
        headers = {**answer.headers}
        size, start = len(content), 0
        if asked and answer.ranges:
            start = int(asked.removeprefix("bytes=").removesuffix("-"))
            if start >= size:
                self._send(416, {"Content-Range": f"bytes */{size}"})
                return
            status = 206
            headers["Content-Range"] = f"bytes {start}-{size - 1}/{size}"
        length = size - start if answer.announced is None else answer.announced
        if answer.framing == "length":
            headers["Content-Length"] = str(length)
        elif answer.framing == "chunked":
            headers["Transfer-Encoding"] = "chunked"
        self._send(status, headers)
        if self.command == "GET":
            self._write(content[start:][: answer.stop_after], answer)

    def _write(self, content: bytes, answer: Answer) -> None:
        if answer.framing == "chunked":
            content = b"%x\r\n%s\r\n" % (len(content), content)
            content += b"0\r\n\r\n" if answer.stop_after is None else b""
        if (pause := answer.pause) is not None:
            self.wfile.write(content[: pause.after])
            pause.reached.set()
            pause.over.wait(300)
            content = content[pause.after :]
        self.wfile.write(content)

    def _send(self, status: int, headers: dict[str, str], reason: str | None = None) -> None:
        self.send_response(status, reason)
        for key, value in headers.items():
            self.send_header(key, value)
        self.end_headers()


@contextmanager
def serving() -> Iterator[Server]:
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
