"""Seeds in stages: a comparison is looked at after each, and ends where its verdicts are resolved."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from normbench.config.load import AnyExperiment
from normbench.config.schema import DEFAULT_BASELINE
from normbench.errors import ConfigError
from normbench.experiment.plan import RunPlan
from normbench.report import Report
from normbench.report.sequential import schedule
from normbench.runs.looks_file import LOOKS_FILE, read_looks, record_look
from normbench.runs.records import read_experiment
from normbench.runs.writer import folder_errors


def stages(plans: Sequence[RunPlan], max_seeds: int | None, folder: Path) -> list[list[RunPlan]]:
    """Return the runs up to each look: all at once without `max_seeds`; what was looked at before is no stage again.

    Raises:
        ConfigError: the looks at the experiment were planned for another number of seeds.
        RunError: they cannot be read.
    """
    if max_seeds is None:
        return [list(plans)]
    recorded = read_looks(folder)
    if recorded.maximum not in (None, max_seeds):
        raise ConfigError(
            f"--max-seeds {max_seeds}: this comparison shares its errors among looks at up to {recorded.maximum} seeds "
            f"({folder / LOOKS_FILE}); another number would break that"
        )
    seeds = seeds_of(plans)
    seen = recorded.looks[-1].seeds if recorded.looks else ()
    return [
        [plan for plan in plans if plan.config.seed in chosen]
        for number in schedule(max_seeds)
        if set(seen) <= (chosen := set(seeds[:number])) or number == max_seeds
    ]


def seeds_of(plans: Sequence[RunPlan]) -> tuple[int, ...]:
    """Return the seeds in the order in which they are run."""
    return tuple(dict.fromkeys(plan.config.seed for plan in plans))


def check_until_resolved(experiment: AnyExperiment, plans: Sequence[RunPlan], *, is_shard: bool) -> None:
    """Raise `ConfigError` if no norm is the baseline, or if others train some of the seeds: nothing can be resolved."""
    if is_shard:
        raise ConfigError("--until-resolved and --shard: whether it is resolved shows with all seeds in one place")
    wanted = experiment.baseline or DEFAULT_BASELINE
    if not any(wanted in (plan.config.norm.name, plan.config.label) for plan in plans):
        raise ConfigError(f"--until-resolved: verdicts are against a baseline, and {wanted} is not among the norms")


def run_stages(
    left: Sequence[list[RunPlan]],
    folder: Path,
    max_seeds: int | None,
    run: Callable[[Sequence[RunPlan]], bool],
) -> Iterator[tuple[list[RunPlan], bool]]:
    """Run one stage after the other until verdicts are resolved; yield the plans so far, and whether all completed.

    `run` records what is asked for and trains; it is not called again once a run did not end.
    """
    for plans in left:
        is_complete = run(plans)
        yield plans, is_complete
        if max_seeds is None or not has_ended(plans, folder):
            return
        look_at(folder, seeds_of(plans), max_seeds)
        if is_resolved(folder):
            return


def has_ended(plans: Sequence[RunPlan], folder: Path) -> bool:
    """Return whether each run has a result, or will have none."""
    ended = {
        run.run_id for run in read_experiment(folder).runs if run.status.state in ("completed", "diverged", "failed")
    }
    return all(plan.run_id in ended for plan in plans if getattr(plan.config, "probe", None) is None)


def look_at(folder: Path, seeds: Sequence[int], max_seeds: int | None) -> None:
    """Record that the verdicts over `seeds` are looked at.

    Raises:
        FolderError: that cannot be written.
        RunError: earlier looks cannot be read.
    """
    with folder_errors(folder):
        record_look(folder, seeds, max_seeds)


def is_resolved(folder: Path) -> bool:
    """Return whether every norm has a verdict in every measure and setting."""
    tables = Report(read_experiment(folder)).tables
    results = [result for table in tables for row in table.rows for result in row.results.values()]
    return all(found.comparison.verdict != "not resolved" for found in results if found.comparison is not None)
