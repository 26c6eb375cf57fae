"""Seeds in stages, without training: each stage's runs are written as training would leave them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from normbench.errors import ConfigError
from normbench.experiment.looks import run_stages, stages
from normbench.experiment.stopping import most_seeds
from normbench.runs.looks_file import read_looks
from tests.report.conftest import make_run


def plans_of(norms: Sequence[str], num_seeds: int) -> list[Any]:
    config = SimpleNamespace
    return [
        SimpleNamespace(run_id=f"{norm}-s{seed}", config=config(seed=seed, norm=config(name=norm), label=norm))
        for seed in range(num_seeds)
        for norm in norms
    ]


def run_with(folder: Path, gaps: dict[str, float], *, noise: float = 0.001) -> Any:
    """Return a function that "trains": norms differ from bn by their gap, give or take the noise."""

    def run(plans: Sequence[Any]) -> bool:
        for plan in plans:
            norm, seed = plan.config.norm.name, plan.config.seed
            if (folder / plan.run_id).exists():
                continue
            accuracy = 0.7 + 0.01 * (seed % 7) + gaps[norm] + (noise * (-1) ** seed if norm != "bn" else 0.0)
            make_run(folder, norm, seed, accuracy=accuracy, folder_name=plan.run_id, steps_per_epoch=2)
        return True

    return run


def seeds_run(folder: Path, gaps: dict[str, float], max_seeds: int = 12, **more: Any) -> int:
    left = stages(plans_of(list(gaps), max_seeds), max_seeds, folder)
    *_, (plans, is_complete) = run_stages(left, folder, max_seeds, run_with(folder, gaps, **more))
    assert is_complete
    return len({plan.config.seed for plan in plans})


def test_seeds_are_added_until_all_is_resolved(tmp_path: Path) -> None:
    assert seeds_run(tmp_path / "clear", {"bn": 0.0, "gn": 0.08}) == 3
    assert seeds_run(tmp_path / "close", {"bn": 0.0, "gn": 0.08, "ln": 0.0012}) == 5, "ln waits for 'equivalent'"
    assert seeds_run(tmp_path / "open", {"bn": 0.0, "gn": 0.005}, noise=0.02) == 12, (
        "neither equivalent nor different enough"
    )
    assert [len(look.seeds) for look in read_looks(tmp_path / "open").looks] == [3, 5, 8, 12]


def test_what_was_looked_at_is_no_stage_again(tmp_path: Path) -> None:
    assert seeds_run(tmp_path, {"bn": 0.0, "gn": 0.08, "ln": 0.0012}) == 5
    assert [len(stage) // 3 for stage in stages(plans_of(["bn", "gn", "ln"], 12), 12, tmp_path)] == [5, 8, 12]
    with pytest.raises(ConfigError, match="up to 12 seeds"):
        stages(plans_of(["bn"], 20), 20, tmp_path)


def test_a_stage_that_did_not_end_is_no_look(tmp_path: Path) -> None:
    plans = plans_of(["bn", "gn"], 5)
    run = run_with(tmp_path, {"bn": 0.0, "gn": 0.05})
    stopped = [
        list(stage) for stage, _ in run_stages(stages(plans, 5, tmp_path), tmp_path, 5, lambda all: run(all[1:]))
    ]
    assert len(stopped) == 1
    assert read_looks(tmp_path).looks == ()


def test_arguments_that_contradict_each_other() -> None:
    assert most_seeds(None, None, until_resolved=True) == 20
    assert most_seeds(3, None, until_resolved=False) is None
    for seeds, maximum, flag in ((3, None, True), (None, 8, False), (None, 2, True)):
        with pytest.raises(ConfigError):
            most_seeds(seeds, maximum, until_resolved=flag)
