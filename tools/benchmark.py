"""Measures what tagging and CAMs cost on this machine, against a plain version in the same run.

python tools/benchmark.py                               all sections
python tools/benchmark.py --sections steps,stages       some of them
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pipeline.commands.console import run_tool

if __name__ == "__main__":
    run_tool("benchmark")
