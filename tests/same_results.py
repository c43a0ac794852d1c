"""Shows that a change of the code keeps the bytes of results: runs two trees and compares.

    make same-results BASE=COMMIT                    # this working tree and a commit
    python -m tests.same_results COMMIT --keep DIR   # the commit's results are computed once
    python -m tests.same_results --base CHECKOUT     # instead of a commit, a folder that has one
    python -m tests.same_results COMMIT --only piaa rounds

Both trees run the configurations below on a few scenes of the demo, each in processes of its own
with one thread. Compared are arrays and tensors bit by bit, PNGs and text byte by byte, and values
of journals, manifests and metrics except times, versions, host, and fingerprints of settings and
inputs. Names of folders may differ: among the results of a stage on a split, those that differ
least are a pair. Logs, text embeddings, pages, and what PIAA stores before prototypes are not
compared.

With --keep, DIR holds the results of both trees: of the commit in a folder named after it, which
later calls reuse, of this tree in one with the tree's name. Exit code 0: all results are equal,
but for differences from this commit in KNOWN; 1: others differ; 2: the other commit cannot be run.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from queue import SimpleQueue
from tempfile import TemporaryDirectory

from tests import REPOSITORY, compared_programs
from tests.compared_programs import PROGRAMS, write_inputs
from tests.compared_results import Comparison, compare_outputs
from tests.processes import Forks
from tests.small_runs import TINY_SEGMENTER

EVERY = (
    *("dataset=demo", "clip=demo", "dataset.limit=4", "seed=0"),
    *("runtime.device=cpu", "runtime.threads=1", "runtime.workers=1"),
)
"""What every run is told, beside the folders of its output and of the scenes."""

_TRAINING = (*TINY_SEGMENTER, "segmenter.crop_size=64", "segmenter.iterations=4")
_VAL = ("dataset.split=val", "stage=[tags,cams,masks,evaluate]")
_WORKERS = ("executor.workers=2", "executor.threads=1", "dataset.limit=8")

_MEASURED = (
    "segmenter.batch_size=4",
    "segmenter.accumulate=2",
    "segmenter.validation_interval=2",
    "segmenter.checkpoint=best",
)

CONFIGURATIONS: dict[str, Sequence[Sequence[str]]] = {
    "chain": [(*_TRAINING, "stage=all")],
    "alpha": [(*_VAL, "tags.alpha=0.2")],
    "given": [(*_VAL, "tags=ground_truth")],
    "excel": [(*_VAL, "cams=excel")],
    "dense": [("dataset.split=val", "stage=[masks,evaluate]", "cams=sclip", "masks=dense")],
    "regions": [(*_VAL, "masks=regions")],
    "par": [(*_VAL, "masks=par")],
    "piaa": [(*_VAL, "tags=piaa", "tags.bank_size=32")],
    "piaa_sc_clip": [(*_VAL, "tags=piaa", "tags.encoder=sc_clip", "tags.crop=true")],
    "z": [(*_VAL, "tags.standardise=[image,class]", "tags.z=0.5")],
    "rounds": [
        (
            *(*_TRAINING, "stage=[tags,cams,masks,train,predict,evaluate]", "rounds=2"),
            "self_training.confidence=0.1",
        )
    ],
    "processes": [(*_VAL, "executor=processes", *_WORKERS)],
    "dask": [(*_VAL, "executor=dask", *_WORKERS)],
    "corrected": [
        _VAL,
        (*_VAL, "tags.corrections=INPUTS/tags.csv", "masks.corrections=INPUTS/masks"),
    ],
    "threshold": [_VAL, (*_VAL, "tags.min_score=0.7")],
    "files": [
        (*_VAL, "tags=file", "tags.path=INPUTS/tags.txt"),
        (*_VAL, "cams=file", "cams.path=INPUTS/cams"),
        (*_VAL, "masks=regions", "masks.regions=INPUTS/regions"),
        (*_VAL, "masks=file", "masks.path=INPUTS/masks", "runtime.max_failures=1"),
    ],
    "second": [
        (*_VAL, "cams=proxyclip_demo"),
        ("dataset.split=val", "stage=[masks,evaluate]", "cams=lposs_demo", "masks=dense"),
    ],
    "one_pass": [(*_VAL, "runtime.one_pass=true", "runtime.workers=2")],
    "validated": [
        (*_TRAINING, *_MEASURED, "stage=[tags,cams,masks,train]"),
        (*_TRAINING, *_MEASURED, "segmenter.precision=bf16", "stage=train"),
    ],
    "resumed": [
        (
            "interrupted",
            *_TRAINING,
            "segmenter.checkpoint_interval=2",
            "stage=[tags,cams,masks,train]",
        ),
        (*_TRAINING, "segmenter.checkpoint_interval=2", "stage=[train,predict,evaluate]"),
    ],
    "api": [("labelled",)],
}
"""The runs of each, which share an output directory: overrides, perhaps after the name of one of
``PROGRAMS``. INPUTS is the folder that :func:`write_inputs` fills."""

REUSING = ("corrected", "threshold")
"""Those of which the last run takes over results of the one before."""

KNOWN: dict[str, dict[str, str]] = {
    "ae2647da6b": {
        r"/(manifest|metrics)\.json: \S*counterparts\b.*new": "results name those of other splits",
    },
    "f45e1cba69": {
        r"/metrics\.json: \S*settings\b.*new": "figures have the settings that change them",
    },
}
"""Base, as ``git rev-parse --short=10`` names it → expression that finds "configuration/file: what
differs" → why it differs on purpose. No later base has these differences."""

