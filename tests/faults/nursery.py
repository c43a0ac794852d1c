"""Runs ``tools/run_stage.py`` in forks of a process that has imported everything already.

Reads a JSON line for each run: ``arguments``, and perhaps ``calls``, a file that receives a byte
"<" when CLIP's backbone is called and ">" when it has returned. Answers with a line when the run
has begun, its process, and with another when it has ended, its exit code (negative for a signal).
``watch`` holds the arguments of :func:`tests.faults.kill_points.watch`.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import runpy
import signal
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]


def watch_backbone(path: str) -> None:
    """Has the passes of CLIP's backbone counted, those of every process of the run."""
    from pipeline.clip.encoder import ClipEncoder

    backbone = ClipEncoder.backbone
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def watched(self, pixels, *listeners):
        os.write(file, b"<")
        tokens = backbone(self, pixels, *listeners)
        os.write(file, b">")
        return tokens

    ClipEncoder.backbone = watched


def run(order: dict) -> None:
    """Runs the tool and ends this process as the tool would."""
    sys.argv = [str(REPOSITORY / "tools" / "run_stage.py"), *order["arguments"]]
    # A shell has the runs that it starts in the background ignore Ctrl-C.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.setpgid(0, 0)  # a group of its own, as a shell gives every command
    silent = os.open(order.get("output", os.devnull), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    for stream in (1, 2):
        os.dup2(silent, stream)
    if order.get("calls"):
        watch_backbone(order["calls"])
    if order.get("watch"):
        from tests.faults.kill_points import watch

        root, trace, kill_at = order["watch"]
        watch(Path(root), Path(trace), kill_at)
    runpy.run_path(sys.argv[0], run_name="__main__")


def main() -> None:
    """Serves runs until standard input ends."""
    sys.path.insert(0, str(REPOSITORY))
    os.chdir(REPOSITORY)
    gc.disable()  # nothing that is imported becomes garbage
    import pipeline.commands.run_stage  # noqa: F401
    from pipeline.engine.configuration import compose_config
    from pipeline.errors import UserError
    from pipeline.segmenter import predict, train  # noqa: F401
    from tests.compositions import remember_compositions
    from tests.segmenter.tiny_training import shorten_logs

    shorten_logs()
    remember_compositions()
    gc.freeze()
    gc.enable()
    for line in sys.stdin:
        order = json.loads(line)
        with contextlib.suppress(UserError):
            compose_config(order["arguments"])  # so that its fork need not
        child = os.fork()
        if child == 0:
            run(order)
            os._exit(0)
        print(child, flush=True)
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


if __name__ == "__main__":
    main()
