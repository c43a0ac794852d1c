"""What tests cost: CPU seconds of each file, and counts that are the same on every machine."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections import Counter
from multiprocessing.process import BaseProcess

import numpy as np
import pytest

from tests import IN_CI

LIMITS = {
    "tools run": 1_330,
    "pipelines opened": 3_420,
    "trainings": 137,
    "processes started": 600,
    "modules of tests imported": 715,
}
"""What both processes of ``make test`` may come to. CI fails beyond; see :meth:`Costs.judge`."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Adds what shows where the time goes."""
    parser.addoption("--costs", action="store_true", help="print what each file of tests costs")


def pytest_configure(config: pytest.Config) -> None:
    """Counts when asked, and in CI."""
    if config.getoption("--costs") or IN_CI:
        config.pluginmanager.register(Costs())


class Costs:
    """Counts in each process that runs tests; the one that reports adds up."""

    def __init__(self) -> None:
        self.found = {name: Counter() for name in ("seconds", "tests", "counts")}
        self.loops: list[float] = []

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Begins to count, unless xdist has other processes run the tests."""
        self.found["seconds"]["collection"] = _cpu_seconds()
        if session.config.pluginmanager.hasplugin("dsession"):
            return
        from pipeline.segmenter.runner import QuietRunner
        from pipeline.stages.pipeline import Pipeline
        from tests import conftest

        self.loops += _loops()
        imported = sum(name.startswith("tests.") for name in sys.modules)
        self.found["counts"]["modules of tests imported"] = imported
        self._count("tools run", conftest, "Finished")
        self._count("pipelines opened", Pipeline, "__init__")
        self._count("trainings", QuietRunner, "train")
        self._count("processes started", subprocess.Popen, "__init__")
        self._count("processes started", BaseProcess, "start")

    def _count(self, what: str, owner: object, name: str) -> None:
        called = getattr(owner, name)

        def counted(*args, **kwargs):
            self.found["counts"][what] += 1
            return called(*args, **kwargs)

        setattr(owner, name, counted)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item):
        """Adds the CPU seconds of a test, and of processes that it waited for, to its file's."""
        before, file = _cpu_seconds(), item.nodeid.partition("::")[0]
        ran = yield
        self.found["seconds"][file] += _cpu_seconds() - before
        self.found["tests"][file] += 1
        return ran

    def pytest_testnodedown(self, node) -> None:
        """Adds what a process of xdist counted; one that crashed has counted nothing."""
        found, loops = getattr(node, "workeroutput", {}).get("costs", ({}, []))
        for name in found:
            self.found[name].update(found[name])
        self.loops += loops

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Sends what was counted, or judges it."""
        self.found["seconds"]["all"] += _cpu_seconds()
        self.loops += _loops() if self.found["counts"] else []
        if hasattr(session.config, "workeroutput"):
            found = {name: dict(counter) for name, counter in self.found.items()}
            session.config.workeroutput["costs"] = found, self.loops
        elif self.judge(session.config) and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def judge(self, config: pytest.Config) -> list[str]:
        """Returns what was too much; no limit holds for some of the files, or another tier."""
        chosen = config.args_source, config.option.markexpr, config.option.keyword
        is_whole = chosen == (config.ArgsSource.TESTPATHS, "not large and not extras", "")
        if not is_whole or not IN_CI:
            return []
        return [what for what, most in LIMITS.items() if self.found["counts"][what] > most]

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Prints what was counted."""
        write, seconds = terminalreporter.write_line, self.found["seconds"]
        total, loop = seconds.pop("all"), statistics.median(self.loops or [1])
        write(f"{total:.0f} CPU seconds, {total / loop:.0f} times the loop of {loop:.3f} s")
        for what, most in LIMITS.items():
            write(f"{self.found['counts'][what]:6} {what}, at most {most}")
        for what in self.judge(terminalreporter.config):
            write(f"error: too many {what}: share them, or raise LIMITS in tests/costs.py")
        if terminalreporter.config.getoption("--costs"):
            for file, taken in seconds.most_common():
                write(f"{taken:7.1f} s {self.found['tests'][file]:5} tests  {file}")


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
        sum(len(str(number)) for number in range(500_000))
        taken.append(time.process_time() - before)
    return taken
