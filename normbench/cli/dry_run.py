"""The text that ``--dry-run`` prints: the runs with their state, and how long those to be run will take."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from normbench.cli.console import counted, print_table, table
from normbench.experiment.estimate import estimate_seconds
from normbench.experiment.plan import RunPlan
from normbench.runs.writer import is_due, planned_state

MAX_ROWS = 1_000
"""The most runs that are shown; laying out a table of ten thousand would take longer than planning them."""


def print_dry_run(
    folder: Path, plans: Sequence[RunPlan], *, force: bool = False, retry: bool = False, json_output: bool = False,
    place: Callable[[int], Sequence[Mapping[str, Any]]] | None = None,
) -> None:  # fmt: skip
    """Print what running `plans` in `folder` would do; times come from recorded runs beside and in it.

    `place` returns the nodes of a cluster with their shares of a number of runs.
    """
    states = [planned_state(folder / plan.run_id) for plan in plans]
    will_run = [is_due(state, force=force, retry=retry) for state in states]
    due = [plan for plan, due in zip(plans, will_run, strict=True) if due]
    known = dict(zip((plan.run_id for plan in due), estimate_seconds(due, folder.parent), strict=True))
    seconds = [known.get(plan.run_id) for plan in plans]
    nodes = place(len(due)) if place else []
    if json_output:
        runs = [
            {
                "run": plan.run_id,
                "norm": plan.config.label,
                "point": plan.point,
                "seed": plan.config.seed,
                "learning_rate": plan.config.train.learning_rate,
                "state": state,
                "will_run": due,
                "estimated_seconds": estimate,
            }
            for plan, state, due, estimate in zip(plans, states, will_run, seconds, strict=True)
        ]
        placed = {"nodes": nodes} if place else {}
        counts = {"runs": len(plans), "will_run": len(due), "states": Counter(states)}
        print(
            json.dumps(
                {
                    "schema_version": 1,
                    "folder": str(folder),
                    **counts,
                    **placed,
                    "plans": runs,
                },
                indent=2,
            )
        )
    else:
        _print(folder, plans, states, seconds, num_due=len(due))
        if nodes:
            _print_nodes(nodes, list(known.values()))


def _print(
    folder: Path, plans: Sequence[RunPlan], states: Sequence[str], seconds: Sequence[float | None], num_due: int
) -> None:
    from rich.text import Text

    has_points = any(plan.point for plan in plans)
    header = ("run", "norm", *(["point"] if has_points else []), "seed", "lr", "state", "time")
    shown = table(*header, right=("seed", "lr", "time"), title=str(folder))
    for plan, state, estimate in islice(zip(plans, states, seconds, strict=True), MAX_ROWS):
        config = plan.config
        row = [plan.run_id, config.label, *([plan.point] if has_points else []), str(config.seed)]
        row += [f"{config.train.learning_rate:.3g}", state, "-" if estimate is None else duration(estimate)]
        shown.add_row(*map(Text, row))
    print_table(shown)
    if len(plans) > MAX_ROWS:
        print(f"... and {len(plans) - MAX_ROWS:,} more, which --json lists")
    counts = ", ".join(f"{count} {state}" for state, count in Counter(states).items())
    estimates = [estimate for estimate in seconds if estimate is not None]
    print(f"{counted(len(plans), 'run')} ({counts}); {num_due} to run", end="")
    if len(estimates) == num_due and num_due:
        print(f", which should take about {duration(sum(estimates))}, judging by recorded runs of the same kind")
    elif estimates:
        others = num_due - len(estimates)
        total = duration(sum(estimates))
        print(f"; {len(estimates)} should take about {total}; no time is recorded for the other {others}")
    else:
        print("; their time is unknown, because no run of the same kind is recorded yet" if num_due else "")


def _print_nodes(nodes: Sequence[Mapping[str, Any]], seconds: Sequence[float | None]) -> None:
    """Print how many runs go where, and about how long that takes if all of their times are known."""
    shown = table("node", "address", "devices", "runs at once", "runs", right=("runs at once", "runs"))
    for node in nodes:
        shown.add_row(*(str(node[key]) for key in ("node", "address", "devices", "runs_at_once", "runs")))
    print_table(shown)
    at_once = sum(node["runs_at_once"] for node in nodes)
    known = [second for second in seconds if second is not None]
    took = f", about {duration(sum(known) / min(at_once, len(known)))}" if known and len(known) == len(seconds) else ""
    print(f"{counted(at_once, 'run')} at once on {counted(len(nodes), 'node')}{took}")


def duration(seconds: float) -> str:
    """Write a time as ``45 s``, ``12 min`` or ``3 h 20 min``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"
