"""What ``make soak`` asks for: every fault many times, a time budget, and a page of the trials."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

TITLES = {
    "fault": "Interruptions and faults",
    "training": "During training",
    "input": "Input files",
    "code": "Code in input files",
}
TRIALS_BEGIN = "<!-- trials -->\n"
ENDS, LEFT_OUT = pytest.StashKey[float](), pytest.StashKey[list[str]]()
TRIED = pytest.StashKey[Counter[tuple[str, str, str]]]()


@pytest.fixture
def trial(request: pytest.FixtureRequest) -> Callable[..., None]:
    """Records a row of docs/reliability-tables.md: trial(kind, what, outcome, times=1)."""

    def record(kind: str, what: str, outcome: str, times: int = 1) -> None:
        request.config.stash[TRIED][kind, what, outcome] += times

    return record


@pytest.fixture(scope="session")
def kills(request: pytest.FixtureRequest) -> int:
    """How often every stage is killed."""
    return 30 if request.config.getoption("--soak") else 1


def pytest_addoption(parser: pytest.Parser) -> None:
    """Adds the options of ``make soak``."""
    parser.addoption("--soak", action="store_true", help="repeat every fault as often as make soak")
    parser.addoption("--table", metavar="FILE", help="write the trials and their results to a page")
    parser.addoption("--minutes", type=float, help="leave out the tests that would begin later")


def pytest_sessionstart(session: pytest.Session) -> None:
    """Notes when the time budget ends."""
    minutes, stash = session.config.getoption("--minutes"), session.config.stash
    stash[ENDS] = math.inf if minutes is None else time.monotonic() + 60 * minutes
    stash[LEFT_OUT], stash[TRIED] = [], Counter()


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Leaves out what takes too long without ``--soak``, and what the budget has no room for."""
    if item.get_closest_marker("soak") and not item.config.getoption("--soak"):
        pytest.skip("make soak does it")
    if time.monotonic() > item.config.stash[ENDS]:
        item.config.stash[LEFT_OUT].append(item.nodeid)
        pytest.skip("the time budget is used up")


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Writes the trials to the end of a page, docs/reliability-tables.md."""
    table, stash = session.config.getoption("--table"), session.config.stash
    if table is None or exitstatus != 0:  # a table of failures would be no promise
        return
    lines = []
    for kind, title in TITLES.items():
        rows = sorted((*row, times) for (k, *row), times in stash[TRIED].items() if k == kind)
        if rows:
            lines += [f"### {title}", "", "| what | tried | what happened |", "|---|---:|---|"]
        for what, outcome, times in rows:
            cells = [cell.replace("|", "\\|") for cell in (what, str(times), outcome)]
            lines.append(f"| {' | '.join(cells)} |")
        lines += [""] * bool(rows)
    if left_out := [f"* `{node}`" for node in stash[LEFT_OUT]]:
        lines += ["### Skipped when the time budget ended", "", *left_out, ""]
    page = Path(table)
    before = page.read_text(encoding="utf-8") if page.exists() else ""
    page.write_text(
        "\n".join([before.partition(TRIALS_BEGIN)[0] + TRIALS_BEGIN, *lines]), encoding="utf-8"
    )
