"""A program that starts processes as each place of the package does, in somebody else's folder."""

from __future__ import annotations

import os
import sys
import webbrowser
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
SPINS = "GOMP_SPINCOUNT"  # what every process that may import torch inherits


def kernel() -> None:
    from pipeline.engine.compiler import compiled

    source = Path(os.environ["XDG_CACHE_HOME"], "answer.cpp")
    source.write_text('extern "C" int answer() { return 42; }\n')
    assert compiled(source, ("-fPIC", "-shared"))


def commit() -> None:
    from pipeline.engine import versions

    assert versions.commit() != "unknown"


def pool() -> None:
    from pipeline.engine.pool import in_processes

    found = in_processes([SPINS, "OMP_NUM_THREADS"], os.getenv, 2)
    assert {result for _, result in found} == {os.environ[SPINS], "1"}


def plugin() -> None:
    from plug import answer

    from pipeline.engine.pool import in_processes

    assert [result for _, result in in_processes([1, 1], answer, 2)] == [42, 42]


def cluster(jobs: dict[str, object] | None = None) -> None:
    from pipeline.engine.dask_pool import DaskPool

    workers = DaskPool(1, None, jobs, 60)
    assert workers.submit(os.getenv, SPINS).result(60) == os.environ[SPINS]
    workers.close()


def jobs() -> None:
    """Jobs of a batch system, which find a checkout that no variable names."""
    cluster({"queue": "any", "cores": 1, "memory": "1GB"})


def loader() -> None:
    from pipeline.segmenter.samples import build_loader

    class Spins:
        def __getitem__(self, place: int) -> int:
            return int(os.environ[SPINS])

    found = [int(spins) for batch in build_loader(Spins(), range(4), 2, 2) for spins in batch]
    assert found == [int(os.environ[SPINS])] * 4


def browser() -> None:
    os.environ["BROWSER"] = f"{sys.executable} -c 'import joblib' %s"
    assert webbrowser.open("http://127.0.0.1")


def utf8() -> None:
    """Its interpreter was started anew by then."""
    assert sys.flags.utf8_mode


if __name__ == "__main__":
    place, folder, way = sys.argv[1:]

    def start(_: object = None) -> None:
        """Starts processes after the folder was entered, as the app's run does."""
        os.chdir(folder)
        globals()[place]()

    if way == "command":
        from pipeline.commands.command_line import answer

        answer(start)
    else:
        start()
