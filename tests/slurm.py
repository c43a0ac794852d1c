"""Programs that stand for SLURM's: jobs run on this machine, at once."""

from __future__ import annotations

import stat
from pathlib import Path

_SBATCH = """#!/bin/sh
copy={log}.$$
cp "$1" "$copy"  # dask-jobqueue removes its own at once
sh "$copy" >{log} 2>&1 &
echo "Submitted batch job $!"
"""


def write_slurm(folder: Path, log: Path) -> None:
    """Writes sbatch and scancel into a new folder; what jobs print goes to the log."""
    folder.mkdir()
    for name, text in {
        "sbatch": _SBATCH.format(log=log),
        "scancel": "#!/bin/sh\nkill $1\n",
    }.items():
        (folder / name).write_text(text)
        (folder / name).chmod(stat.S_IRWXU)
