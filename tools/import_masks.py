"""Was removed: masks=file reads what it converted; see docs/import.md."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pipeline.commands.console import run_tool

if __name__ == "__main__":
    run_tool("import_masks")
