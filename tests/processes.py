"""Processes that can be watched and killed: forks of one that has imported everything already.

    python tests/processes.py MODULE...

A name MODULE:FUNCTION is called, too. Each line of standard input begins a process, one at a
time, as JSON: its ``arguments``; the ``calls`` that it makes, each a list of MODULE:FUNCTION and
what that is given; the file for its ``output``; perhaps a call ``before`` the fork. It is answered
by the number of the process, and at its end by its exit code, negative for a signal.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2")


class Run:
    """A process that was started."""

    def __init__(self, forks: subprocess.Popen, output: Path):
        self._forks = forks
        self._output = output
        self.process = self._answer()
        self._code: int | None = None

    def _answer(self) -> int:
        readable, _, _ = select.select([self._forks.stdout], [], [], 600)
        assert readable, f"it hangs: {self.output}"
        return int(self._forks.stdout.readline())

    def send(self, number: signal.Signals) -> None:
        """Sends a signal to the whole process group, as a terminal and a batch system do."""
        os.killpg(self.process, number)

    def kill(self, number: signal.Signals = signal.SIGKILL) -> None:
        """Kills only this process, as the system does when memory runs out."""
        with contextlib.suppress(ProcessLookupError):  # it has ended
            os.kill(self.process, number)

    def wait(self) -> int:
        """Returns the exit code, negative for a signal."""
        if self._code is None:
            self._code = self._answer()
        return self._code

    def members(self) -> list[int]:
        """Returns the processes of its group that live: itself first, then those it started."""
        members = []
        for status in Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(OSError, ValueError):  # it has just ended
                state, _, group, *_ = status.read_text().rpartition(")")[2].split()
                if int(group) == self.process and state != "Z":
                    members.append(int(status.parent.name))
        return sorted(members)

    @property
    def is_running(self) -> bool:
        """Whether nobody has waited for its end."""
        return self._code is None

    @property
    def output(self) -> str:
        """What it printed so far."""
        return self._output.read_text(errors="replace") if self._output.exists() else ""


class Forks:
    """Starts processes, one at a time, without the seconds that imports take.

    Args:
        preloaded: what the forked process imports, or calls, at its start.
        folder: where the output of each process lies.
        launcher: the command that starts the forked process.
        cwd: its folder.
        environment: further variables of its environment.
    """

    def __init__(
        self,
        *preloaded: str,
        folder: Path,
        launcher: Sequence[str] = (),
        cwd: Path = REPOSITORY,
        **environment: str,
    ):
        self._folder, self._count = folder, 0
        self._last: Run | None = None
        self.server = subprocess.Popen(
            [*launcher, sys.executable, "-P", __file__, *preloaded],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            cwd=cwd,
            env={**os.environ, "PYTHONPATH": str(REPOSITORY), **environment},
        )

    def call(self, *calls: Sequence[object], output: Path | None = None, **order: object) -> Run:
        """Starts a process that makes some calls."""
        if self._last is not None and self._last.is_running:  # a test failed before its end
            self._last.kill()
            self._last.wait()
        self._count += 1
        output = output or self._folder / f"output-{self._count}.txt"
        order |= {"calls": calls, "output": output}
        self.server.stdin.write(json.dumps(order, default=str) + "\n")
        self.server.stdin.flush()
        self._last = Run(self.server, output)
        return self._last

    def run_tool(self, *words: object, first: Sequence = (), **order: object) -> Run:
        """Starts a program with arguments, after some ``first`` calls."""
        as_program = ["runpy:run_path", words[0], None, "__main__"]
        return self.call(*first, as_program, arguments=[*map(str, words)], **order)

    def close(self) -> None:
        """Ends the process that starts them."""
        self.server.stdin.close()
        self.server.terminate()  # another fork may hold the pipe open
        self.server.wait(30)


def run_python(
    *words: object, cwd: Path = REPOSITORY, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Runs Python with some words to its end, and with further variables of the environment."""
    command, variables = [sys.executable, *map(str, words)], {**os.environ, **environment}
    captured = {"capture_output": True, "encoding": "utf-8", "timeout": 600}
    return subprocess.run(command, cwd=cwd, env=variables, **captured)


def wait_until(condition: Callable[[], bool], seconds: float = 300.0, poll: float = 0.001) -> None:
    """Waits for something to happen in another process."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(poll)


# In the process that is forked, and in its forks


def call(name: str, *given: object) -> None:
    """Imports MODULE, or calls MODULE:FUNCTION."""
    module, _, function = name.partition(":")
    imported = importlib.import_module(module)
    if function:
        getattr(imported, function)(*given)


def become(order: dict) -> None:
    """Makes the calls of an order, and ends this process as a program ends."""
    sys.argv = order.get("arguments", [""])
    # A shell has the runs that it starts in the background ignore Ctrl-C.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.setpgid(0, 0)  # a group of its own, as a shell gives every command
    output = os.open(order["output"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    for stream in (1, 2):
        os.dup2(output, stream)
    for each in order["calls"]:
        call(*each)
    sys.exit()


def main(preloaded: Sequence[str]) -> None:
    """Starts processes until standard input ends."""
    gc.disable()  # nothing that is imported becomes garbage
    for name in preloaded:
        call(name)
    gc.freeze()
    atexit.register(gc.unfreeze)  # in each fork: else libraries complain of what they see alive
    gc.enable()
    for line in sys.stdin:
        order = json.loads(line)
        if before := order.get("before"):
            call(*before)
        child = os.fork()
        if child == 0:
            become(order)
        print(child, flush=True)
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
