"""Where an experiment is carried out: on this machine, or on a cluster."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any, Protocol

from normbench.config.load import LoadedConfig
from normbench.experiment.executor import Executor, LocalExecutor, TrainingProcess
from normbench.experiment.plan import RunPlan
from normbench.experiment.worker_process import Worker, start_worker
from normbench.registry import load
from normbench.worker import targets


class Site(Protocol):
    """Gives an experiment its processes."""

    @property
    def max_host_losses(self) -> int:
        """How often a run goes on elsewhere because its machine was lost."""

    @property
    def process(self) -> TrainingProcess:
        """The process that plans, checks data and compiles kernels."""

    def data_dir(self, named: Path | None) -> Path | None:
        """Return where training processes look for images first, if the user named a folder."""

    def executor(
        self, due: Sequence[RunPlan], plans: Sequence[RunPlan], folder: Path
    ) -> AbstractContextManager[Executor]:
        """Open what trains the runs `due`, which are among the `plans` of the experiment in `folder`."""

    def timing_processes(self) -> Iterator[TrainingProcess]:
        """Yield a process on each kind of device, one after the other, for the timing pass; nothing is trained then."""


@contextmanager
def open_site(cluster: Any, loaded: LoadedConfig, process: Worker | None) -> Iterator[Site]:
    """Open this machine, where `process` runs, or else the cluster of `normbench.cluster.options.ClusterOptions`."""
    if process is not None:
        yield LocalSite(process)
    else:
        with load("normbench.cluster.site:cluster_site")(cluster, loaded) as site:
            yield site


class LocalSite:
    """This machine: `process`, and one more process for each further GPU."""

    max_host_losses = 0

    def __init__(self, process: Worker) -> None:
        self.process = process

    def data_dir(self, named: Path | None) -> Path | None:
        """Return the folder that the user named."""
        return named

    @contextmanager
    def executor(self, due: Sequence[RunPlan], plans: Sequence[RunPlan], folder: Path) -> Iterator[LocalExecutor]:
        """Open a process for each GPU, no more than there is work for, the first being `process`."""
        with ExitStack() as stack:
            others = [stack.enter_context(start_worker(more)) for more in self._others(due)]
            yield LocalExecutor([self.process, *others])

    def timing_processes(self) -> Iterator[TrainingProcess]:
        """Yield `process`."""
        yield self.process

    def _others(self, due: Sequence[RunPlan]) -> list[dict[str, str]]:
        if len(due) < 2:
            return []
        devices: frozenset[str] = frozenset(plan.config.device for plan in due)
        return self.process.call(targets.worker_environments, devices)[1 : len(due)]
