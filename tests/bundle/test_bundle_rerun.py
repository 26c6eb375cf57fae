"""Runs of a bundle are trained again: the same bits on the same machine, within the seeds' prediction elsewhere."""

import json
from pathlib import Path

import numpy as np
import pytest
from local_worker import LocalWorker
from scipy import stats
from zipped_bundle import changed, contents

from normbench.bundle import rerun as rerun_module
from normbench.bundle.rerun import are_bits_promised, prediction_interval, rerun_some
from normbench.bundle.verify import Verification
from normbench.errors import ConfigError
from normbench.runs.records import read_run


def verified(path: Path) -> Verification:
    return Verification(path, None, 6, ())


def elsewhere(made: Path, path: Path, **changes: bytes) -> Path:
    """Return the bundle as another version of torch would have recorded it."""
    files = contents(made)
    others = {
        name: json.dumps(json.loads(content) | {"torch": "1.0"}).encode()
        for name, content in files.items()
        if name.endswith("/environment.json")
    }
    return changed(made, path, others | changes, with_sums=True)


def test_a_prediction_interval_is_the_t_distributions() -> None:
    values = [0.7, 0.72, 0.71, 0.69]
    half_width = stats.t.ppf(0.975, 3) * np.std(values, ddof=1) * np.sqrt(1.25)
    found = prediction_interval(values)
    assert (found.low, found.high) == pytest.approx((0.705 - half_width, 0.705 + half_width))
    draw = np.random.default_rng(0)
    sets = draw.normal(size=(2000, 4))
    share = np.mean([row[3] in prediction_interval(row[:3].tolist(), 0.9) for row in sets])
    assert share == pytest.approx(0.9, abs=0.02)
    with pytest.raises(ValueError, match="two values"):
        prediction_interval([0.7])


def test_bits_are_promised_where_both_runs_recorded_it_alike() -> None:
    facts = {"same_bits": "yes", "device": "cpu", "torch": "2.11", "num_threads": 1, "source_sha256": "a"}
    assert are_bits_promised(facts, facts)
    for key, value in (("torch", "2"), ("num_threads", 2), ("source_sha256", "b"), ("dataset_sha256", "c")):
        assert not are_bits_promised(facts, facts | {key: value})
    compiled = facts | {"same_bits": "no: not tried with compiled models"}
    assert not are_bits_promised(compiled, compiled)
    assert not are_bits_promised({}, {})


@pytest.mark.slow  # it trains twice
def test_a_run_trained_again_has_the_same_bits(
    really_trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = rerun_some(verified(really_trained), 1, seed=1)
    (check,) = found.checks
    assert check.passed
    assert check.said.startswith("the same bits, on ")
    assert "runs drawn with --rerun-seed 1" in found.notes
    run = check.name.removeprefix("rerun of ")
    assert check.name == f"rerun of {next((tmp_path / 'real').glob('bn-*')).name}"
    name = f"real/{run}/steps.csv"
    lines = contents(really_trained)[name].decode().splitlines()
    lines[3] = "2,1.5"
    altered = changed(really_trained, tmp_path / "a.nbz", {name: "\n".join([*lines, ""]).encode()}, with_sums=True)
    monkeypatch.setattr(rerun_module, "_train", lambda run, *_: read_run(tmp_path / "real" / run.run_id))
    (check,) = rerun_some(verified(altered), 1, seed=1).checks
    assert check.name == f"rerun of {run}"
    assert "not the same bits: the loss of step 2 is " in check.problems[0]
    assert check.problems[0].endswith("and was 1.5")


def test_elsewhere_the_accuracy_is_held_against_the_recorded_seeds(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("normbench.experiment.worker_process.Worker", LocalWorker)
    monkeypatch.setattr(rerun_module, "_train", lambda run, *_: read_run(made / "tiny" / run.run_id))
    (check,) = rerun_some(verified(elsewhere(made, tmp_path / "a.nbz")), 1, seed=1).checks
    assert check.passed
    assert "3 recorded seeds predict" in check.said
    much_better = {
        name: json.dumps(json.loads(content) | {"test_accuracy": 0.9 + 0.001 * number}).encode()
        for number, (name, content) in enumerate(contents(made).items())
        if name.endswith("/summary.json")
    }
    (check,) = rerun_some(verified(elsewhere(made, tmp_path / "b.nbz", **much_better)), 1, seed=1).checks
    assert not check.passed
    assert "3 recorded seeds predict" in check.problems[0]


def test_more_runs_than_there_are_cannot_be_drawn(made: Path) -> None:
    with pytest.raises(ConfigError, match=r"--rerun 7: .* has 6 completed runs"):
        rerun_some(verified(made), 7)
