"""What Hugging Face states of a file, as its real client reads it from a server of ours."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import pytest
from huggingface_hub import constants

from pipeline.errors import UserError
from pipeline.files.download import Source, fetch
from pipeline.files.hugging_face import with_checksum
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
