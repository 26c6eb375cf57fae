"""What ``stylize train`` and ``stylize compare`` share: the feature network, the runs, the report."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import platformdirs

from normbench.cli.console import note
from normbench.cli.display import make_display
from normbench.cli.interrupts import HeldSignals
from normbench.config import Device
from normbench.data import DATASETS
from normbench.errors import NormBenchError
from normbench.experiment.environment import describe_program
from normbench.experiment.plan import draft_runs
from normbench.experiment.run import ExperimentRunner
from normbench.loader import load_config
from normbench.records import CHECKPOINT_FILE
from normbench.style.config import StyleExperiment, StyleRunConfig, run_configs
from normbench.style.events import StyleEvent, StyleStarted, StyleSteps
from normbench.style.run import StyleRunEnded, run_styles
from normbench.workers import Worker

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


def execute(experiment: StyleExperiment, runs_dir: Path, data_dir: Path | None, *, force: bool) -> int:
    """Run the experiment and return the exit code: 0 if every run completed, else 1."""
    folder = runs_dir / experiment.name
    with Worker() as worker:
        device: Device = worker.call("normbench.style.training:find_device", experiment.device)
        configs = run_configs(experiment, device)
        worker.call("normbench.style.training:check_runs", configs)
        features_run = _features_run(experiment, device, data_dir, worker)
        worker.call("normbench.style.training:check_features", configs[0], features_run)
        try:
            with HeldSignals() as signals:
                completed = run_styles(
                    folder,
                    configs,
                    worker,
                    _print_event,
                    features_run=features_run,
                    data_dir=data_dir,
                    program=describe_program(),
                    force=force,
                    stop_requested=signals.arrived,
                )
        finally:
            _report(folder, configs)
    return 0 if completed else 1


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
        worker.call("normbench.experiment.train:check_data", config.name, config.options, data_dir, device)
    with HeldSignals() as signals:
        completed = runner.run(plans, signals.arrived)
    if not completed:
        raise NormBenchError(f"the feature network is not trained: see {run_folder}")
    return run_folder


def _print_event(config: StyleRunConfig, event: StyleEvent | StyleRunEnded) -> None:
    """Print what `event` says, if it is a line's worth, to stderr."""
    name = f"{config.label} seed {config.seed}"
    if isinstance(event, StyleStarted):
        for problem in event.problems:
            note(f"normbench: left out: {problem}")
    elif isinstance(event, StyleSteps):
        for step, losses in enumerate(event.losses, event.first_step):
            if step % _STEPS_BETWEEN_LINES == 0:
                progress = f"{name} | Step {step}/{event.num_steps}"
                note(f"{progress} | Content: {losses.content:.4f} | Style: {losses.style:.4f}")
    elif isinstance(event, StyleRunEnded):
        summary = event.result.summary
        if summary is None:
            note(f"{name}: {event.result.state}: {event.result.reason}")
        else:
            kept = "completed before, kept" if event.skipped else f"{summary.train_seconds:.1f} s training"
            note(f"{name}: content {summary.content_loss:.4f}, style {summary.style_loss:.4f} ({kept})")


def _report(folder: Path, configs: list[StyleRunConfig]) -> None:
    """Draw the report over what is recorded, and print where it and the models are."""
    from normbench.style.records import MODEL_FILE, RESULT_FILE, read_style_experiment
    from normbench.style.report import style_groups, style_table, write_style_report

    if not any(folder.glob(f"*/{RESULT_FILE}")):
        return
    paths = write_style_report(folder)
    print(style_table(style_groups(read_style_experiment(folder))))
    models = [folder / config.run_id / MODEL_FILE for config in configs]
    print("\n".join(map(str, [*(model for model in models if model.is_file()), *paths])))
