"""The app in a process of its own, as its command starts it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

from tests import REPOSITORY


class Started:
    """An app in a process of its own.

    Attributes:
        address: of its page, with the token.
    """

    def __init__(self, *words: object, cwd: Path = REPOSITORY):
        command = [sys.executable, "-m", "pipeline", "app", *map(str, words)]
        paths = filter(None, [str(REPOSITORY), os.environ.get("PYTHONPATH")])
        environment = {
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": os.pathsep.join(paths),
        }
        self.process = subprocess.Popen(
            [*command, "--no-browser"],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=cwd,
            env=environment,
        )
        line = self.process.stdout.readline()
        found = re.match(r"open (http://127\.0\.0\.1:\d+/\?token=\S+)", line)
        assert found, line + self.process.stdout.read()
        self.address = found[1]

    def end(self) -> int:
        """Ends it as Ctrl-C does; returns the exit code."""
        self.process.send_signal(signal.SIGINT)
        code = self.process.wait(60)
        self.process.stdout.close()
        return code
