"""Every batch is of one shape, and few items wait."""

from __future__ import annotations

from pipeline.clip.batches import batch_by_shape


def batches(letters: str, size: int, max_waiting: int) -> list[str]:
    """Batches letters, each of which is its own shape."""
    grouped = batch_by_shape(letters, lambda letter: letter, lambda _: size, max_waiting)
    return ["".join(batch) for batch in grouped]


def test_a_batch_is_yielded_when_it_is_full():
    assert batches("abababcab", 3, 100) == ["aaa", "bbb", "c", "a", "b"]
    assert batches("abc", 1, 0) == ["a", "b", "c"]
    assert batches("", 3, 5) == []


def test_no_more_wait_than_allowed_and_the_oldest_are_yielded_first():
    assert batches("abcabcd", 3, 3) == ["aa", "bb", "cc", "d"]
    assert batches("abcde", 2, 1) == ["a", "b", "c", "d", "e"]
