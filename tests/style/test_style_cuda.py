"""Needs a CUDA device: a captured step must compute what an eager one does, and a resumed run go on exactly."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from normbench.style.config import load_style_config, run_configs
from normbench.style.events import StyleEvent, StyleSteps
from style_cases import TINY

from normbench.runs.events import FactsLearned
from normbench.style.training import train_style_run

pytestmark = pytest.mark.gpu


@pytest.fixture(autouse=True)
def _deterministic() -> Iterator[None]:
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.benchmark = False
    yield
    torch.backends.cudnn.deterministic = False


def run(folder: Path, features_run: Path, norm: str, *, resume: bool = False, **train: object) -> Iterator[StyleEvent]:
    settings = {**TINY, "train": {"steps": 8, "batch_size": 4, "precision": "fp32", **train}, "seeds": [0]}
    (config,) = run_configs(load_style_config(None, flags={"norms": [norm], **settings}), "cuda")
    return train_style_run(config, features_run, None, folder, resume)


def losses(events: list[StyleEvent]) -> list[tuple[float, ...]]:
    return [row for event in events if isinstance(event, StyleSteps) for row in event.losses]


@pytest.mark.parametrize("norm", ["in", "bn", "gn", "ln", "none", "brn"])
def test_a_captured_run_agrees_with_an_eager_run_step_by_step(tmp_path: Path, features_run: Path, norm: str) -> None:
    eager = list(run(tmp_path, features_run, norm, engine="eager"))
    captured = list(run(tmp_path, features_run, norm, engine="graph"))
    assert not any("engine_fallback" in event.facts for event in captured if isinstance(event, FactsLearned))
    np.testing.assert_allclose(losses(captured), losses(eager), rtol=1e-3)


def test_a_resumed_captured_run_goes_on_as_if_never_stopped(
    tmp_path: Path, features_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("normbench.style.trainer._STEPS_BETWEEN_REPORTS", 2)
    straight = losses(list(run(tmp_path, features_run, "bn")))
    first = run(tmp_path, features_run, "bn")
    head = [next(first) for _ in range(4)]
    first.close()  # type: ignore[attr-defined]
    tail = list(run(tmp_path, features_run, "bn", resume=True))
    assert len(losses(head)) == 4
    np.testing.assert_allclose(losses(head) + losses(tail), straight, rtol=1e-3)


def test_bf16_trains_too(tmp_path: Path, features_run: Path) -> None:
    events = list(run(tmp_path, features_run, "in", precision="bf16"))
    assert np.isfinite(losses(events)).all()
