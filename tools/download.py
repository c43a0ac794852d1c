"""Downloads data sets and weights, verifies and unpacks them; see --help.

python tools/download.py --list                                     what there is
python tools/download.py dataset=voc2012 dataset.root=DIR           a data set
python tools/download.py clip=vit_b16 --output weights              for a machine without a network
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pipeline.commands.console import run_tool

if __name__ == "__main__":
    run_tool("download")