_LIBRARIES = ("hydra", "open_clip", "scipy.special", "skimage.segmentation", "timm", "torch")
_LIBRARIES += ("torchvision",)  # imported for the runs, as no code of ours is
_ENVIRONMENT = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}


def describe(configuration: str, found: Comparison, known: Mapping[str, str]) -> tuple[str, bool]:
    """Returns what is printed about a configuration, and whether its results are as they were.

    ``known`` are the differences on purpose, as in ``KNOWN``.
    """
    reasons: Counter[str] = Counter()
    lines = []
    for file, parts in found.differences.items():
        others = []
        for part in parts:
            told = f"{configuration}/{file}: {part}"
            reason = next((why for found, why in known.items() if re.search(found, told)), None)
            others += [] if reason else [part]
            reasons.update([reason] if reason else ())
        more = f"; {len(others) - 4} more" if len(others) > 4 else ""
        lines += [f"    {file}: {'; '.join(others[:4])}{more}"] if others else []
    equal = ", ".join(f"{count} {kind}" for kind, count in sorted(found.equal.items()))
    purposes = [f"    on purpose ({count}): {reason}" for reason, count in reasons.items()]
    differ = f"; {len(lines)} differ" if lines else ""
    first = f"{configuration}: equal are {equal or 'none'}{differ}"
    return "\n".join([first, *lines, *purposes]), not lines


def compute(tree: Path, outputs: Path, names: Sequence[str], jobs: int) -> dict[str, str]:
    """Runs configurations with the code of a tree, unless a run that succeeded was kept.

    Returns:
        configuration → why its run failed.
    """
    outputs.mkdir(parents=True, exist_ok=True)
    names = [name for name in names if not _is_kept(outputs, name)]
    if not names:
        return {}
    idle: SimpleQueue[Forks] = SimpleQueue()
    for _ in range(jobs):
        environment = {**_ENVIRONMENT, "PYTHONPATH": str(tree)}
        idle.put(Forks(*_LIBRARIES, folder=outputs, cwd=outputs, **environment))

    def run(name: str) -> int:
        shutil.rmtree(outputs / name, ignore_errors=True)
        (outputs / f"{name}.log").unlink(missing_ok=True)
        folders = [f"output_dir={outputs / name}", f"dataset.root={outputs / 'scenes'}"]
        forks, code = idle.get(), 0
        for words in overrides(name):
            program = [tree / "tools" / "run_stage.py"]
            if words[0] in PROGRAMS:
                program, words = [compared_programs.__file__, words[0]], words[1:]
            given = [word.replace("INPUTS", str(outputs.parent / "inputs")) for word in words]
            run = forks.run_tool(*program, *given, *folders, output=outputs / f"{name}.log")
            code = code or run.wait()
        idle.put(forks)
        return code

    with ThreadPoolExecutor(jobs) as threads:  # the first one draws the scenes
        first = run(names[0])
        write_inputs(outputs / "scenes", outputs.parent / "inputs")
        codes = [first, *threads.map(run, names[1:])]
    for _ in range(jobs):
        idle.get().close()
    failures = {}
    for name, code in zip(names, codes):
        log = outputs / f"{name}.log"
        lines = [line for line in log.read_text("utf-8", "replace").splitlines() if line.strip()]
        if code:
            failures[name] = f"ended with {code}: {''.join(lines[-1:])} (see {log})"
        elif name in REUSING and not _has_reused(outputs / name):
            failures[name] = "its last run computed everything anew"
        else:
            (outputs / f"{name}.json").write_text(json.dumps(overrides(name)))
    return failures


