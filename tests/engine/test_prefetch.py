"""Results come in order and no further ahead than allowed; batches are of one shape."""

from __future__ import annotations

import threading

import pytest

from pipeline.engine.prefetch import ahead, by_shape


def test_work_is_done_ahead_in_order_and_within_bounds():
    begun: list[int] = []
    lock = threading.Lock()

    def work(item: int) -> int:
        with lock:
            begun.append(item)
        return item**2

    taken = 0
    for item, result in ahead(range(50), work, workers=3, most=4):
        assert (item, result) == (taken, taken**2)
        taken += 1
        assert max(begun) < taken + 4
    assert taken == 50 and sorted(begun) == list(range(50))


def test_an_error_comes_where_its_result_is_taken():
    results = ahead([1, 0, 2], lambda item: 1 // item, workers=1, most=2)
    assert next(results) == (1, 1)
    with pytest.raises(ZeroDivisionError):
        next(results)


def batches(items: list[str], size: int, most: int) -> list[str]:
    """Batches letters by what they are."""
    return ["".join(b) for b in by_shape(items, lambda item: item, lambda _: size, most)]


def test_a_batch_leaves_when_it_is_full():
    assert batches(list("abababcab"), 3, 100) == ["aaa", "bbb", "c", "a", "b"]
    assert batches(list("abc"), 1, 0) == ["a", "b", "c"]
    assert batches([], 3, 5) == []


def test_no_more_wait_than_allowed_and_the_oldest_leaves_first():
    assert batches(list("abcabcd"), 3, 3) == ["aa", "bb", "cc", "d"]
    assert batches(list("abcde"), 2, 1) == ["a", "b", "c", "d", "e"]
