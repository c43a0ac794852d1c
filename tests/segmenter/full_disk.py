"""Trains on a small file system until it is full; test_training_faults.py runs it apart.

Prints a JSON line for every try: how it ended, what it said, and what it left.

Arguments: a folder for data, one to mount the file system at, and the number of tries.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

import pipeline.segmenter.train as training
from pipeline.commands.command_line import answer
from pipeline.segmenter.checkpoints import best_checkpoints, complete_checkpoints
from pipeline.segmenter.settings import SegmenterSettings
from tests.segmenter.tiny_training import (
    CLASS_NAMES,
    PALETTE,
    pretend_to_measure,
    shorten_logs,
    tiny_settings,
    write_labelled,
    write_pairs,
)

SETTINGS = tiny_settings(validation_interval=2, learning_rate=0.1)


def main(data: Path, small: Path, tries: int) -> None:
    pretend_to_measure()
    training.LOG_INTERVAL = 1  # so that logs and curves are written as often as anything else
    pairs, labelled = write_pairs(data / "pairs"), write_labelled(data / "val")

    def learn(work_dir: Path, settings: SegmenterSettings = SETTINGS) -> None:
        training.train(settings, pairs, CLASS_NAMES, PALETTE, work_dir, 3, validation=labelled)

    learn(data / "undisturbed")
    wanted = contents(data / "undisturbed")
    size = (data / "undisturbed" / "iter_5.pth").stat().st_size
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={12 * size}", "tmpfs", small], check=True)
    shares = [4.2 * number / (tries - 1) for number in range(tries)]  # of the last checkpoint
    for number, share in enumerate(shares):
        work_dir = small / str(number)
        filler = fill(small, round(share * size))
        ended = attempt(lambda work_dir=work_dir: learn(work_dir))
        left = {
            "kept": sorted(p.name for p in complete_checkpoints(work_dir)),
            "best": sorted(p.name for p in best_checkpoints(work_dir)),
            "torn": sorted(p.name for p in work_dir.rglob("*.pth") if not is_intact(p)),
            "partial": len(list(work_dir.rglob(".partial-*"))),
        }
        filler.unlink()
        again = attempt(lambda work_dir=work_dir: learn(work_dir))
        same = again["code"] == 0 and contents(work_dir) == wanted
        print(json.dumps({"share": share, **ended, **left, "resumed": again, "same": same}))
        subprocess.run(["rm", "-r", work_dir], check=True)

    # A folder that can only be read, with a training in it and without.
    learn(small / "begun", replace(SETTINGS, iterations=3))
    subprocess.run(["mount", "-o", "remount,ro", small], check=True)
    for name in ("begun", "new"):
        ended = attempt(lambda name=name: learn(small / name))
        print(json.dumps({"read_only": name, **ended}))


def fill(small: Path, left: int) -> Path:
    """Writes a file that leaves some bytes of the file system, and returns it."""
    state = os.statvfs(small)
    filler = small / "filler"
    filler.write_bytes(bytes(max(0, state.f_bavail * state.f_frsize - left)))
    return filler


def attempt(learn: Callable[[], None]) -> dict[str, Any]:
    """Trains as a tool does; returns its exit code and all that it printed on stderr."""
    with tempfile.TemporaryFile() as printed:
        before = os.dup(2)
        os.dup2(printed.fileno(), 2)
        code = 0
        try:
            answer(lambda arguments: learn())
        except SystemExit as ended:
            code = ended.code
        except BaseException:
            import traceback

            code = 1
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os.dup2(before, 2)
            os.close(before)
        printed.seek(0)
        return {"code": code, "errors": printed.read().decode()}


def contents(work_dir: Path) -> dict[str, Any]:
    """Returns the checkpoints' weights, as lists."""
    written = {}
    for path in work_dir.glob("*.pth"):
        weights = torch.load(path, weights_only=True)["state_dict"]
        written[path.name] = {name: value.tolist() for name, value in weights.items()}
    return written


def is_intact(path: Path) -> bool:
    try:
        torch.load(path, weights_only=True)
    except Exception:
        return False
    return True


if __name__ == "__main__":
    shorten_logs()
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
