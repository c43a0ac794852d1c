"""Workers on other machines: a cluster of dask.distributed."""

import contextlib
import logging
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, TypeVar

from pipeline.engine.children import protect_children
from pipeline.engine.versions import commit
from pipeline.errors import UserError, check_choice
from pipeline.files.text import given_path

if TYPE_CHECKING:
    from distributed.deploy import Cluster

Result = TypeVar("Result")


class DaskPool:
    """Workers of a dask cluster: one that runs already, one on this machine, or a batch system's.

    dask gives what a lost worker was doing to another, several times; see its
    ``distributed.scheduler.allowed-failures``.
    """

    def __init__(
        self, size: int, address: str | None, cluster: Mapping[str, Any] | None, timeout: float
    ):
        """Connects, and starts ``size`` workers unless the ``address`` of a scheduler is given.

        The settings are those of :class:`~pipeline.engine.executors.DaskSettings`. Raises a
        UserError if dask or its scheduler is not there, no worker comes, or one has another version
        of this program.
        """
        try:
            from distributed import Client, KilledWorker
        except ImportError as error:
            raise UserError(
                "executor=dask needs dask.distributed: pip install distributed"
            ) from error
        protect_children()
        self.deaths: tuple[type[Exception], ...] = (KilledWorker,)
        # It writes tracebacks when the scheduler ends, of which an error of ours tells.
        logging.getLogger("distributed.client").setLevel(logging.CRITICAL)
        self._cluster = self._client = self._executor = None
        try:
            if not address:
                self._cluster = _start_cluster(cluster, size)
            file = given_path(address or "", "executor.address")
            if file.is_file():
                self._client = Client(scheduler_file=str(file), timeout=timeout)
            else:
                self._client = Client(self._cluster or address, timeout=timeout)
            self._client.wait_for_workers(1, timeout=timeout)
        except (OSError, TimeoutError, ValueError) as error:
            self.close(at_once=True)
            raise UserError(
                f"no dask worker became available at {address or 'the cluster'} within {timeout} s"
                f" ({str(error) or type(error).__name__}): start a scheduler and workers, or give"
                " executor.address"
            ) from error
        self.size = size if self._cluster else len(self._client.scheduler_info()["workers"])
        self._executor = self._client.get_executor(pure=False)
        try:
            commits = self._client.run(commit)
        except Exception as error:  # whatever an import raises over there
            raise UserError(
                f"a dask worker cannot run this program ({error}): start the workers in the"
                " repository's folder, with the same environment"
            ) from error
        for worker, version in commits.items():
            if version != commit():
                raise UserError(
                    f"dask worker {worker} runs commit {version} of this program, not {commit()}:"
                    " restart the workers"
                )

    def submit(self, work: Callable[..., Result], *arguments: object) -> Future[Result]:
        """Has work done by a worker."""
        return self._executor.submit(work, *arguments)

    def close(self, at_once: bool = False) -> None:
        """Leaves the cluster, and ends it where it was started here."""
        if self._executor is not None:
            self._executor.shutdown(wait=not at_once)
        if self._client is not None:
            self._client.close(timeout=2)
        if self._cluster is not None:
            with contextlib.suppress(TimeoutError):
                self._cluster.close(timeout=3)


def _start_cluster(batch: Mapping[str, Any] | None, size: int) -> "Cluster":
    """Starts workers: processes of this machine, or jobs if there are settings of ``batch``."""
    if not batch:
        from distributed import LocalCluster

        # Workers write tracebacks, as errors, when the scheduler ends during a heartbeat.
        return LocalCluster(
            size, threads_per_worker=1, dashboard_address=None, silence_logs="CRITICAL"
        )
    try:
        import dask_jobqueue
    except ImportError as error:
        raise UserError("executor=slurm needs dask-jobqueue: pip install dask-jobqueue") from error
    arguments = {key: value for key, value in batch.items() if value is not None}
    name = str(arguments.pop("class", "SLURMCluster"))
    known = [each for each in dir(dask_jobqueue) if each.endswith("Cluster")]
    check_choice(f"executor.cluster.class={name} is none of dask_jobqueue", name, known)
    try:
        cluster = getattr(dask_jobqueue, name)(**arguments)
    except (TypeError, ValueError) as error:
        raise UserError(f"executor.cluster does not suit {name}: {error}") from error
    cluster.scale(size)
    return cluster
