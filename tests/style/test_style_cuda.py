"""Needs a CUDA device: a captured step must compute what an eager one does, and a resumed run go on exactly."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from style_cases import tiny_run

from normbench.runs.events import FactsLearned, RunEvent, StepsDone
from normbench.worker.targets import RunRequest
from normbench.worker.train_run import train_run

pytestmark = pytest.mark.gpu


@pytest.fixture(autouse=True)
def _deterministic() -> Iterator[None]:
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.benchmark = False
    yield
    torch.backends.cudnn.deterministic = False


def run(folder: Path, features_run: Path, norm: str, *, resume: bool = False, **train: object) -> Iterator[RunEvent]:
    settings = {"steps": 8, "batch_size": 4, "precision": "fp32", **train}
    config = tiny_run(norm, device="cuda", train=settings)
    return train_run(RunRequest(config, folder, None, resume, keep_checkpoint=False, prerequisite=features_run))


def losses(events: list[RunEvent]) -> list[tuple[float, ...]]:
    return [row for event in events if isinstance(event, StepsDone) for row in event.losses]


@pytest.mark.parametrize("norm", ["in", "bn", "gn", "ln", "none", "brn"])
def test_a_captured_run_agrees_with_an_eager_run_step_by_step(tmp_path: Path, features_run: Path, norm: str) -> None:
    eager = list(run(tmp_path, features_run, norm, engine="eager"))
    captured = list(run(tmp_path, features_run, norm, engine="graph"))
    assert not any("engine_fallback" in event.facts for event in captured if isinstance(event, FactsLearned))
    np.testing.assert_allclose(losses(captured), losses(eager), rtol=1e-3)


def test_a_resumed_captured_run_goes_on_as_if_never_stopped(
    tmp_path: Path, features_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("normbench.engine.trainer.STEPS_BETWEEN_REPORTS", 2)
    straight = losses(list(run(tmp_path, features_run, "bn")))
    first = run(tmp_path, features_run, "bn")
    head = [next(first) for _ in range(4)]  # a first step, how it ran, and two steps
    first.close()  # type: ignore[attr-defined]
    tail = list(run(tmp_path, features_run, "bn", resume=True))
    assert len(losses(head)) == 3
    np.testing.assert_allclose(losses(head) + losses(tail), straight, rtol=1e-3)


def test_bf16_trains_too(tmp_path: Path, features_run: Path) -> None:
    events = list(run(tmp_path, features_run, "in", precision="bf16"))
    assert np.isfinite(losses(events)).all()
