"""What `train` and `compare` share: plan, check, run, report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from normbench.cli.console import note, print_table
from normbench.cli.display import make_display
from normbench.cli.interrupts import HeldSignals
from normbench.config import RunConfig
from normbench.errors import RunError
from normbench.experiment.folder import write_experiment
from normbench.experiment.plan import Draft, RunPlan, draft_runs, resolved_experiment
from normbench.experiment.run import ExperimentEvent, ExperimentRunner, RunEnded, planned_state
from normbench.loader import LoadedConfig
from normbench.records import STATUS_FILE
from normbench.workers import Worker, WorkerError


@dataclass(frozen=True)
class RunOptions:
    """What is not the experiment: where things are, and what to redo."""

    runs_dir: Path
    data_dir: Path | None
    force: bool
    retry: bool
    dry_run: bool
    keep_checkpoint: bool


def execute(loaded: LoadedConfig, options: RunOptions) -> int:
    """Run the experiment and return the exit code: 0 if every run completed, else 1."""
    drafts = draft_runs(loaded)
    folder = options.runs_dir / loaded.experiment.name
    with Worker() as worker:
        plans = _finish_plans(loaded, drafts, worker)
        if options.dry_run:
            _print_dry_run(folder, plans)
            return 0
        if options.force or any(planned_state(folder / plan.run_id) != "completed" for plan in plans):
            _check_data(plans[0].config, options.data_dir, worker)
        if len(plans) < len(drafts):
            note(f"normbench: {len(drafts) - len(plans)} repeated runs left out")
        write_experiment(folder, resolved_experiment(loaded.experiment, plans))
        return 0 if _run(folder, plans, worker, options) else 1


def _check_data(config: RunConfig, data_dir: Path | None, worker: Worker) -> None:
    dataset = config.dataset
    worker.call("normbench.experiment.train:check_data", dataset.name, dataset.options, data_dir, config.device)


def _finish_plans(loaded: LoadedConfig, drafts: list[Draft], worker: Worker) -> list[RunPlan]:
    try:
        plans: list[RunPlan] = worker.call("normbench.experiment.plan:finish_plans", drafts)
    except WorkerError as error:
        if error.failure.kind == "PlanError":
            position, _, message = str(error).partition("|")
            raise loaded.error(("norms", int(position)), message) from None
        raise
    return plans


def _run(folder: Path, plans: list[RunPlan], worker: Worker, options: RunOptions) -> bool:
    """Run the plans and report on all that is recorded, whatever happens; return whether every run is completed."""
    display = make_display(plans)

    def listen(event: ExperimentEvent) -> None:
        display(event)
        if isinstance(event, RunEnded) and not event.skipped:
            _report_run(folder / event.plan.run_id)

    runner = ExperimentRunner(
        folder, [worker], listen, options.data_dir, options.force, options.retry, options.keep_checkpoint
    )
    try:
        with HeldSignals() as signals, display:
            return runner.run(plans, signals.arrived)
    finally:
        _report(folder)


def _report_run(run_folder: Path) -> None:
    from normbench.report import write_run_report

    try:
        write_run_report(run_folder)
    except OSError as error:
        note(f"normbench: {run_folder}: the loss curve cannot be written: {error.strerror}")


def _report(folder: Path) -> None:
    """Write the report over what is recorded, also after an interrupt, and print its tables and where it is."""
    from normbench.records import REPORT_FOLDER, read_experiment
    from normbench.report import write_report
    from normbench.report.formats import render_terminal
    from normbench.report.tables import comparison_tables

    if not any(folder.glob(f"*/{STATUS_FILE}")):
        return  # nothing is recorded
    try:
        for table in comparison_tables(read_experiment(folder)):
            print_table(render_terminal(table))
        write_report(folder)
        print(f"\nFigures, tables and report.html are in {folder / REPORT_FOLDER}/")
    except RunError as error:
        note(f"normbench: no report: {error}")
    except OSError as error:
        note(f"normbench: {folder / REPORT_FOLDER}: the report cannot be written: {error.strerror}")


def _print_dry_run(folder: Path, plans: Sequence[RunPlan]) -> None:
    from rich.table import Table

    table = Table("run", "norm", "seed", "state", title=f"{folder}: {len(plans)} runs")
    for plan in plans:
        table.add_row(plan.run_id, plan.config.label, str(plan.config.seed), planned_state(folder / plan.run_id))
    print_table(table)
