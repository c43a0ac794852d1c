"""Measures what tagging, CAMs and segmenters cost on this machine; see --help."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pipeline.commands.benchmark import run
from pipeline.commands.command_line import answer

if __name__ == "__main__":
    answer(run)
