"""What happens before the first run of an experiment."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from local_worker import LocalWorker

from normbench.config.load import load_config
from normbench.config.schema import RunConfig
from normbench.experiment import execute
from normbench.experiment.execute import RunOptions, plan_experiment
from normbench.experiment.plan import RunPlan
from normbench.norms import NORMS
from normbench.worker import targets
from normbench.worker.targets import RunRequest


def plan(norm: str, seed: int, device: str) -> RunPlan:
    content = {"norm": norm, "model": "norm_resnet", "dataset": "synthetic", "train": {}}
    config = RunConfig.model_validate({**content, "seed": seed, "device": device})
    return RunPlan(config.run_id, config, 0, "")


class Compiler:
    """Stands for a worker; compiling takes `seconds`."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.norms: list[str] = []
        self.later: list[str] = []

    def call(self, function: Any, requests: list[RunRequest], later: list[RunRequest]) -> float:
        assert function is targets.compile_kernels
        self.norms += [request.config.norm.name for request in requests]
        self.later += [request.config.norm.name for request in later]
        return self.seconds


@pytest.mark.parametrize(("seconds", "said"), [(0.4, ""), (4.04, "normbench: kernels compiled in 4.0 s\n")])
def test_norms_are_compiled_together_once_and_only_for_a_gpu(
    seconds: float, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    compiler: Any = Compiler(seconds)
    due = [plan(norm, seed, "cuda") for seed in (0, 1) for norm in ("gn", "bn", "in")]
    execute._compile_kernels([plan("ln", 0, "cpu"), *due], Path("runs"), RunOptions(), compiler, None)
    assert (compiler.norms, compiler.later) == (["gn", "bn", "in"], [])
    assert capsys.readouterr().err == said


def test_of_many_norms_the_first_ones_are_waited_for() -> None:
    compiler: Any = Compiler(9.0)
    norms = [name for name in NORMS if name != "custom_bn"][:15]
    due = [plan(norm, seed, "cuda") for norm in norms for seed in (0, 1)]
    execute._compile_kernels(due, Path("runs"), RunOptions(), compiler, None)
    assert (compiler.norms, compiler.later) == (norms[:12], norms[12:])


def test_where_nothing_runs_on_a_gpu_nobody_is_asked() -> None:
    compiler: Any = Compiler(9.0)
    execute._compile_kernels([plan("ln", 0, "cpu")], Path("runs"), RunOptions(), compiler, None)
    assert compiler.norms == []


SLOW = "normbench: bf16 on a CPU that has no instructions for it: --precision fp32 is several times as fast\n"


@pytest.mark.parametrize(
    ("precision", "is_slow", "said"),
    [("bf16", True, SLOW), ("bf16", False, ""), ("fp32", True, ""), ("auto", True, "")],
)
def test_whoever_asks_for_bf16_on_a_cpu_without_instructions_for_it_is_told(
    precision: str, is_slow: bool, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(targets, "computes_bf16_slowly", lambda: is_slow)
    config = {
        "name": "tiny", "norms": ["bn"], "device": "cpu", "model": {"name": "norm_resnet_small"},
        "dataset": {"name": "synthetic"}, "train": {"precision": precision},
    }  # fmt: skip
    worker: Any = LocalWorker()
    plan_experiment(load_config(config), worker)
    assert capsys.readouterr().err == said
