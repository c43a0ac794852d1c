"""Runs stages of the pipeline; see --help."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

if __name__ == "__main__":
    try:
        from pipeline.commands.run_stage import main
    except KeyboardInterrupt:  # importing PyTorch takes seconds
        sys.exit(130)
    main()
