"""Runs a script several times, each time in a process of its own that need not import torch again.

Such a process is a copy of this one, which has imported the large libraries and no code of ours.
That takes from each run the half of its time that such imports need; results are as usual.

    python -P tests/forked_runs.py SCRIPT JOBS < RUNS

RUNS is a list in JSON, with the arguments and the log of each run. The first one runs alone, since
it writes what the others share; then JOBS at a time. The exit codes are printed, as a list in JSON.
"""

from __future__ import annotations

import json
import os
import runpy
import sys

# Imported for the runs.
import hydra  # noqa: F401
import open_clip  # noqa: F401
import scipy.special  # noqa: F401
import skimage.segmentation  # noqa: F401
import timm  # noqa: F401
import torch  # noqa: F401
import torchvision  # noqa: F401


def start(script: str, arguments: list[str], log: str) -> int:
    """Returns the process that runs the script; in that process it does not return."""
    process = os.fork()
    if process == 0:
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
        os.dup2(output, 1)
        os.dup2(output, 2)
        sys.argv = [script, *arguments]
        runpy.run_path(script, run_name="__main__")
        sys.exit()
    return process


def run_all(script: str, jobs: int, runs: list[tuple[list[str], str]]) -> list[int]:
    """Returns the exit codes of the runs, in their order."""
    codes: dict[int, int] = {}
    running: dict[int, int] = {}
    for number, (arguments, log) in enumerate(runs):
        running[start(script, arguments, log)] = number
        # In front of the second run, and of one too many, wait for another; in the end for all.
        limit = {0: 1, len(runs) - 1: 1}.get(number, jobs)
        while len(running) >= limit:
            process, status = os.wait()
            codes[running.pop(process)] = os.waitstatus_to_exitcode(status)
    return [codes[number] for number in range(len(runs))]


if __name__ == "__main__":
    given = json.load(sys.stdin)
    print(json.dumps(run_all(sys.argv[1], int(sys.argv[2]), given)))
