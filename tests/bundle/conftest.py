"""A comparison recorded as training would have, the bundle made of it, and one run that was really trained."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from local_worker import LocalWorker

import normbench
from normbench.bundle.description import Credit
from normbench.bundle.write import write_bundle
from normbench.config.load import load_config
from normbench.config.schema import RunConfig
from normbench.data import DATASETS
from normbench.engine.device import describe
from normbench.models import MODELS
from normbench.runs.provenance import describe_program, write_provenance
from normbench.runs.timing_file import TimedNorm, Timing, TimingSession
from normbench.runs.writer import RunFolder, write_experiment
from normbench.tasks.classification import Summary
from normbench.tasks.task import EpochRow

IMAGES = {"num_train": 24, "num_test": 10}
TINY = {
    "norms": [{"name": "bn", "label": "BN"}, {"name": "gn", "label": "GN"}],
    "seeds": 3,
    "dataset": {"name": "synthetic", "options": IMAGES},
    "train": {"epochs": 2, "batch_size": 16, "precision": "fp32", "engine": "eager"},
    "device": "cpu",
    "name": "tiny",
}
AUTHORS = ("Lovelace, Ada", "The Example Society")
ENVIRONMENT = {
    **describe("cpu"), "precision": "fp32", "engine": "eager", "memory_format": "channels_last", "dataset": "synthetic",
    "dataset_sha256": "0" * 64, "is_synthetic": True, "norm_path": "native: no fused kernels on cpu",
}  # fmt: skip


def config_of_run(norm: str, seed: int) -> RunConfig:
    """Return a run's config with the defaults of network and images filled in."""
    return RunConfig.model_validate(
        {
            "norm": {"name": norm, "label": norm.upper()},
            "model": {"name": "norm_resnet", "options": dict(MODELS["norm_resnet"].options)},
            "dataset": {"name": "synthetic", "options": {**DATASETS["synthetic"].options, **IMAGES}},
            "train": TINY["train"],
            "seed": seed,
            "device": "cpu",
        }
    )


def record_run(folder: Path, config: RunConfig) -> None:
    """Record two epochs of two steps: 16 images, then 8."""
    draw = np.random.default_rng([sum(map(ord, config.norm.name)), config.seed])
    losses = [float(f"{loss:.7g}") for loss in 2.3 - 0.2 * draw.random(4)]
    rows = [
        EpochRow(
            epoch=epoch, num_steps=2 * epoch, train_loss=(16 * losses[2 * epoch - 2] + 8 * losses[2 * epoch - 1]) / 24,
            train_accuracy=draw.integers(25) / 24, test_loss=2 + draw.random(), test_accuracy=draw.integers(4, 8) / 10,
            train_seconds=0.5 + draw.random(), test_seconds=0.1, learning_rate=1e-3,
        )
        for epoch in (1, 2)
    ]  # fmt: skip
    last, seconds = rows[-1], [row.train_seconds for row in rows]
    summary = Summary(
        test_accuracy=last.test_accuracy, test_loss=last.test_loss, train_accuracy=last.train_accuracy,
        train_loss=last.train_loss, num_epochs=2, num_steps=4, num_parameters=1_557_066, train_seconds=sum(seconds),
        epoch_seconds=sum(seconds) / 2, startup_seconds=0.5, peak_memory_mib=100.0, images_per_second=48 / sum(seconds),
    )  # fmt: skip
    run = RunFolder(folder / config.run_id).acquire()
    run.begin(config, rows=rows, losses=[(loss,) for loss in losses])
    run.write_environment(describe_program() | ENVIRONMENT)
    run.finish(summary, keep_checkpoint=False)
    run.release()


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a comparison of two norms with three seeds; not to be changed."""
    folder = tmp_path_factory.mktemp("bundle") / "tiny"
    write_experiment(folder, load_config(TINY).experiment)
    write_provenance(folder)
    for norm in ("bn", "gn"):
        for seed in range(3):
            record_run(folder, config_of_run(norm, seed))
    timed = tuple(
        TimedNorm(
            label=norm.upper(), config=config_of_run(norm, 0).timing_fields, seconds_per_step=(seconds, seconds + 0.01),
            steps_per_block=1, steps_per_epoch=1.5,
        )
        for norm, seconds in (("bn", 0.25), ("gn", 0.26))
    )  # fmt: skip
    session = TimingSession(environment=ENVIRONMENT, measured_at="2026-01-01T00:00:00+00:00", timed=timed)
    (folder / "timing.json").write_text(Timing(sessions=(session,)).model_dump_json(indent=2) + "\n")
    return folder


@pytest.fixture(scope="session")
def made(trained: Path) -> Path:
    """The bundle of it."""
    path = trained.parent / "tiny.nbz"
    write_bundle(trained, path, Credit(AUTHORS))
    return path


@pytest.fixture
def experiment(trained: Path, tmp_path: Path) -> Path:
    """A copy of the comparison's folder, to be changed."""
    return Path(shutil.copytree(trained, tmp_path / "tiny"))


@pytest.fixture
def config_of() -> Callable[..., dict[str, Any]]:
    """Return the comparison's config with other values."""
    return lambda **changes: {**TINY, **changes}


@pytest.fixture
def training_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Train in this process, time and draw nothing."""
    monkeypatch.setattr("normbench.experiment.worker_process.Worker", LocalWorker)
    monkeypatch.setattr("normbench.experiment.execute.write_report_of", lambda _, **__: [])
    monkeypatch.setattr("normbench.experiment.execute.write_run_report", lambda _: [])
    monkeypatch.setattr("normbench.experiment.timing_pass.TimingPass.run", lambda *_: None)
    monkeypatch.setattr("normbench.bundle.write.write_report_of", lambda _, **__: [])


@pytest.fixture
def really_trained(training_here: None, config_of: Callable[..., dict[str, Any]], tmp_path: Path) -> Path:
    """The bundle of one run that was trained."""
    normbench.compare(config_of(norms=["bn"], seeds=1, name="real"), runs_dir=tmp_path, listener=lambda _: None)
    write_bundle(tmp_path / "real", tmp_path / "real.nbz", Credit())
    return tmp_path / "real.nbz"
