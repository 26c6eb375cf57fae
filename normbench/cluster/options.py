"""What a call says about the cluster: facts of machines, never a part of an experiment."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class ClusterOptions:
    """Which cluster, and how runs are placed there."""

    address: str
    """``local``: a cluster of this machine alone, for this call. ``auto``: the one that runs here. Or HOST:PORT."""
    cpus_per_run: int = 1
    """The CPUs reserved for a run, and the threads that it computes with on a CPU."""
    node_failures: int = 2
    """How often a run goes on elsewhere because its node was lost."""
    ship_code: bool = False
    """Whether nodes run this machine's NormBench in place of what they have installed."""
    data_dir: Path | None = None
    """Where the driver looks for CIFAR first; nodes do so, too, where they have that folder."""
    seconds_between_checkpoints: float = 5.0
    """How often a run's checkpoint travels to the driver at most."""