def overrides(name: str) -> list[list[str]]:
    """Returns the words of each run of a configuration."""
    runs = [(words[0] in PROGRAMS, words) for words in CONFIGURATIONS[name]]
    return [[*words[:program], *EVERY, *words[program:]] for program, words in runs]


def _has_reused(root: Path) -> bool:
    manifests = (json.loads(path.read_text("utf-8")) for path in root.glob("*/*/*/manifest.json"))
    return any(manifest.get("last", {}).get("reused") for manifest in manifests)


def _is_kept(outputs: Path, name: str) -> bool:
    record = outputs / f"{name}.json"
    return record.is_file() and json.loads(record.read_text()) == overrides(name)


def _git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@contextmanager
def _checkout(commit: str, folder: Path) -> Iterator[Path]:
    """Gives a worktree of a commit while the block runs."""
    _git(REPOSITORY, "worktree", "add", "--detach", str(folder), commit)
    try:
        yield folder
    finally:
        _git(REPOSITORY, "worktree", "remove", "--force", str(folder))


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="same_results", description=__doc__.partition("\n")[0])
    other = parser.add_mutually_exclusive_group(required=True)
    other.add_argument("commit", nargs="?", help="whose results these have to be")
    other.add_argument("--base", type=Path, metavar="CHECKOUT", help="a folder with its code")
    parser.add_argument("--tree", type=Path, default=REPOSITORY, help="default: this repository")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="where the results stay")
    parser.add_argument("--only", nargs="+", choices=CONFIGURATIONS, default=[*CONFIGURATIONS])
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time; default: 2")
    given = parser.parse_args(arguments)
    commit = _git(given.base or REPOSITORY, "rev-parse", "--short=10", given.commit or "HEAD")
    with TemporaryDirectory(prefix="same-results-") as temporary:
        kept = (given.keep or Path(temporary)).absolute()
        base, new = kept / commit, kept / given.tree.absolute().name
        if given.base and _git(given.base, "status", "--porcelain"):
            base = Path(temporary) / "changed"  # which no commit describes
        shutil.rmtree(new, ignore_errors=True)
        if all(_is_kept(base, name) for name in given.only):
            failures = {}
        elif given.base:
            failures = compute(given.base.absolute(), base, given.only, given.jobs)
        else:
            with _checkout(commit, Path(temporary) / "code") as tree:
                failures = compute(tree, base, given.only, given.jobs)
        for name, why in failures.items():
            print(f"{name} of {commit}: {why}", file=sys.stderr)
        if failures:
            return 2
        failures = compute(given.tree.absolute(), new, given.only, given.jobs)
        all_same = not failures
        for name in given.only:
            found = compare_outputs(base / name, new / name)
            text, same = describe(name, found, KNOWN.get(commit, {}))
            print(f"{name}: {failures[name]}" if name in failures else text)
            all_same &= same
    return 0 if all_same else 1


if __name__ == "__main__":
    sys.exit(main())
