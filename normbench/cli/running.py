"""What `train` and `compare` share: plan, check, run, report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from normbench.cli.console import note, print_table
from normbench.cli.display import make_display
from normbench.errors import ConfigError, RunError, suggestion
from normbench.experiment.folder import write_experiment
from normbench.experiment.plan import Draft, RunPlan, draft_runs, resolved_experiment
from normbench.experiment.run import ExperimentEvent, ExperimentRunner, RunEnded, planned_state
from normbench.loader import LoadedConfig
from normbench.records import Status
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


def config_folders() -> list[Path]:
    """Return where built-in configs may be: inside an installed package, or beside it in a checkout."""
    package = Path(__file__).resolve().parent.parent
    return [folder for folder in (package / "configs", package.parent / "configs") if folder.is_dir()]


def find_config(name: str) -> Path:
    """Return the config file called `name`: a path, or a built-in config with or without ``.yaml``.

    Raises:
        ConfigError: there is none.
    """
    path = Path(name)
    if path.exists() or path.suffix and len(path.parts) > 1 and path.parent.is_dir():
        return path
    built_in = {file.stem: file for folder in config_folders() for file in sorted(folder.glob("*.yaml"))}
    if path.stem in built_in and (len(path.parts) == 1 or path.parts[0] == "configs"):
        return built_in[path.stem]
    raise ConfigError(f"{name}: no such config file, and no built-in config of that name{suggestion(name, built_in)}")


def execute(loaded: LoadedConfig, options: RunOptions) -> int:
    """Run the experiment and return the exit code: 0 if every run completed, else 1."""
    drafts = draft_runs(loaded)
    folder = options.runs_dir / loaded.experiment.name
    workers = [Worker()]
    try:
        plans = _finish_plans(loaded, drafts, workers[0])
        if options.dry_run:
            _print_dry_run(folder, plans)
            return 0
        first = plans[0].config
        workers[0].call(
            "normbench.experiment.train:check_data",
            first.dataset.name, first.dataset.options, options.data_dir, first.device,
        )  # fmt: skip
        if len(plans) < len(drafts):
            note(f"normbench: {len(drafts) - len(plans)} repeated runs left out")
        write_experiment(folder, resolved_experiment(loaded.experiment, plans))
        statuses = _run(folder, plans, workers, options)
    finally:
        for worker in workers:
            worker.close()
    return 0 if all(status.state == "completed" for status in statuses) else 1


def _finish_plans(loaded: LoadedConfig, drafts: list[Draft], worker: Worker) -> list[RunPlan]:
    try:
        plans: list[RunPlan] = worker.call("normbench.experiment.plan:finish_plans", drafts)
    except WorkerError as error:
        if error.failure.kind == "PlanError":
            position, _, message = str(error).partition("|")
            raise loaded.error(("norms", int(position), "name"), message) from None
        raise
    return plans


def _run(folder: Path, plans: list[RunPlan], workers: list[Worker], options: RunOptions) -> list[Status]:
    from normbench.report import write_run_report

    display = make_display(plans)

    def listen(event: ExperimentEvent) -> None:
        display(event)
        if isinstance(event, RunEnded) and not event.skipped:
            write_run_report(folder / event.plan.run_id)

    runner = ExperimentRunner(
        folder, workers, listen, options.data_dir, options.force, options.retry, options.keep_checkpoint
    )
    try:
        with display:
            return runner.run(plans)
    finally:
        _report(folder)


def _report(folder: Path) -> None:
    """Write the report over what is recorded, also after an interrupt, and print its tables and where it is."""
    from normbench.records import REPORT_FOLDER, read_experiment
    from normbench.report import write_report
    from normbench.report.formats import render_terminal
    from normbench.report.tables import comparison_tables

    try:
        written = write_report(folder)
    except RunError:
        return  # nothing was recorded
    except OSError as error:
        note(f"normbench: {folder / REPORT_FOLDER}: the report cannot be written: {error.strerror}")
        return
    for table in comparison_tables(read_experiment(folder)):
        print_table(render_terminal(table))
    print("\n".join(str(path) for path in written))


def _print_dry_run(folder: Path, plans: Sequence[RunPlan]) -> None:
    from rich.table import Table

    table = Table("run", "norm", "seed", "state", title=f"{folder}: {len(plans)} runs")
    for plan in plans:
        table.add_row(plan.run_id, plan.config.label, str(plan.config.seed), planned_state(folder / plan.run_id))
    print_table(table)
