"""Each norm at its own learning rate: what a config may ask for, which runs that means, and all of it on a CPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

import normbench
from normbench.config.load import load_config
from normbench.config.tuning import FIRST_SEED, TuneConfig
from normbench.errors import ConfigError
from normbench.experiment.plan import draft_runs
from normbench.experiment.tuning import tuning_of
from normbench.runs.tuning_file import read_tuning

BASE: dict[str, Any] = {"name": "t", "norms": ["bn", "gn"], "seeds": 2}


def test_the_tuning_has_every_norm_at_every_rate_on_held_out_images_and_seeds_of_its_own() -> None:
    loaded = load_config(BASE | {"tune": {"lr": [1e-2, 1e-3, 1e-2], "seeds": 2}, "batch_one": {}})
    drafts = draft_runs(tuning_of(loaded))
    found = {(d.config["norm"]["name"], d.config["train"]["learning_rate"], d.config["seed"]) for d in drafts}
    seeds = (FIRST_SEED, FIRST_SEED + 1)
    assert found == {(norm, rate, seed) for norm in ("bn", "gn") for rate in (1e-3, 1e-2) for seed in seeds}
    assert len(drafts) == 8
    assert {d.config["dataset"]["options"]["eval_split"] for d in drafts} == {"val"}
    assert tuning_of(loaded).experiment.name == "t-tune"


def test_rates_of_a_range_are_the_same_for_everybody_and_log_uniform() -> None:
    tune = TuneConfig.model_validate({"lr": {"low": 1e-5, "high": 1e-1}, "trials": 400})
    assert tune.rates == TuneConfig.model_validate({"lr": {"low": 1e-5, "high": 1e-1}, "trials": 400}).rates
    assert len(tune.rates) == 400
    assert min(tune.rates) >= 1e-5
    assert max(tune.rates) <= 1e-1
    below = sum(rate < 1e-3 for rate in tune.rates) / 400
    assert 0.42 < below < 0.58, "half of the decades"
    assert len(TuneConfig.model_validate({"lr": {"low": 1e-4, "high": 1e-1}}).rates) == 8


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"tune": {"lr": [1e-3]}}, "tune"),
        ({"tune": {"lr": [1e-3, -1.0]}}, "greater than 0"),
        ({"tune": {"lr": {"low": 1e-1, "high": 1e-3}}}, "from the lower to the higher"),
        ({"tune": {"lr": [1e-3, 1e-2], "trials": 4}}, "a list has as many as it has"),
        ({"tune": {"rates": [1e-3, 1e-2]}}, "unknown key"),
        ({"tune": {"lr": [1e-3, 1e-2]}, "grid": {"train.batch_size": [4, 8]}}, "tune and grid"),
        ({"tune": {"lr": [1e-3, 1e-2]}, "lr_scaling": "sqrt"}, "tune and lr_scaling"),
        ({"tune": {"lr": [1e-3, 1e-2], "shared_rate": False}, "batch_one": {}}, "batch_one and sources"),
        ({"tune": {"lr": [1e-3, 1e-2]}, "norms": [{"name": "bn", "train": {"lr": 0.1}}]}, "bn sets its own"),
    ],
)
def test_what_cannot_be_tuned_is_said_before_anything_runs(more: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config(BASE | more)


def test_a_data_set_without_held_out_images_must_be_tuned_on_what_it_has() -> None:
    loaded = load_config(BASE | {"dataset": "synthetic", "tune": {"lr": [1e-3, 1e-2]}})
    with pytest.raises(ConfigError, match=r"tune\.split: data set synthetic holds no .* tune\.split: test"):
        tuning_of(loaded)


def test_a_config_without_tune_has_the_run_ids_it_had() -> None:
    (draft, *_) = draft_runs(load_config(BASE))
    assert "tune" not in draft.config


@pytest.mark.slow
def test_a_comparison_at_the_norms_own_rates_alone_trains_nothing_at_the_shared_one(tmp_path: Path) -> None:
    config = BASE | {
        "seeds": 1,
        "dataset": {"name": "synthetic", "options": {"num_train": 128, "num_test": 128}},
        "model": "norm_resnet_small",
        "train": {"epochs": 1, "lr": 5e-4},
        "tune": {"lr": [1e-3, 1e-2], "seeds": 1, "split": "test", "shared_rate": False},
        "device": "cpu",
    }
    result = normbench.compare(config, runs_dir=tmp_path)
    assert result.is_complete
    chosen = read_tuning(tmp_path / "t").chosen
    assert set(chosen) == {"BN", "GN"}
    assert {(row["label"], row["train.learning_rate"]) for row in result.rows()} == set(chosen.items())
    (table,) = result.report.tables
    assert [row.runs for row in table.rows] == ["1/1", "1/1"]
    assert result.report.sections[0].rates == "each its own"
    assert [path.parent.name for path in tmp_path.glob("*/timing.json")] == ["t"], "the tuning is not timed"


@pytest.mark.slow
def test_tuning_and_the_comparison_after_it(tmp_path: Path) -> None:
    config = BASE | {
        "dataset": {"name": "synthetic", "options": {"num_train": 256, "num_test": 256}},
        "train": {"epochs": 1, "lr": 1e-3},
        "tune": {"lr": [1e-3, 1e-2], "seeds": 1, "split": "test"},
        "device": "cpu",
    }
    result = normbench.compare(config, runs_dir=tmp_path)
    assert result.is_complete
    tuning = read_tuning(tmp_path / "t")
    by_rate = {(t.label, t.learning_rate): t.score for t in tuning.trials}
    for label, rate in tuning.chosen.items():
        assert by_rate[label, rate] == max(by_rate[label, other] for other in (1e-3, 1e-2))
    seeds = {row["seed"] for row in result.rows()}
    assert seeds == {0, 1}, "none of those it was tuned with"
    wanted = {("BN", 1e-3), ("GN", 1e-3), *tuning.chosen.items()}
    assert {(row["label"], row["train.learning_rate"]) for row in result.rows()} == wanted
    assert len(result.report.tables) == 2
    assert yaml.safe_load((tmp_path / "t" / "experiment.yaml").read_text())["tune"]["seeds"] == 1
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*/*/summary.json")}
    again = normbench.compare(config, runs_dir=tmp_path)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.glob("*/*/summary.json")} == before
    assert again.table("json") == result.table("json")
