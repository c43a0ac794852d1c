"""The choices of ``executor=``: their settings, and which workers they start."""

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from pipeline.configuration.settings import setting

if TYPE_CHECKING:
    from pipeline.engine.pool import Pool

executor_setting = partial(
    setting, changes="nothing", why="who computes does not change what is computed"
)
"""Declares a field of the settings of an executor."""


@dataclass
class ExecutorSettings:
    """``executor=local``: this process, and processes of this machine for the CRF.

    Attributes:
        name: the executor.
    """

    name: str = executor_setting("local")


@dataclass
class WorkerSettings(ExecutorSettings):
    """``executor=processes``: processes of this machine, each with its own models.

    Attributes:
        workers: the number of worker processes; null takes ``runtime.workers``.
        threads: threads of PyTorch in each worker; null divides the cores among the workers.
    """

    name: str = executor_setting("processes")
    workers: int | None = executor_setting(None, at_least=1, at_most=10_000)
    threads: int | None = setting(
        None, at_least=1, at_most=1024, changes="rounding", why="results differ only by rounding"
    )

    def threads_of(self, size: int) -> int | None:
        """Returns torch's threads in each of so many workers; none leaves the choice to torch."""
        from pipeline.engine.pool import count_cores

        return self.threads or max(1, count_cores() // size)

    def start(self, size: int) -> "Pool":
        """Returns so many workers."""
        from pipeline.engine.pool import ProcessPool

        return ProcessPool(size, self.threads_of(size))


@dataclass
class DaskSettings(WorkerSettings):
    """``executor=dask``: workers of a cluster of dask.distributed, each with its own models.

    Attributes:
        address: the address of a scheduler, ``tcp://HOST:8786``, or the path of its scheduler file;
            null starts a cluster. Answers of its workers are unpickled.
        timeout: how many seconds to wait for the first worker.
        cluster: arguments of the class of dask_jobqueue that ``class`` names; null starts processes
            on this machine. Some arguments are commands of the job script.
    """

    name: str = executor_setting("dask")
    address: str | None = executor_setting(None, file_values="")
    timeout: float = executor_setting(60, above=0, at_most=1e6)
    cluster: dict[str, Any] | None = executor_setting(None, file_values="")

    def threads_of(self, size: int) -> int | None:
        """Returns torch's threads in each worker; other machines have as many as they like."""
        return self.threads if self.address or self.cluster else super().threads_of(size)

    def start(self, size: int) -> "Pool":
        """Connects to the cluster; see :class:`~pipeline.engine.dask_pool.DaskPool`."""
        from pipeline.engine.dask_pool import DaskPool

        return DaskPool(size, self.address, self.cluster, self.timeout)
