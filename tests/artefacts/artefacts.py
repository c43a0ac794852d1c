"""Records the bytes of a run's results, and compares those of another run with them.

    python tests/artefacts/artefacts.py record OUTPUT_DIR > before.json
    python tests/artefacts/artefacts.py compare OUTPUT_DIR before.json

A stage's folder is told by its contents, since its name is a cache key, which may change between
versions. Journals and manifests are left out for the same reason, and logs and times with them.
"""

from __future__ import annotations

import hashlib
import json
import sys
import zlib
from pathlib import Path

import numpy as np

_NOT_RESULTS = ("manifest.json", "entries.jsonl", "failures.jsonl", ".lock", ".holder.json")
_RESULTS = (".png", ".npz", ".txt")


def fingerprint(path: Path) -> str:
    """Returns a digest of a file; of an archive, of its arrays, whose bytes hold no times."""
    digest = hashlib.sha256()
    if path.suffix == ".npz":
        with np.load(path, allow_pickle=False) as arrays:
            for name in sorted(arrays.files):
                array = np.ascontiguousarray(arrays[name])
                digest.update(f"{name} {array.dtype} {array.shape}".encode() + array.tobytes())
    else:
        digest.update(_with_black_255(path.read_bytes()))
    return digest.hexdigest()[:16]


def _with_black_255(data: bytes) -> bytes:
    """Returns a PNG with black for index 255 of a palette of 256, as the digests have it."""
    begin = data.find(b"PLTE", 0, 64)
    if begin < 0 or int.from_bytes(data[begin - 4 : begin]) != 768:
        return data
    chunk = data[begin : begin + 4 + 765] + bytes(3)
    return data[:begin] + chunk + zlib.crc32(chunk).to_bytes(4) + data[begin + 4 + 768 + 4 :]


def record(root: Path) -> dict[str, dict[str, str]]:
    """Returns, for every stage's folder, a digest of each file in it."""
    folders = {}
    for manifest in sorted(root.rglob("manifest.json")):
        folder = manifest.parent
        about = json.loads(manifest.read_text(encoding="utf-8"))
        if folder.is_symlink() or about["stage"] == "segmenter":
            continue
        files = {
            path.relative_to(folder).as_posix(): fingerprint(path)
            for path in sorted(folder.rglob("*"))
            if path.is_file() and path.suffix in _RESULTS and path.name not in _NOT_RESULTS
        }
        digest = hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()[:8]
        where = folder.parent.relative_to(root).as_posix()
        folders[f"{where} {digest}"] = files
    return folders


def main() -> None:
    """Runs the command line; ends with 1 where results differ."""
    what, root, *before = sys.argv[1:]
    found = record(Path(root))
    if what == "record":
        print(json.dumps({name: len(files) for name, files in found.items()}, indent=1))
        return
    wanted = json.loads(Path(before[0]).read_text(encoding="utf-8"))
    counts = {name: len(files) for name, files in found.items()}
    lines = [f"missing: {n} ({c} files)" for n, c in wanted.items() if n not in counts]
    lines += [f"new: {n} ({c} files)" for n, c in counts.items() if n not in wanted]
    print("\n".join(lines) or f"{sum(counts.values())} files in {len(counts)} folders are equal")
    sys.exit(bool(lines))


if __name__ == "__main__":
    main()
