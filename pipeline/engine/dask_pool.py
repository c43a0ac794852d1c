"""Workers of other machines: a cluster of dask.distributed."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pipeline.engine.settings import setting
from pipeline.engine.versions import commit
from pipeline.engine.workers import WorkerSettings
from pipeline.errors import UserError

Result = TypeVar("Result")

_WHERE = "where results are computed does not change them"


@dataclass
class DaskSettings(WorkerSettings):
    """``executor=dask``: workers of a cluster of dask.distributed, each with its own models.

    Attributes:
        address: of a scheduler, ``tcp://HOST:8786``, or the path of its scheduler file; none starts
            a cluster.
        timeout: seconds within which the first worker has to appear.
        cluster: the arguments of a class of dask_jobqueue, which ``class`` names; none starts
            processes of this machine.
    """

    name: str = setting("dask", changes="nothing", why=_WHERE)
    address: str | None = setting(None, changes="nothing", why=_WHERE)
    timeout: float = setting(60, above=0, changes="nothing", why=_WHERE)
    cluster: dict[str, Any] | None = setting(None, changes="nothing", why=_WHERE)


class DaskPool:
    """Workers of a dask cluster: one that runs already, one on this machine, or a batch system's.

    dask gives what a lost worker was doing to another, several times; see its
    ``distributed.scheduler.allowed-failures``.
    """

    def __init__(self, settings: DaskSettings, size: int):
        """Connects.

        Args:
            settings: the cluster.
            size: workers to start, unless a scheduler is named.

        Raises:
            UserError: dask or its scheduler is not there, or no worker comes.
        """
        try:
            from distributed import Client, KilledWorker, LocalCluster
        except ImportError as error:
            raise UserError(
                "executor=dask needs dask.distributed: pip install distributed"
            ) from error
        self.deaths = (KilledWorker,)
        self._cluster = None
        address, batch, timeout = settings.address, settings.cluster, settings.timeout
        try:
            if address:
                path = Path(str(address)).expanduser()
                where = {"scheduler_file": str(path)} if path.is_file() else {"address": address}
                self._client = Client(**where, timeout=timeout)
            else:
                if batch:
                    self._cluster = _batch_cluster(batch)
                    self._cluster.scale(size)
                else:
                    self._cluster = LocalCluster(
                        size, threads_per_worker=1, dashboard_address=None, silence_logs="ERROR"
                    )
                self._client = Client(self._cluster, timeout=timeout)
            self._client.wait_for_workers(1, timeout=timeout)
        except (OSError, TimeoutError, ValueError) as error:
            self.close(at_once=True)
            where = address or "the cluster"
            raise UserError(
                f"no dask worker can be had of {where} within {timeout} s"
                f" ({str(error) or type(error).__name__}): start a scheduler and workers, or give"
                " executor.address"
            ) from error
        self.size = size if self._cluster else len(self._client.scheduler_info()["workers"])
        self._executor = self._client.get_executor(pure=False)
        self._introduce()

    def _introduce(self) -> None:
        """Makes sure that every worker has this program.

        Raises:
            UserError: one has not.
        """
        try:
            found = self._client.run(commit)
        except Exception as error:  # whatever an import raises over there
            raise UserError(
                f"a dask worker cannot run this program ({error}): start the workers in the"
                " repository's folder, with the same environment"
            ) from error
        others = {worker: version for worker, version in found.items() if version != commit()}
        if others:
            worker, version = next(iter(others.items()))
            raise UserError(
                f"dask worker {worker} runs commit {version} of this program, not {commit()}:"
                " restart the workers"
            )

    def submit(self, work: Callable[..., Result], *arguments: Any) -> Future[Result]:  # noqa: ANN401
        """Has work done by a worker."""
        return self._executor.submit(work, *arguments)

    def close(self, at_once: bool = False) -> None:
        """Leaves the cluster, and ends it where it was started here."""
        if executor := getattr(self, "_executor", None):
            executor.shutdown(wait=not at_once)
        if client := getattr(self, "_client", None):
            client.close(timeout=2)
        if self._cluster is not None:
            with contextlib.suppress(TimeoutError):
                self._cluster.close(timeout=3)


def _batch_cluster(settings: Mapping[str, Any]) -> Any:  # noqa: ANN401
    try:
        import dask_jobqueue
    except ImportError as error:
        raise UserError("executor=slurm needs dask-jobqueue: pip install dask-jobqueue") from error
    arguments = {key: value for key, value in settings.items() if value is not None}
    name = str(arguments.pop("class", "SLURMCluster"))
    known = [each for each in dir(dask_jobqueue) if each.endswith("Cluster")]
    if name not in known:
        raise UserError(
            f"executor.cluster.class={name} is none of dask_jobqueue: choose from"
            f" {', '.join(known)}"
        )
    try:
        return getattr(dask_jobqueue, name)(**arguments)
    except (TypeError, ValueError) as error:
        raise UserError(f"executor.cluster does not suit {name}: {error}") from error
