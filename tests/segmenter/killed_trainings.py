"""Kills a training with validation at chosen points; test_training_faults.py runs it apart.

A point is an open-for-write, fsync, rename, link, mkdir or remove below the output directory. Every
training runs in a fork of this process, which has imported everything. Prints a JSON line for each
point: what was about to happen, and what differs after the same run again.

Arguments: a folder for data, one for results, and a step: 1 takes all points, and n every n-th of
those after the last iteration.
"""

import json
import os
import shutil
import signal
import sys
import traceback
from pathlib import Path
from typing import Any

import torch

import pipeline.segmenter.train as training
from pipeline.files.atomic import TEMPORARY
from pipeline.segmenter.stage import Training
from tests.faults.kill_points import watch
from tests.segmenter.tiny_training import (
    FIGURES,
    pretend_to_measure,
    run_stage_in,
    shorten_logs,
    training_stage,
    write_labelled,
    write_pairs,
)


def in_fork(stage: Training, root: Path, kill_at: int | None = None) -> list[str]:
    """Trains in a fork, which is killed before a point if one is given; returns the points."""
    trace = root.with_suffix(".points")
    child = os.fork()
    if child == 0:
        code = 1
        try:
            watch(root, trace, kill_at)
            run_stage_in(stage, root)
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    wanted = 0 if kill_at is None else -signal.SIGKILL
    assert os.waitstatus_to_exitcode(status) == wanted, (kill_at, status)
    return trace.read_text().splitlines()


def contents(root: Path) -> dict[str, Any]:
    """Returns everything that a finished training leaves, but for times and logs."""
    (work_dir,) = (p for p in (root / "segmenter").iterdir() if p.is_dir() and not p.is_symlink())
    found: dict[str, Any] = {"latest": (root / "segmenter" / "latest").readlink().name}
    for path in root.rglob("*"):
        if path.suffix == ".pth":
            checkpoint = torch.load(path, weights_only=True)
            found[path.name] = {n: v.tolist() for n, v in checkpoint["state_dict"].items()}
        elif path.name.startswith(TEMPORARY) or path.is_symlink():
            found[path.relative_to(root).as_posix()] = None
    found["figures"] = figures(work_dir)
    manifest = json.loads((work_dir / "manifest.json").read_text())
    found["manifest"] = {k: manifest[k] for k in ("complete", "checkpoint", "images")}
    return found


def figures(work_dir: Path) -> dict[int, float]:
    """Iteration → mIoU, of the curves of every attempt."""
    lines = [
        json.loads(line)
        for path in sorted(work_dir.rglob("scalars.json"))
        for line in path.read_text().splitlines()
    ]
    return {line["step"]: line["mIoU"] for line in lines if "mIoU" in line}


def main(data: Path, results: Path, step: int) -> None:
    training.LOG_INTERVAL = 1
    pretend_to_measure()
    pairs, labelled = write_pairs(data / "pairs"), write_labelled(data / "val")
    stage = training_stage(pairs, labelled, iterations=max(FIGURES), validation_interval=2)
    stage.key  # noqa: B018 (computed once, before the forks)
    whole = results / "whole"
    points = in_fork(stage, whole)
    wanted = contents(whole)
    print(json.dumps({"points": len(points), "figures": wanted["figures"]}), flush=True)
    last = next(n for n, point in enumerate(points) if point.endswith(f"iter_{max(FIGURES)}.pth"))
    for number in range(last if step > 1 else 0, len(points), step):
        root = results / str(number)
        in_fork(stage, root, number)
        in_fork(stage, root)
        found = contents(root)
        known = wanted.keys() | found.keys()
        differs = sorted(k for k in known if wanted.get(k, ...) != found.get(k, ...))
        print(
            json.dumps({"point": number, "before": points[number], "differs": differs}), flush=True
        )
        shutil.rmtree(root)


if __name__ == "__main__":
    shorten_logs()
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
