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
from normbench.tasks.classification import CLASSIFICATION
from normbench.worker import targets

CLASSIFIERS_AT_ONCE_ON_CUDA = 8
"""More brings next to nothing: eight fill an H200 at batch size 64 (docs/performance.md)."""


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
        self, due: Sequence[RunPlan], plans: Sequence[RunPlan], folder: Path, runs_at_once: int | None
    ) -> AbstractContextManager[Executor]:
        """Open what trains the runs `due`, which are among the `plans` of the experiment in `folder`.

        `runs_at_once` is how many runs a device trains at once, at most; None where that is not said.
        """

    def again(self) -> AbstractContextManager[Site]:
        """Open the place for another experiment, which is carried out before this one."""

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
    def executor(
        self, due: Sequence[RunPlan], plans: Sequence[RunPlan], folder: Path, runs_at_once: int | None
    ) -> Iterator[LocalExecutor]:
        """Open a process for each GPU, no more than there is work for; `process` is the first."""
        with ExitStack() as stack:
            others = [stack.enter_context(start_worker(more)) for more in self._others(due)]
            yield LocalExecutor([self.process, *others], _runs_at_once(runs_at_once, due, 1 + len(others)))

    @contextmanager
    def again(self) -> Iterator[LocalSite]:
        """Yield this machine with a process of its own: that of an experiment ends with it."""
        with start_worker() as process:
            yield LocalSite(process)

    def timing_processes(self) -> Iterator[TrainingProcess]:
        """Yield `process`."""
        yield self.process

    def _others(self, due: Sequence[RunPlan]) -> list[dict[str, str]]:
        if len(due) < 2:
            return []
        devices: frozenset[str] = frozenset(plan.config.device for plan in due)
        return self.process.call(targets.worker_environments, devices)[1 : len(due)]


def _runs_at_once(wanted: int | None, due: Sequence[RunPlan], num_workers: int) -> int:
    """Return how many runs each worker trains at once, no more than there are for it."""
    gain = all((plan.config.device, plan.config.task) == ("cuda", CLASSIFICATION.name) for plan in due)
    wanted = wanted or (CLASSIFIERS_AT_ONCE_ON_CUDA if gain else 1)
    return max(1, min(wanted, -(-len(due) // num_workers)))
