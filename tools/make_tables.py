"""Writes the field's tables, the published figures beside what this machine measured.

python tools/make_tables.py                             all tables, to outputs/tables.md
python tools/make_tables.py RESULTS                     also with what was measured below RESULTS
python tools/make_tables.py --study NAME                one experiment's settings and figures
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pipeline.commands.console import run_tool

if __name__ == "__main__":
    run_tool("make_tables")
