"""Writes the field's tables, the published figures beside what this machine measured.

python tools/make_tables.py                             all tables, to outputs/tables.md
python tools/make_tables.py RESULTS                     also with what was measured below RESULTS
python tools/make_tables.py --check                     are the published figures reproduced?
python tools/make_tables.py --study NAME                one experiment's settings and figures
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pipeline.errors import UserError
from pipeline.report.command import run

USER_ERROR = 2

if __name__ == "__main__":
    try:
        run(sys.argv[1:])
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(USER_ERROR)
