"""Tokenizers that come as files."""

from __future__ import annotations

import pytest

from pipeline.clip.weights.tokenizers import read_tokenizer
from pipeline.errors import UserError
from tests.extras import library


def word_level(path, words, **more):
    """Writes a tokenizer of whole words."""
    tokenizers = library("tokenizers")
    numbers = {word: number for number, word in enumerate(words)}
    model = tokenizers.models.WordLevel(numbers, unk_token=more.pop("unknown", words[0]))
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    if more.pop("padding", False):
        tokenizer.enable_padding(length=16)
        tokenizer.enable_truncation(2)
    tokenizer.save(str(path))
    return path


@pytest.mark.extras
def test_a_json_gives_the_numbers_of_a_sentence_without_padding(tmp_path):
    path = word_level(tmp_path / "tokenizer.json", ["?", "a", "cat", "sat"], padding=True)
    assert read_tokenizer(path, 9)("a cat sat") == [1, 2, 3]
    assert read_tokenizer(path, 2)("a cat sat") == [1, 2]
    word_level(path, ["?", "sat", "a", "cat"])
    assert read_tokenizer(path, 9)("a cat sat") == [2, 3, 1], "the file is read anew"


@pytest.mark.extras
def test_a_tokenizer_that_cannot_be_used_is_refused(tmp_path):
    path = word_level(tmp_path / "tokenizer.json", ["?", "a"])
    with pytest.raises(UserError, match="has no tokens for"):
        read_tokenizer(path, 9)(" ")
    word_level(path, ["a", "b"], unknown="missing")
    with pytest.raises(UserError, match="cannot read cat"):
        read_tokenizer(path, 9)("cat")
    path.write_text("{}")
    with pytest.raises(UserError, match="is damaged or not a tokenizer"):
        read_tokenizer(path, 9)
    pieces = tmp_path / "tokenizer.model"
    pieces.write_bytes(b"no pieces")
    with pytest.raises(UserError, match="is damaged or not a tokenizer"):
        read_tokenizer(pieces, 9)


def test_a_package_that_is_missing_is_named(tmp_path, monkeypatch):
    def missing(name):
        raise ModuleNotFoundError(name=name)

    monkeypatch.setattr("pipeline.clip.weights.tokenizers.import_module", missing)
    with pytest.raises(UserError, match="sentencepiece: install the extra"):
        read_tokenizer(tmp_path / "tokenizer.model", 9)
