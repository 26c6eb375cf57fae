"""A comparison that was really trained, once for all tests, and the bundle made of it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from local_worker import LocalWorker

import normbench
from normbench.bundle.description import Credit
from normbench.bundle.write import write_bundle

TINY = {
    "norms": ["bn", "gn"],
    "seeds": 3,
    "dataset": {"name": "synthetic", "options": {"num_train": 24, "num_test": 10}},
    "train": {"epochs": 2, "batch_size": 16},
    "device": "cpu",
    "name": "tiny",
}
AUTHORS = ("Lovelace, Ada", "The Example Society")


def _time_nothing(timing_pass, stop_requested=None) -> None:
    """Write what a timing pass would, in no time."""
    environment = json.loads(next(timing_pass.folder.glob("*/environment.json")).read_text())
    timed = [
        {
            "label": plan.config.label,
            "config": plan.config.timing_fields,
            "seconds_per_step": [0.25 + 0.01 * number, 0.26 + 0.01 * number],
            "steps_per_block": 1,
            "steps_per_epoch": 1.5,
        }
        for number, plan in enumerate(timing_pass.plans)
        if plan.config.seed == 0
    ]
    sessions = [{"environment": environment, "measured_at": "2026-01-01T00:00:00+00:00", "timed": timed}]
    (timing_pass.folder / "timing.json").write_text(json.dumps({"schema_version": 1, "sessions": sessions}))


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a comparison of two norms with three seeds; not to be changed."""
    folder = tmp_path_factory.mktemp("bundle")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("normbench.experiment.worker_process.Worker", LocalWorker)
        patch.setattr("normbench.experiment.execute.write_report_of", lambda _: [])
        patch.setattr("normbench.experiment.execute.write_run_report", lambda _: [])
        patch.setattr("normbench.experiment.timing_pass.TimingPass.run", _time_nothing)
        normbench.compare(TINY, runs_dir=folder, listener=lambda _: None)
    return folder / "tiny"


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
def config_of() -> Callable[..., dict[str, object]]:
    """Return the comparison's config with other values."""
    return lambda **changes: {**TINY, **changes}
