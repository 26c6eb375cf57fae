"""What `train` and `compare` share: plan, check, run, report."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from normbench.cli.console import note, print_comparison
from normbench.cli.display import make_display
from normbench.cli.dry_run import print_dry_run
from normbench.cli.interrupts import HeldSignals
from normbench.cli.training_process import start_training_process
from normbench.config.load import LoadedConfig
from normbench.config.schema import RunConfig
from normbench.errors import RunError
from normbench.experiment.plan import Draft, RunPlan, draft_runs, resolved_experiment
from normbench.experiment.runner import ExperimentEvent, ExperimentRunner, RunEnded, planned_state
from normbench.experiment.timing_pass import TimingPass
from normbench.experiment.worker_process import Worker, WorkerError
from normbench.report import load_libraries
from normbench.runs.records import STATUS_FILE
from normbench.runs.timing_file import timing_key
from normbench.runs.writer import is_due, write_experiment

_COMPILED_TOGETHER = 12
"""Norms, say: so many that the first run does not wait for long."""
_WORTH_TELLING_SECONDS = 2.0


@dataclass(frozen=True)
class RunOptions:
    """What is not the experiment: where things are, and what to redo."""

    runs_dir: Path
    data_dir: Path | None
    force: bool
    retry: bool
    dry_run: bool
    keep_checkpoint: bool
    tensorboard: bool = False
    json_output: bool = False


def execute(loaded: LoadedConfig, options: RunOptions, worker: Worker) -> int:
    """Run the experiment, on `worker` first, and return the exit code: 0 if every run completed, else 1."""
    if options.tensorboard:
        from normbench.report.tensorboard import require_tensorboard

        require_tensorboard()
    drafts = draft_runs(loaded)
    folder = options.runs_dir / loaded.experiment.name
    plans = _finish_plans(loaded, drafts, worker)
    if options.dry_run:
        print_dry_run(folder, plans, force=options.force, retry=options.retry, json_output=options.json_output)
        return 0
    states = {plan.run_id: planned_state(folder / plan.run_id) for plan in plans}
    due = [plan for plan in plans if is_due(states[plan.run_id], force=options.force, retry=options.retry)]
    images = {_images(plan.config): plan.config for plan in due}
    for config in reversed(images.values()):  # the last ones stay loaded, and the first run takes the first
        _check_data(config, options.data_dir, worker)
    _compile_kernels(due, options.data_dir, worker)
    if len(plans) < len(drafts):
        note(f"normbench: {len(drafts) - len(plans)} repeated runs left out")
    write_experiment(folder, resolved_experiment(loaded.experiment, plans))
    with ExitStack() as stack:
        others = [stack.enter_context(start_training_process(more)) for more in _other_workers(due, worker)]
        return 0 if _run(folder, plans, [worker, *others], options, loaded.experiment.baseline) else 1


def _other_workers(due: list[RunPlan], worker: Worker) -> list[dict[str, str]]:
    """Return the environments of the workers that can run `due` beside `worker`, no more than there is work for."""
    if len(due) < 2:
        return []
    devices = frozenset(plan.config.device for plan in due)
    environments: list[dict[str, str]] = worker.call("normbench.worker.train_run:worker_environments", devices)
    return environments[1 : len(due)]


def _images(config: RunConfig) -> str:
    return f"{config.dataset.model_dump_json()} {config.device}"


def _check_data(config: RunConfig, data_dir: Path | None, worker: Worker) -> None:
    dataset = config.dataset
    worker.call("normbench.worker.train_run:check_data", dataset.name, dataset.options, data_dir, config.device)


def _compile_kernels(due: list[RunPlan], data_dir: Path | None, worker: Worker) -> None:
    """Have the kernels of the first runs compiled together; the later ones compile what is theirs alone."""
    configs: dict[str, RunConfig] = {}
    for plan in due:
        if plan.config.device == "cuda" and len(configs) < _COMPILED_TOGETHER:
            configs.setdefault(timing_key(plan.config), plan.config)  # seeds have the same kernels
    if not configs:
        return
    target = "normbench.worker.train_run:compile_kernels"
    seconds: float = worker.call(target, list(configs.values()), data_dir)
    if seconds > _WORTH_TELLING_SECONDS:
        note(f"normbench: kernels compiled in {seconds:.1f} s")


def _finish_plans(loaded: LoadedConfig, drafts: list[Draft], worker: Worker) -> list[RunPlan]:
    try:
        worker.submit("normbench.experiment.plan:finish_plans", drafts)
        load_libraries()  # while the worker imports torch
        plans: list[RunPlan] = worker.result()
    except WorkerError as error:
        if error.failure.kind == "PlanError":
            position, _, message = str(error).partition("|")
            raise loaded.error(("norms", int(position)), message) from None
        raise
    return plans


def _run(folder: Path, plans: list[RunPlan], workers: list[Worker], options: RunOptions, baseline: str | None) -> bool:
    """Run the plans, time their norms against each other, and report on all that is recorded, whatever happens.

    Return whether every run is completed.
    """
    display = make_display(plans)

    def listen(event: ExperimentEvent) -> None:
        display(event)
        if isinstance(event, RunEnded) and not event.skipped:
            _report_run(folder / event.plan.run_id, options)

    runner = ExperimentRunner(
        folder, workers, listen, options.data_dir, options.force, options.retry, options.keep_checkpoint
    )
    try:
        with HeldSignals() as signals, display:
            completed = runner.run(plans, signals.arrived)
            if not signals.arrived():
                timing = TimingPass(folder, plans, workers[0], display, options.data_dir, baseline, options.force)
                timing.run(signals.arrived)
            return completed
    finally:
        for worker in workers:
            worker.dismiss()  # they end while the report is written
        _report(folder, options)


def _report_run(run_folder: Path, options: RunOptions) -> None:
    from normbench.report import write_run_report
    from normbench.report.tensorboard import write_run_tensorboard

    try:
        write_run_report(run_folder)
        if options.tensorboard:
            write_run_tensorboard(run_folder)
    except OSError as error:
        note(f"normbench: {run_folder}: the loss curve cannot be written: {error.strerror}")


def _report(folder: Path, options: RunOptions) -> None:
    """Write the report over what is recorded, also after an interrupt, and print its tables and where it is."""
    from normbench.report import write_report_of
    from normbench.report.build_table import comparison_tables
    from normbench.report.formats import to_json
    from normbench.report.tensorboard import write_tensorboard
    from normbench.runs.records import REPORT_FOLDER, read_experiment

    if not any(folder.glob(f"*/{STATUS_FILE}")):
        return  # nothing is recorded
    try:
        experiment = read_experiment(folder)
        tables = comparison_tables(experiment)
        if options.json_output:
            print(to_json(tables), end="")
        else:
            for table in tables:
                print_comparison(table)
        write_report_of(experiment)
        if options.tensorboard:
            write_tensorboard(experiment)
        tell = note if options.json_output else print
        tell(f"\nFigures, tables and report.html are in {folder / REPORT_FOLDER}/")
    except RunError as error:
        note(f"normbench: no report: {error}")
    except OSError as error:
        note(f"normbench: {folder / REPORT_FOLDER}: the report cannot be written: {error.strerror}")
