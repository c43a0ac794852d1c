"""Compares output directories file by file; see :mod:`tests.same_results`."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from PIL import Image

_LEARNED = {"patches", "bank", "features"}  # what PIAA stores on the way to prototypes
_JOURNAL = "entries.jsonl"
_NAMES = {"manifest.json", _JOURNAL, "failures.jsonl", "metrics.json", "tables.md"}
_SUFFIXES = {".npz", ".png", ".txt", ".pth"}
_IGNORED = {
    *("began", "finished", "run", "first_run", "seconds", "versions", "commit", "host"),
    *("key", "own_key", "recipe", "input", "inputs", "sum"),
}
_MISSING = "missing"


@dataclass
class Comparison:
    """What a comparison found.

    Attributes:
        equal: the number of equal files of each kind, such as ``masks``.
        differences: file → what differs in it.
    """

    equal: Counter[str] = field(default_factory=Counter)
    differences: dict[str, list[str]] = field(default_factory=dict)


def compare_outputs(base: Path, new: Path) -> Comparison:
    """Compares two output directories."""
    found = _compare_folders(base, new, "")
    stages, new_stages = _stages(base), _stages(new)
    for stage in sorted(stages.keys() | new_stages.keys()):
        _compare_stage(stage, stages.get(stage, []), new_stages.get(stage, []), found)
    return found


def _compare_stage(stage: str, base: list[Path], new: list[Path], found: Comparison) -> None:
    """Adds the folders of a stage, of which those that differ least are a pair, closest first."""
    labels = [
        f"{stage}/" if number == 1 else f"{stage} ({number})/" for number in range(1, len(base) + 1)
    ]
    pairs = [
        (_compare_folders(folder, other, label), label, folder, other)
        for label, folder in zip(labels, base)
        for other in new
    ]
    paired: set[Path] = set()
    for comparison, label, folder, other in sorted(pairs, key=lambda p: len(p[0].differences)):
        if paired & {folder, other}:
            continue
        paired |= {folder, other}
        found.equal += comparison.equal
        found.differences |= comparison.differences
        if _is_latest(folder) != _is_latest(other):
            found.differences[f"{label}latest"] = ["points to another folder"]
    found.differences |= {label: [_MISSING] for label, f in zip(labels, base) if f not in paired}
    found.differences |= {f"{stage}/{f.name}/": ["new"] for f in new if f not in paired}


def _stages(root: Path) -> dict[str, list[Path]]:
    """Returns the folders of results, oldest first, by stage, such as ``val/tags``."""
    manifests = [*root.glob("*/*/manifest.json"), *root.glob("*/*/*/manifest.json")]
    stages: dict[str, list[Path]] = {}
    for folder in (path.parent for path in sorted(manifests, key=lambda p: p.stat().st_mtime_ns)):
        if not folder.is_symlink() and folder.parent.name not in _LEARNED:
            stages.setdefault(folder.parent.relative_to(root).as_posix(), []).append(folder)
    return stages


def _is_latest(folder: Path) -> bool:
    return (folder.parent / "latest").resolve() == folder.resolve()


def _compare_folders(base: Path, new: Path, label: str) -> Comparison:
    """Compares the files of two folders of a stage, or, without a label, those beside stages."""
    files, new_files = (_files(folder, "**/*" if label else "*.*") for folder in (base, new))
    found = Comparison()
    for name in sorted(files | new_files):
        if name not in new_files or name not in files:
            found.differences[label + name] = ["new" if name in new_files else _MISSING]
        elif differences := compare_files(base / name, new / name):
            found.differences[label + name] = differences
        else:
            found.equal[_kind(label, Path(name))] += 1
    return found


def _files(folder: Path, pattern: str) -> set[str]:
    paths = [p for p in folder.glob(pattern) if p.name in _NAMES or p.suffix in _SUFFIXES]
    return {path.relative_to(folder).as_posix() for path in paths}


def _kind(label: str, name: Path) -> str:
    """Returns what a file holds, in the plural."""
    kinds = {"manifest.json": "manifests", _JOURNAL: "journals", "scores.npz": "scores"}
    kinds |= {".pth": "weights"}
    if name.parts[0] == ".probability":
        return "probabilities"
    stage = label.rstrip("/").rpartition("/")[2].partition(" ")[0]
    return kinds.get(name.name) or kinds.get(name.suffix) or stage or name.stem.partition("-")[0]


def compare_files(base: Path, new: Path) -> list[str]:
    """Returns what differs between two files of the same format; nothing if they are equal."""
    if base.read_bytes() == new.read_bytes():
        return []
    read = {".npz": _read_npz, ".pth": _read_weights, ".png": _read_png, ".json": _read_json}
    read_one = _read_journal if base.name == _JOURNAL else read.get(base.suffix, _read_lines)
    try:
        values, new_values = (read_one(path) for path in (base, new))
    except (OSError, ValueError, BadZipFile) as error:
        return [f"cannot be read: {error}"]
    same_values_suffice = base.suffix in (".npz", ".pth", ".json") or base.name == _JOURNAL
    return _compare_values(values, new_values) or ([] if same_values_suffice else ["bytes"])


def _compare_values(base: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    differences = []
    for name in sorted(base.keys() | new.keys()):
        if name not in base or name not in new:
            differences.append(f"{name}: {'new' if name in new else _MISSING}")
        elif isinstance(base[name], np.ndarray):
            differences += [f"{name}: {what}" for what in _compare_arrays(base[name], new[name])]
        elif repr(base[name]) != repr(new[name]):  # which tells 1, 1.0 and True apart
            differences.append(f"{name}: {base[name]!r} became {new[name]!r}")
    return differences


def _compare_arrays(base: np.ndarray, new: np.ndarray) -> list[str]:
    if (base.dtype, base.shape) != (new.dtype, new.shape):
        return [f"{base.dtype}{list(base.shape)} became {new.dtype}{list(new.shape)}"]
    if base.tobytes() == new.tobytes():
        return []
    if base.dtype.kind not in "biuf":
        return ["text"]
    distances = np.abs(base.astype(np.float64) - new.astype(np.float64))
    rows = [np.frombuffer(a.tobytes(), np.uint8).reshape(a.size, -1) for a in (base, new)]
    count = (rows[0] != rows[1]).any(axis=1).sum()
    largest = np.fmax.reduce(distances, axis=None)  # of those that are numbers
    return [f"{count} of {base.size} values, largest difference {largest:.3g}"]


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    with np.load(path, allow_pickle=False) as arrays:
        return dict(arrays)


def _read_weights(path: Path) -> dict[str, np.ndarray]:
    import torch  # which takes seconds

    state = torch.load(path, map_location="cpu", weights_only=True)["state_dict"]
    return {name: tensor.numpy() for name, tensor in state.items()}


def _read_png(path: Path) -> dict[str, np.ndarray]:
    with Image.open(path) as image:
        return {"pixels": np.asarray(image)}


def _read_lines(path: Path) -> dict[str, str]:
    lines = path.read_text("utf-8").splitlines()
    return {f"line {number}": line for number, line in enumerate(lines, 1)}


def _read_json(path: Path) -> dict[str, Any]:
    """Returns the values of a file by their paths in it, such as ``latest.tags.val.map``."""
    return dict(_flatten(json.loads(path.read_text("utf-8")), ""))


def _read_journal(path: Path) -> dict[str, Any]:
    """Returns the values of the last entry of each image, with the names alone of its files."""
    entries = {}
    for line in path.read_text("utf-8").splitlines():
        entry = json.loads(line)
        entries[entry["id"]] = entry | {"files": sorted(entry.get("files", ()))}
    return dict(_flatten(entries, ""))


def _flatten(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    if not value or not isinstance(value, dict | list):
        yield path, value
        return
    for name, inner in value.items() if isinstance(value, dict) else enumerate(value):
        if name not in _IGNORED:
            yield from _flatten(inner, f"{path}.{name}".lstrip("."))
