"""The nodes of a cluster: what each has, how many runs fit there, and whether it may train with the others."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from normbench.cluster import probe as probe_module
from normbench.cluster.options import ClusterOptions
from normbench.cluster.probe import probe
from normbench.errors import EnvironmentProblem

_SECONDS_TO_PROBE = 60.0
_SHORT = 12
"""Characters of a node's id that are shown and recorded."""


@dataclass(frozen=True)
class Node:
    """One machine of the cluster."""

    node_id: str
    address: str
    num_cpus: int
    num_gpus: int
    facts: Mapping[str, Any]
    """What `probe` found; empty where it did not answer."""

    @property
    def short_id(self) -> str:
        """The beginning of the node's id, enough to tell it from others."""
        return self.node_id[:_SHORT]

    @property
    def device_name(self) -> str:
        """The node's GPUs in words, or its CPUs."""
        names = list(self.facts.get("gpus", ()))[: self.num_gpus]
        return ", ".join(f"{names.count(name)} x {name}" for name in dict.fromkeys(names)) or f"{self.num_cpus} CPUs"

    @property
    def kind(self) -> str:
        """The name of the node's first GPU; nothing where it has none."""
        return next(iter(self.facts.get("gpus", ())), "") if self.num_gpus else ""

    def num_runs(self, options: ClusterOptions, *, on_gpus: bool) -> int:
        """Return how many runs fit on the node at once: one for each GPU, or for each `cpus_per_run` CPUs."""
        by_cpus = self.num_cpus // options.cpus_per_run
        return min(self.num_gpus, by_cpus) if on_gpus else by_cpus


def read_nodes(
    ray: Any, known: Iterable[str] = (), data_sets: Sequence[str] = (), folder: str | None = None
) -> list[Node]:
    """Return the cluster's living nodes but the `known` ones, each with what `probe` finds on it."""
    ray.cloudpickle.register_pickle_by_value(probe_module)
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    alive = [node for node in ray.nodes() if node["Alive"] and node["NodeID"] not in set(known)]
    ask = ray.remote(num_cpus=0, max_retries=0)(probe)
    answers = [
        ask.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)).remote(
            data_sets, folder
        )
        for node in alive
    ]
    ray.wait(answers, num_returns=len(answers), timeout=_SECONDS_TO_PROBE) if answers else None
    found = []
    for node, answer in zip(alive, answers, strict=True):
        try:
            facts = ray.get(answer, timeout=0)
        except ray.exceptions.RayError:
            facts = {}
        resources = node["Resources"]
        cpus, gpus = int(resources.get("CPU", 0)), int(resources.get("GPU", 0))
        found.append(Node(node["NodeID"], node["NodeManagerAddress"], cpus, gpus, facts))
    return found


def software(facts: Mapping[str, Any]) -> dict[str, str]:
    """Return what must be equal on all nodes, in words; NormBench by its source."""
    return {
        "normbench": f"{facts['normbench']} ({facts['source'][:8]})" if facts.get("source") else "missing",
        "Python": ".".join(str(facts.get("python")).split(".")[:2]),
        "torch": str(facts.get("torch") or "missing"),
        "CUDA": str(facts.get("cuda") or "-"),
    }


def misfits(nodes: Sequence[Node], *, ship_code: bool) -> dict[str, list[str]]:
    """Return, by node id, in what nodes differ from the driver (NormBench, Python) or the first (torch, CUDA)."""
    here = software(probe())
    found = {}
    for node in nodes:
        own, first = software(node.facts), software(nodes[0].facts)
        checked = {"Python": here, "torch": first, "CUDA": first} | ({} if ship_code else {"normbench": here})
        if differing := [key for key, wanted in checked.items() if own[key] != wanted[key]]:
            found[node.node_id] = differing
    return found


def check_software(nodes: Sequence[Node], options: ClusterOptions) -> None:
    """Raise `EnvironmentProblem`, with a table of what differs, unless all nodes compute with the same software."""
    differing = misfits(nodes, ship_code=options.ship_code)
    if not differing:
        return
    rows = [["", *software({})], ["this machine", *software(probe()).values()]]
    rows += [
        [node.address, *software(node.facts).values()]
        for node in nodes
        if node.node_id in differing or node is nodes[0]
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    keys = sorted({key for found in differing.values() for key in found})
    ways = "install the same versions on all nodes"
    if "normbench" in keys:
        ways += "; --ship-code sends this machine's normbench"
    head = f"--cluster {options.address}: {len(differing)} of {len(nodes)} nodes differ in {', '.join(keys)}; {ways}"
    raise EnvironmentProblem("\n".join([head, *lines]))
