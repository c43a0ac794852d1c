"""What Hugging Face states of a file, as its real client reads it from a server of ours."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import pytest
from huggingface_hub import constants

from pipeline.errors import UserError
from pipeline.files.download import Source, fetch
from pipeline.files.hugging_face import fetch_onnx, with_checksum
from tests.files.server import Answer

CONTENT = b"weights" * 100
SHA256 = hashlib.sha256(CONTENT).hexdigest()
GIT = hashlib.sha1(CONTENT).hexdigest()
SAFE, PICKLE = "model.safetensors", "model.bin"


@pytest.fixture
def source(server, monkeypatch):
    monkeypatch.setattr(constants, "ENDPOINT", server.url())
    return Source("ViT.1-laion.safetensors", (server.url(SAFE), server.url(PICKLE)))


def state(server, name, etag=SHA256):
    server.files[name] = CONTENT
    # Large files lie elsewhere; the hub's own answer states their SHA-256.
    headers = {"X-Linked-ETag": f'"{etag}"', "X-Linked-Size": str(len(CONTENT))}
    server.plan[name] = [Answer(headers=headers)]


def refuse(server, name):
    server.plan[name] = [Answer(404, headers={"X-Error-Code": "EntryNotFound"})]


def test_size_and_checksum_are_those_of_the_hub(source, server, tmp_path):
    state(server, SAFE)
    found = with_checksum(source)
    assert (found.size, found.algorithm, found.digest) == (len(CONTENT), "sha256", SHA256)
    assert found.name == source.name and found.urls == source.urls[:1]
    fetch(found, tmp_path / found.name)
    server.files[SAFE] = CONTENT[:-1] + b"x"
    with pytest.raises(UserError, match="its sha256 is"):
        fetch(found, tmp_path / "again")


def test_a_pickle_is_taken_where_there_is_nothing_else(source, server):
    refuse(server, SAFE)
    state(server, PICKLE)
    found = with_checksum(source)
    assert found.name == "ViT.1-laion.bin" and found.urls == source.urls[1:]


def test_a_file_in_git_has_no_sha256(source, server):
    state(server, SAFE, GIT)
    found = with_checksum(source)
    assert (found.size, found.algorithm, found.digest) == (len(CONTENT), "", "")


@pytest.mark.parametrize("broken", [404, 401, 503])
def test_no_answer_is_one_sentence(broken, source, server):
    if broken == 404:
        refuse(server, SAFE)
        refuse(server, PICKLE)
    else:
        server.plan[SAFE] = [Answer(broken)]
    with pytest.raises(UserError, match=rf"{source.name} could not be downloaded: http\S+ cannot"):
        with_checksum(source)
    assert len(server.requests) == 1 + (broken == 404)


def test_an_optional_file_may_be_missing(source, server):
    optional = replace(source, is_optional=True)
    refuse(server, SAFE)
    refuse(server, PICKLE)
    assert with_checksum(optional) is None
    server.plan[SAFE] = [Answer(503)]
    with pytest.raises(UserError, match="cannot be reached"):
        with_checksum(optional)


def test_files_elsewhere_are_not_asked_for(source, server):
    other = Source("file", ("http://example.com/file",))
    assert with_checksum(other) == other and not server.requests


REPOSITORY = "me/pets/resolve/main"


def point_to(monkeypatch, url):
    """Does what HF_ENDPOINT does in a new process."""
    template = f"{url}{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr(constants, "ENDPOINT", url.rstrip("/"))
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)


@pytest.fixture
def hub(server, monkeypatch, tmp_path):
    """A hub with a repository and an empty cache."""
    point_to(monkeypatch, server.url())
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    for name in ("model.onnx", "small/b.onnx", "model.pth"):
        server.files[f"{REPOSITORY}/{name}"] = name.encode()
    server.usual = Answer(headers={"X-Repo-Commit": "a" * 40, "ETag": '"1"'})
    return server


@pytest.mark.parametrize(
    "name, file", [("hf:me/pets", "model.onnx"), ("hf:me/pets/small/b.onnx", "small/b.onnx")]
)
def test_an_onnx_file_is_fetched_once(hub, name, file):
    path = fetch_onnx(name)
    assert path.read_bytes() == file.encode() and path.suffix == ".onnx"
    before = len(hub.requests)
    assert fetch_onnx(name) == path
    assert all(asked == (f"{REPOSITORY}/{file}", None) for asked in hub.requests[before:])
    hub.usual = Answer(headers={"X-Repo-Commit": "b" * 40, "ETag": '"2"'})
    hub.files[f"{REPOSITORY}/{file}"] = b"newer"
    assert fetch_onnx(name).read_bytes() == b"newer"


def test_a_file_that_was_damaged_on_its_way_is_fetched_again(hub):
    name = f"{REPOSITORY}/model.onnx"
    hub.usual = Answer(headers={"X-Repo-Commit": "a" * 40, "ETag": f'"{SHA256}"'})
    hub.files[name] = CONTENT[:-1] + b"x"
    with pytest.raises(UserError, match="was damaged while it was downloaded: run the same"):
        fetch_onnx("hf:me/pets")
    hub.files[name] = CONTENT
    assert fetch_onnx("hf:me/pets").read_bytes() == CONTENT


def test_without_a_network_the_last_file_counts(hub, monkeypatch):
    path = fetch_onnx("hf:me/pets")
    point_to(monkeypatch, "http://127.0.0.1:9/")
    assert fetch_onnx("hf:me/pets") == path
    with pytest.raises(UserError, match="hf:me/dogs cannot be reached .*where there is a network"):
        fetch_onnx("hf:me/dogs")


@pytest.mark.parametrize(
    "name", ["hf:", "hf:pets", "hf:me/pets/model.pth", "hf:me/pets/", "hf:a/b/../c.onnx"]
)
def test_onnx_alone_is_read_from_there(hub, name):
    with pytest.raises(UserError, match="names no ONNX file .*no other format is read: give hf:"):
        fetch_onnx(name)
    assert not hub.requests


@pytest.mark.parametrize(
    "name, code, said",
    [
        ("hf:me/dogs", "RepoNotFound", "hf:me/dogs is not there, or is not public: correct"),
        ("hf:me/pets/c.onnx", "EntryNotFound", "hf:me/pets has no file c.onnx: give hf:me/pets/"),
    ],
)
def test_what_the_hub_does_not_have_is_one_sentence(hub, name, code, said):
    hub.usual = Answer(404, headers={"X-Error-Code": code})
    with pytest.raises(UserError, match=said) as caught:
        fetch_onnx(name)
    assert "\n" not in str(caught.value)


def test_a_hub_that_fails_is_not_one_without_the_file(hub, monkeypatch):
    monkeypatch.setattr("time.sleep", lambda _: None)  # its client tries again, ever later
    hub.usual = Answer(500)
    with pytest.raises(UserError, match="hf:me/pets cannot be reached"):
        fetch_onnx("hf:me/pets")
