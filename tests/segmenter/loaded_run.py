"""A training with a process that loads images, slow enough to be disturbed.

Locks the folder as the stage does, prints the number of every iteration, and ends as a tool does.
"""

import signal
import time
from pathlib import Path

from pipeline.commands.command_line import answer
from pipeline.engine.store import Store
from pipeline.segmenter.train import train
from tests.segmenter.tiny_training import (
    CLASS_NAMES,
    PALETTE,
    shorten_logs,
    tiny_settings,
    write_pairs,
)

ITERATIONS = 24


def run(arguments: list[str]) -> None:
    pairs, root = write_pairs(Path(arguments[0])), Path(arguments[1])

    def report(iteration: int, total: int, loss: float) -> None:
        print(iteration, flush=True)
        time.sleep(0.1 if iteration < 5 else 1)  # it is disturbed at the fifth

    settings = tiny_settings(iterations=ITERATIONS, checkpoint_interval=3, workers=1)
    with Store(root).folder("", "segmenter", {}) as folder:
        train(
            settings,
            pairs,
            CLASS_NAMES,
            PALETTE,
            folder.path,
            3,
            on_iteration=report,
        )


if __name__ == "__main__":
    shorten_logs()
    # A shell has the runs that it starts in the background ignore Ctrl-C.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    answer(run)
