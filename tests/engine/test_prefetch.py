"""Prefetched results come in order, and no more than allowed are pending."""

from __future__ import annotations

import threading

import pytest

from pipeline.engine.pool import prefetch


def test_results_come_in_order_and_few_are_pending():
    started: list[int] = []
    lock = threading.Lock()

    def work(item: int) -> int:
        with lock:
            started.append(item)
        return item**2

    taken = 0
    for item, result in prefetch(range(50), work, workers=3, max_pending=4):
        assert (item, result) == (taken, taken**2)
        taken += 1
        assert max(started) < taken + 4
    assert taken == 50 and sorted(started) == list(range(50))


def test_an_error_is_raised_where_its_result_is_taken():
    results = prefetch([1, 0, 2], lambda item: 1 // item, workers=1, max_pending=2)
    assert next(results) == (1, 1)
    with pytest.raises(ZeroDivisionError):
        next(results)
