"""What ``stylize train`` and ``stylize compare`` share: the feature network, the runs, the report."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import platformdirs

from normbench.cli.console import note, print_table
from normbench.cli.display import STOPPING, hitch, make_display
from normbench.cli.interrupts import HeldSignals
from normbench.config.load import load_config
from normbench.config.schema import Device
from normbench.data import DATASETS
from normbench.errors import NormBenchError, RunError
from normbench.experiment.plan import draft_runs
from normbench.experiment.runner import ExperimentRunner
from normbench.experiment.worker_process import Worker
from normbench.runs.events import CheckpointFailed, FactsLearned
from normbench.runs.provenance import describe_program
from normbench.runs.records import CHECKPOINT_FILE, REPORT_FOLDER, find_runs
from normbench.runs.writer import is_due, write_experiment
from normbench.style.config import StyleExperiment, StyleRunConfig, run_configs
from normbench.style.events import StyleStarted, StyleSteps
from normbench.style.records import MODEL_FILE
from normbench.style.run import Happening, StyleRunBusy, StyleRunEnded, StyleRunner, StyleStopping, planned_state

if TYPE_CHECKING:
    from normbench.style.page import Grid

_STEPS_BETWEEN_LINES = 100

FEATURE_RECIPE: Mapping[str, Any] = {
    "optimizer": "sgd",
    "weight_decay": 5e-4,
    "schedule": "one_cycle",
    "augment": "crop_flip",
}
FEATURE_TRAINING: Mapping[Device, Mapping[str, Any]] = {
    "cuda": {"epochs": 10, "batch_size": 512, "learning_rate": 0.4},
    "mps": {"epochs": 5, "batch_size": 512, "learning_rate": 0.4},
    "cpu": {"epochs": 3, "batch_size": 64, "learning_rate": 0.05},
}
FEATURE_IMAGES: Mapping[Device, Mapping[str, int]] = {
    "cuda": {},
    "mps": {},
    "cpu": {"num_train": 4000, "num_test": 1000},
}
"""How the default feature network is trained, by device: as well as a minute, or on a CPU some minutes, allow."""


@dataclass(frozen=True)
class StyleOptions:
    """What is not the experiment: where things are, and what to redo."""

    runs_dir: Path
    data_dir: Path | None
    force: bool
    retry: bool
    dry_run: bool = False


def execute(experiment: StyleExperiment, options: StyleOptions) -> int:
    """Run the experiment and return the exit code: 0 if every run completed, else 1."""
    folder = options.runs_dir / experiment.name
    data_dir = options.data_dir
    with Worker(preload="normbench.style.training") as worker:
        device: Device = worker.call("normbench.style.training:find_device", experiment.device)
        configs = run_configs(experiment, device)
        worker.call("normbench.style.training:check_runs", configs)
        if options.dry_run:
            _print_dry_run(folder, configs, options)
            return 0
        features_run = _features_run(experiment, device, data_dir, worker)
        worker.call("normbench.style.training:check_features", configs[0], features_run)
        write_experiment(folder, experiment)
        runner = StyleRunner(
            folder,
            worker,
            lambda config, event: _tell(folder, config, event),
            features_run,
            data_dir,
            describe_program(),
            options.force,
            options.retry,
        )
        try:
            with HeldSignals() as signals:
                completed = runner.run(configs, signals.arrived)
        finally:
            _report(folder, configs)
    return 0 if completed else 1


def _print_dry_run(folder: Path, configs: Sequence[StyleRunConfig], options: StyleOptions) -> None:
    """Print the runs with their state; trains nothing, the feature network neither."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    states = [planned_state(folder / config.run_id) for config in configs]
    num_due = sum(is_due(state, force=options.force, retry=options.retry) for state in states)
    table = Table(box=SIMPLE_HEAD, pad_edge=False, title_justify="left", title=Text(str(folder), style="bold"))
    for header in ("run", "norm", "seed", "steps", "state"):
        table.add_column(header, justify="right" if header in ("seed", "steps") else "left", overflow="fold")
    for config, state in zip(configs, states, strict=True):
        cells = (config.run_id, config.label, str(config.seed), f"{config.train.steps:,}", state)
        table.add_row(*map(Text, cells))
    print_table(table)
    counts = ", ".join(f"{count} {state}" for state, count in Counter(states).items())
    print(f"{len(configs)} runs ({counts}); {num_due} to run")


def _features_run(experiment: StyleExperiment, device: Device, data_dir: Path | None, worker: Worker) -> Path | None:
    """Return the folder of the resnet9 run that serves as feature network; None for VGG-16."""
    if experiment.features == "vgg16":
        return None
    if experiment.features != "resnet9":
        return Path(experiment.features)
    dataset = experiment.content if experiment.content in DATASETS else "cifar10"
    return default_features(dataset, device, data_dir, worker)


