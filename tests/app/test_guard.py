"""Who is answered: the app's own page, and nobody else."""

from __future__ import annotations

import pytest

from tests.extras import library

pytestmark = pytest.mark.extras

PORT, TOKEN = 7000, "secret"
OWN = f"http://127.0.0.1:{PORT}"


@pytest.fixture
def asked() -> list[str]:
    return []


@pytest.fixture
def client(asked):
    library("gradio")
    from starlette.responses import PlainTextResponse
    from starlette.testclient import TestClient

    from pipeline.app.server import Guard

    async def answer(scope, receive, send):
        asked.append(scope["path"])
        while (message := await receive()).get("more_body"):
            pass
        if message["type"] == "http.request":
            await PlainTextResponse("page")(scope, receive, send)

    return TestClient(
        Guard(answer, PORT, TOKEN),
        base_url=OWN,
        follow_redirects=False,
        raise_server_exceptions=False,
    )


@pytest.fixture
def known(client):
    """A browser that opened the address."""
    client.get(f"/?token={TOKEN}")
    return client


def test_the_token_becomes_a_cookie_and_leaves_the_address(client, asked):
    assert client.get("/").status_code == 403
    assert client.get("/?token=guess").status_code == 403 and not asked
    opened = client.get(f"/?token={TOKEN}")
    assert (opened.status_code, opened.headers["location"]) == (303, "/")
    cookie = opened.headers["set-cookie"].lower()
    assert "httponly" in cookie and "samesite=strict" in cookie
    page = client.get("/")
    assert page.text == "page" and asked == ["/"]
    assert "default-src 'self'" in page.headers["content-security-policy"]
    assert page.headers["referrer-policy"] == "no-referrer"


@pytest.mark.parametrize(
    "headers",
    [
        {"host": "example.com"},
        {"host": f"example.com:{PORT}"},  # a foreign name that points here
        {"host": "127.0.0.1:7001"},
        {"host": "127.0.0.1"},
        {"origin": "http://example.com"},
        {"origin": "null"},
        {"origin": f"https://127.0.0.1:{PORT}"},
        {"origin": "http://127.0.0.1:7001"},
    ],
)
def test_other_hosts_and_origins_are_refused(known, asked, headers):
    for method in ("GET", "POST", "OPTIONS"):
        answer = known.request(method, f"/?token={TOKEN}", headers=headers)
        assert answer.status_code == 403 and "set-cookie" not in answer.headers
    assert not asked


def test_its_own_page_may_send(known, asked):
    assert known.post("/run", headers={"origin": OWN}).text == "page"
    assert known.post("/run", headers={"origin": f"http://localhost:{PORT}"}).text == "page"
    assert asked == ["/run", "/run"]


@pytest.mark.parametrize(
    "other", ['prefs={"a": 1, "b":2}', "a=hello world", "a[b]=1", "path=/x", "=", "a=\xe9", ""]
)
def test_cookies_of_other_programs_do_no_harm(client, asked, other):
    cookie = f"{other}; afseg-7000=secret".encode("latin-1")
    assert client.get("/", headers={"cookie": cookie}).text == "page" and asked == ["/"]


def test_a_token_in_other_letters_is_none(client, asked):
    assert client.get("/?token=%C3%A9").status_code == 403 and not asked


@pytest.mark.parametrize("cookie", ["", "afseg-7001=secret", "afseg-7000=", "afseg-7000=guess"])
def test_a_cookie_of_another_app_is_none(client, asked, cookie):
    assert client.get("/", headers={"cookie": cookie}).status_code == 403 and not asked


@pytest.mark.parametrize(
    "path",
    [
        "/gradio_api/file=http://example.com/a.png",
        "/gradio_api/file=https%3A//example.com/a.png",
        "/gradio_api/proxy=http://example.com",
        "/gradio_api/stream/a/b/c/playlist.m3u8",
        "/gradio_api/file=HTTP://example.com/a.png",
        "/gradio_api/info",
        "/openapi.json",
    ],
)
def test_nothing_is_fetched_from_elsewhere(known, asked, path):
    assert known.get(path).status_code == 404 and not asked


def test_large_uploads_end(known, asked):
    from pipeline.app.server import MAX_UPLOAD

    headers = {"content-length": str(10 * 2**30)}
    assert known.post("/upload", headers=headers).status_code == 413 and not asked

    def pieces():
        for _ in range(MAX_UPLOAD // 10_000_000 + 2):
            yield bytes(10_000_000)

    assert known.post("/upload", content=pieces()).status_code == 413
    assert known.post("/upload", content=b"small").text == "page"
