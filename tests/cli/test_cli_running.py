"""What `train` and `compare` do before the first run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from normbench.cli import running
from normbench.config.schema import RunConfig
from normbench.experiment.plan import RunPlan, run_id_of


def plan(norm: str, seed: int, device: str) -> RunPlan:
    content = {"norm": norm, "model": "norm_resnet", "dataset": "synthetic", "train": {}}
    config = RunConfig.model_validate({**content, "seed": seed, "device": device})
    return RunPlan(run_id_of(config), config, 0, "")


class Compiler:
    """Stands for a worker; compiling takes `seconds`."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.norms: list[str] = []

    def call(self, target: str, configs: list[RunConfig], data_dir: Path | None) -> float:
        self.norms += [config.norm.name for config in configs]
        return self.seconds


@pytest.mark.parametrize(("seconds", "said"), [(0.4, ""), (4.04, "normbench: kernels compiled in 4.0 s\n")])
def test_norms_are_compiled_together_once_and_only_for_a_gpu(
    seconds: float, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    compiler: Any = Compiler(seconds)
    due = [plan(norm, seed, "cuda") for seed in (0, 1) for norm in ("gn", "bn", "in")]
    running._compile_kernels([plan("ln", 0, "cpu"), *due], None, compiler)
    assert compiler.norms == ["gn", "bn", "in"]
    assert capsys.readouterr().err == said


def test_where_nothing_runs_on_a_gpu_nobody_is_asked() -> None:
    compiler: Any = Compiler(9.0)
    running._compile_kernels([plan("ln", 0, "cpu")], None, compiler)
    assert compiler.norms == []