def default_features(dataset: str, device: Device, data_dir: Path | None, worker: Worker) -> Path:
    """Return the folder of the default feature network's run, in the user cache; train it where it is not there yet.

    Raises:
        DataError: the data set is missing or damaged.
        NormBenchError: the training failed or was stopped.
    """
    flags: dict[str, Any] = {
        "norm": "bn",
        "model": "resnet9",
        "dataset": {"name": dataset, "options": FEATURE_IMAGES[device]},
        "train": {**FEATURE_RECIPE, **FEATURE_TRAINING[device]},
        "device": device,
        "name": f"features-{dataset}",
    }
    loaded = load_config(None, flags=flags)
    plans = worker.call("normbench.experiment.plan:finish_plans", draft_runs(loaded))
    root = platformdirs.user_cache_path("normbench") / loaded.experiment.name
    run_folder: Path = root / plans[0].run_id
    is_there = (run_folder / CHECKPOINT_FILE).is_file()
    runner = ExperimentRunner(
        root, [worker], make_display(plans), data_dir, force=not is_there, retry=True, keep_checkpoint=True
    )
    if not is_there:
        note(f"normbench: training the feature network once, a resnet9 on {dataset}; it is kept in {run_folder}")
        config = plans[0].config.dataset
        worker.call("normbench.worker.train_run:check_data", config.name, config.options, data_dir, device)
    with HeldSignals() as signals:
        completed = runner.run(plans, signals.arrived)
    if not completed:
        raise NormBenchError(f"the feature network is not trained: see {run_folder}")
    return run_folder


def _tell(folder: Path, config: StyleRunConfig, event: Happening) -> None:
    """Print what `event` says, if it is a line's worth, to stderr; draw a run that has ended."""
    name = f"{config.label} seed {config.seed}"
    if isinstance(event, StyleStarted):
        for problem in event.problems:
            note(f"normbench: left out: {problem}")
        if event.losses:
            note(f"{name}: goes on after step {len(event.losses)}")
    elif isinstance(event, StyleSteps):
        for step, losses in enumerate(event.losses, event.first_step):
            if step % _STEPS_BETWEEN_LINES == 0:
                progress = f"{name} | Step {step}/{event.num_steps}"
                note(f"{progress} | Content: {losses.content:.4f} | Style: {losses.style:.4f}")
    elif isinstance(event, FactsLearned | CheckpointFailed):
        if text := hitch(event):
            note(f"{name}: {text}")
    elif isinstance(event, StyleStopping):
        note(STOPPING)
    elif isinstance(event, StyleRunBusy):
        note(f"{name}: another process is training it; left to that")
    elif isinstance(event, StyleRunEnded):
        note(f"{name}: {_ending(event)}")
        if not event.skipped:
            _draw(folder / config.run_id)


def _ending(event: StyleRunEnded) -> str:
    """Say in a line how a run ended."""
    state, summary = event.status.state, event.summary
    if summary is None or state != "completed":
        hint = "; --retry runs it again" if event.skipped and state in ("failed", "diverged") else ""
        return f"{state}: {event.status.reason}{hint}"
    kept = "completed before, kept" if event.skipped else f"{summary.train_seconds:.1f} s training"
    return f"content {summary.content_loss:.4f}, style {summary.style_loss:.4f} ({kept})"


def _draw(run_folder: Path) -> None:
    from normbench.style.report import write_style_run_report

    try:
        write_style_run_report(run_folder)
    except (OSError, RunError) as error:
        note(f"normbench: {run_folder}: the figures cannot be written: {error}")


def _report(folder: Path, configs: Sequence[StyleRunConfig]) -> None:
    """Write the report over what is recorded, also after an interrupt; print its tables and where all is."""
    from normbench.style.page import make_style_page
    from normbench.style.records import read_style_experiment
    from normbench.style.report import write_style_report

    if not find_runs(folder, of_style=True):
        return  # nothing is recorded
    try:
        page = make_style_page(read_style_experiment(folder))
        for grid in (page.results, page.tests):
            if grid is not None:
                _print_grid(grid)
        for failure in page.failures:
            print(failure)
        write_style_report(folder)
    except RunError as error:
        note(f"normbench: no report: {error}")
    except OSError as error:
        note(f"normbench: {folder / REPORT_FOLDER}: the report cannot be written: {error.strerror}")
    models = [model for config in configs if (model := folder / config.run_id / MODEL_FILE).is_file()]
    print("\n".join(map(str, models)))
    print(f"\nPictures, figures, tables and report.html are in {folder / REPORT_FOLDER}/")


def _print_grid(grid: Grid) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, pad_edge=False, caption_justify="left", caption=Text(grid.caption, style="dim"))
    for header, align in zip(grid.headers, grid.aligns, strict=True):
        table.add_column(Text(header), justify=align, overflow="fold")
    for row in grid.rows:
        table.add_row(*map(Text, row))
    print_table(table)
