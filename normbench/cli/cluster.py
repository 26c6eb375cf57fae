"""``normbench cluster``: the nodes of a Ray cluster, what each has, and how many runs fit there."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from normbench.cli.options import JsonOption


def cluster(
    address: Annotated[str, typer.Argument(help="auto, HOST:PORT, or local for this machine alone.")] = "auto",
    cpus_per_run: Annotated[int, typer.Option(metavar="N", min=1, help="CPUs that a run takes.")] = 1,
    json_output: JsonOption = False,
) -> None:
    """Show a Ray cluster's nodes: GPUs, versions, how many runs fit, what differs.

    Exits with 3 if nodes differ in what they compute with.

    Example: normbench cluster 10.0.0.1:6379
    """
    from normbench.cluster.connection import connected
    from normbench.cluster.nodes import misfits, read_nodes, software
    from normbench.cluster.options import ClusterOptions

    options = ClusterOptions(address, cpus_per_run)
    with connected(options) as ray:
        nodes = read_nodes(ray)
        version = ray.__version__
    on_gpus = any(node.num_gpus for node in nodes)
    differing = misfits(nodes, ship_code=False)
    rows = [
        {
            "node": node.short_id,
            "address": node.address,
            "cpus": node.num_cpus,
            "gpus": node.num_gpus,
            "devices": node.device_name,
            "driver": node.facts.get("driver"),
            **software(node.facts),
            "runs_at_once": node.num_runs(options, on_gpus=on_gpus),
            "differs_in": differing.get(node.node_id, []),
        }
        for node in nodes
    ]
    if json_output:
        print(json.dumps({"schema_version": 1, "ray": version, "nodes": rows}, indent=2))
    else:
        _print(rows, version)
    raise typer.Exit(3 if differing else 0)


def _print(rows: list[dict[str, object]], version: str) -> None:
    from normbench.cli.console import counted, print_table, table

    shown = table("node", "address", "devices", "normbench", "Python", "torch", "CUDA", "runs at once", "differs in")
    keys = ("node", "address", "devices", "normbench", "Python", "torch", "CUDA", "runs_at_once")
    total = 0
    for row in rows:
        shown.add_row(*(str(row[key]) for key in keys), ", ".join(row["differs_in"]) or "-")  # type: ignore[arg-type]
        total += int(str(row["runs_at_once"]))
    print_table(shown)
    print(f"Ray {version}: {counted(len(rows), 'node')}, {counted(total, 'run')} at once")
