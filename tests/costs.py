"""What tests cost: CPU seconds of each file, and counts that are the same on every machine."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from functools import wraps
from multiprocessing.process import BaseProcess

import numpy as np
import pytest

LIMITS = {
    "tools run": 10_000,
    "pipelines opened": 10_000,
    "trainings": 10_000,
    "processes started": 10_000,
    "modules of tests imported": 10_000,
}
"""What the two processes of ``make test`` may come to; see docs/development.md."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Adds what shows where the time goes."""
    parser.addoption("--costs", action="store_true", help="print what each file of tests costs")


def pytest_configure(config: pytest.Config) -> None:
    """Counts when asked, and in CI."""
    if config.getoption("--costs") or os.environ.get("CI"):
        config.pluginmanager.register(Costs(config))


class Costs:
    """Counts in each process that runs tests; the one that reports adds up."""

    def __init__(self, config: pytest.Config) -> None:
        self.seconds: Counter[str] = Counter()
        self.tests: Counter[str] = Counter()
        self.counts: Counter[str] = Counter()
        self.loops: list[float] = []
        # No limit holds for some of the files, or for another tier.
        self.is_whole = (
            config.args_source == config.ArgsSource.TESTPATHS
            and config.option.markexpr == "not large and not extras"
            and not config.option.keyword
        )

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Begins to count, unless xdist has other processes run the tests."""
        self.seconds["collection"] = _cpu_seconds()
        if session.config.pluginmanager.hasplugin("dsession"):
            return
        self.loops += _loops()
        self.counts["modules of tests imported"] = sum(m.startswith("tests.") for m in sys.modules)
        from pipeline.segmenter.runner import QuietRunner
        from pipeline.stages.pipeline import Pipeline
        from tests import conftest

        self._count("tools run", conftest, "Finished")
        self._count("pipelines opened", Pipeline, "__init__")
        self._count("trainings", QuietRunner, "train")
        self._count("processes started", subprocess.Popen, "__init__")
        self._count("processes started", BaseProcess, "start")

    def _count(self, what: str, owner: object, name: str) -> None:
        called: Callable = getattr(owner, name)

        @wraps(called)
        def counted(*args, **kwargs):
            self.counts[what] += 1
            return called(*args, **kwargs)

        setattr(owner, name, counted)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        """Adds the CPU seconds of a test, and of processes that it waited for, to its file's."""
        before, file = _cpu_seconds(), item.nodeid.partition("::")[0]
        ran = yield
        self.seconds[file] += _cpu_seconds() - before
        self.tests[file] += 1
        return ran

    def pytest_testnodedown(self, node) -> None:
        """Adds what a process of xdist counted; one that crashed has counted nothing."""
        output = getattr(node, "workeroutput", {})
        for name in ("seconds", "tests", "counts"):
            getattr(self, name).update(output.get(name, {}))
        self.loops += output.get("loops", [])

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Sends what was counted, or judges it."""
        self.seconds["all"] += _cpu_seconds()
        self.loops += _loops() if self.counts else []
        if hasattr(session.config, "workeroutput"):
            session.config.workeroutput.update(
                seconds=dict(self.seconds),
                tests=dict(self.tests),
                counts=dict(self.counts),
                loops=self.loops,
            )
        elif self._exceeded() and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def _exceeded(self) -> list[str]:
        if not (self.is_whole and os.environ.get("CI")):
            return []
        return [what for what, limit in LIMITS.items() if self.counts[what] > limit]

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Prints what was counted."""
        write = terminalreporter.write_line
        seconds, loop = self.seconds.pop("all", 0), statistics.median(self.loops or [1])
        write(f"{seconds:.0f} CPU seconds, {seconds / loop:.0f} times the loop of {loop:.3f} s")
        for what, limit in LIMITS.items():
            write(f"{self.counts[what]:6} {what} (at most {limit})")
        for what in self._exceeded():
            write(f"error: too many {what}: share them, or raise LIMITS in tests/costs.py")
        if terminalreporter.config.getoption("--costs"):
            for file, taken in self.seconds.most_common():
                write(f"{taken:7.1f} s {self.tests[file]:5} tests  {file}")


def _cpu_seconds() -> float:
    return sum(os.times()[:4])


def _loops() -> list[float]:
    """Returns how long the same work takes on this machine, a few times."""
    taken = []
    for _ in range(5):
        before = time.process_time()
        values = np.arange(200_000, dtype=np.float64)
        for _ in range(40):
            values = np.sqrt(np.sort(values[::-1] * 1.0001))
        total = 0
        for number in range(500_000):
            total += len(str(number)) & number
        taken.append(time.process_time() - before)
    return taken
