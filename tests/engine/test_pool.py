"""Work in processes: what dying ones leave undone, and whom it is blamed on."""

from __future__ import annotations

import os
import signal
import time
from concurrent.futures import Future
from pathlib import Path

import pytest

from pipeline.engine.pool import DIED, ProcessPool, in_processes, spread
from pipeline.errors import ImageError, UserError


@pytest.fixture
def pool():
    pool = ProcessPool(2)
    yield pool
    pool.close(at_once=True)


def double(number: int) -> int:
    return 2 * number


def die_of_seven(number: int) -> int:
    if number == 7:
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(0.02)
    return 2 * number


def die_once(item: tuple[int, Path]) -> int:
    number, marker = item
    if number == 3 and not marker.exists():
        marker.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return 2 * number


def refuse(number: int) -> int:
    raise UserError(f"no {number}: give another")


def interrupted(number: int) -> bool:
    os.kill(os.getpid(), signal.SIGINT)
    return True


def test_every_item_comes_back_with_its_result(pool):
    assert sorted(spread(pool, double, range(20))) == [(n, 2 * n) for n in range(20)]


def test_only_the_item_that_kills_its_workers_is_given_up(pool):
    found = dict(spread(pool, die_of_seven, range(12)))
    assert isinstance(found.pop(7), ImageError)
    assert found == {n: 2 * n for n in range(12) if n != 7}
    images = dict(in_processes(range(5, 9), die_of_seven, 2))
    assert isinstance(images[7], ImageError) and str(images[7]) == DIED
    assert images[8] == 16


@pytest.mark.large
def test_an_item_whose_worker_dies_once_is_done_by_another(pool, tmp_path):
    items = [(number, tmp_path / "died") for number in range(8)]
    assert {item[0]: n for item, n in spread(pool, die_once, items)} == {n: 2 * n for n in range(8)}
    assert (tmp_path / "died").exists()


def test_errors_of_the_work_and_of_the_items_are_raised_here(pool):
    with pytest.raises(UserError, match=r"no \d: give another"):
        list(spread(pool, refuse, range(3)))

    def broken():
        yield 4
        raise KeyError("network")

    with pytest.raises(KeyError, match="network"):
        list(in_processes(broken(), double, 2))


@pytest.mark.parametrize("workers", [1, 2])
def test_items_are_not_taken_far_ahead(workers):
    taken = []

    def items():
        for number in range(9):
            taken.append(number)
            yield number

    results = in_processes(items(), double, workers)
    next(results)
    assert len(taken) <= workers + 1
    assert len(list(results)) == 8


def test_an_interrupt_is_for_the_first_process_alone(pool):
    assert dict(spread(pool, interrupted, [1, 2])) == {1: True, 2: True}


class BreakingPool:
    """Breaks when it is given work while it is broken, as a process pool may at any moment."""

    size, deaths = 2, (ConnectionError,)

    def __init__(self, deaths: int):
        self.left = deaths

    def submit(self, work, *arguments):
        future = Future()
        if self.left:
            self.left -= 1
            future.set_exception(ConnectionError())
        else:
            future.set_result(work(*arguments))
        return future


def test_workers_that_die_of_everything_end_the_run():
    """Otherwise up to ten images would count as left out, and the run as a success."""
    with pytest.raises(UserError, match="processes die whatever image"):
        list(spread(BreakingPool(deaths=99), double, range(20)))
    found = dict(spread(BreakingPool(deaths=99), double, [1, 2]))
    assert all(isinstance(result, ImageError) for result in found.values())


class CancellingPool:
    """Cancels all work, as dask's client does when its scheduler has ended."""

    size, deaths = 2, ()

    def submit(self, work, *arguments):
        future = Future()
        future.cancel()
        future.set_running_or_notify_cancel()
        return future


def test_a_scheduler_that_ends_is_said():
    with pytest.raises(UserError, match="scheduler .* ended: start it"):
        list(spread(CancellingPool(), double, [1, 2, 3]))


def test_items_are_tried_alone_before_they_are_given_up():
    assert dict(spread(BreakingPool(deaths=4), double, [1, 2])) == {1: 2, 2: 4}
    found = dict(spread(BreakingPool(deaths=5), double, [1]))
    assert isinstance(found[1], ImageError)
