"""Removes results that no latest run refers to; see --help."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pipeline.command_line import answer
from pipeline.report.cleaning_command import run

if __name__ == "__main__":
    answer(run)
