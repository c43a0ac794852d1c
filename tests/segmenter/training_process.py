"""A training in a session of its own, whose processes can be watched and killed."""

import os
import signal
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent


def environment():
    return {**os.environ, "PYTHONPATH": str(HERE.parents[1])}


class Training:
    """A training in processes of its own, in a session of their own."""

    def __init__(self, pairs, root):
        self.process = subprocess.Popen(
            [sys.executable, HERE / "loaded_run.py", pairs[0].image.parent, root],
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def wait_for(self, iteration):
        for line in self.process.stdout:
            if line.strip() == str(iteration):
                return
        raise AssertionError(self.process.stderr.read())

    def members(self):
        """Returns the processes of the session that live: the training first, then loaders."""
        members = []
        for status in Path("/proc").glob("[0-9]*/stat"):
            try:
                state, _, _, session = status.read_text().rpartition(")")[2].split()[:4]
            except (OSError, ValueError):  # it has just ended
                continue
            if int(session) == self.process.pid and state != "Z":
                members.append(int(status.parent.name))
        return sorted(members)

    def end(self):
        """Waits for the end; returns the exit code and what it said."""
        try:
            _, errors = self.process.communicate(timeout=300)
        finally:
            for member in self.members() if self.process.poll() is None else ():
                os.kill(member, signal.SIGKILL)
        return self.process.returncode, errors
