"""Parts of an experiment become one; others' baselines are taken over."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

import normbench
from normbench import load_runs
from normbench.bundle.merge import merge
from normbench.config.schema import RunConfig
from normbench.errors import ConfigError, FolderError, RunError
from normbench.experiment.baseline import adopt_baseline
from normbench.experiment.plan import RunPlan
from normbench.report.recorded_runs import load_tables


def part(experiment: Path, name: str, pattern: str, **settings: object) -> Path:
    """Return a copy of an experiment with the runs that match only, as if those had been asked for."""
    target = experiment.parent / name
    shutil.copytree(experiment, target, ignore=lambda _, names: [n for n in names if n.startswith(("bn-", "gn-"))])
    for run in experiment.glob(pattern):
        shutil.copytree(run, target / run.name)
    recorded = yaml.safe_load((target / "experiment.yaml").read_text())
    (target / "experiment.yaml").write_text(yaml.safe_dump({**recorded, "name": name, **settings}))
    return target


def rows(path: Path) -> list[tuple[object, ...]]:
    keys = ("run", "state", "test_accuracy", "seed", "environment.source_sha256")
    return sorted(tuple(row[key] for key in keys) for row in load_runs(path))


def test_folders_and_a_bundle_become_the_whole_again(experiment: Path, made: Path, tmp_path: Path) -> None:
    norms = yaml.safe_load((experiment / "experiment.yaml").read_text())["norms"]
    bn = part(experiment, "bn_part", "bn-*", norms=norms[:1])
    gn = part(experiment, "gn_part", "gn-*-s0-*", norms=norms[1:], seeds=[0])
    found = merge([bn, gn, made], tmp_path / "whole")
    assert (found.num_runs, found.num_repeated) == (6, 4)
    assert rows(tmp_path / "whole") == rows(experiment)
    (whole,), (before,) = load_tables([tmp_path / "whole"]), load_tables([experiment])
    assert whole.rows == before.rows
    settings = yaml.safe_load((tmp_path / "whole" / "experiment.yaml").read_text())
    assert settings["norms"] == norms
    assert settings["seeds"] == [0, 1, 2]
    assert settings["name"] == "whole"
    assert len(json.loads((tmp_path / "whole" / "timing.json").read_text())["sessions"]) == 1
    assert list((tmp_path / "whole" / "provenance").iterdir())


def look_at(folder: Path, seeds: list[int], at: str, maximum: int | None) -> None:
    looks = [{"seeds": seeds, "looked_at": at}]
    (folder / "looks.json").write_text(json.dumps({"schema_version": 1, "maximum": maximum, "looks": looks}))


def test_how_often_verdicts_were_looked_at_is_not_forgotten(experiment: Path, tmp_path: Path) -> None:
    first, second = (part(experiment, name, f"{name}-*") for name in ("bn", "gn"))
    look_at(first, [0, 1, 2], "2026-01-02T00:00:00+00:00", 20)
    look_at(second, [0], "2026-01-01T00:00:00+00:00", 20)
    merge([first, second], tmp_path / "same rule")
    merged = json.loads((tmp_path / "same rule" / "looks.json").read_text())
    assert ([look["seeds"] for look in merged["looks"]], merged["maximum"]) == ([[0], [0, 1, 2]], 20)
    look_at(second, [0], "2026-01-01T00:00:00+00:00", None)
    merge([first, second], tmp_path / "two rules")
    assert json.loads((tmp_path / "two rules" / "looks.json").read_text())["maximum"] is None


def test_parts_whose_rates_were_chosen_differently_are_not_joined(experiment: Path, tmp_path: Path) -> None:
    first, second = (part(experiment, name, f"{name}-*") for name in ("bn", "gn"))
    trial = {"label": "BN", "learning_rate": 0.1, "accuracies": [0.5]}
    tuning = {"experiment": "t", "split": "val", "seeds": [10000], "shared_rate": 0.1, "trials": [trial]}
    (first / "tuning.json").write_text(json.dumps(tuning))
    (second / "tuning.json").write_text(json.dumps(tuning))
    merge([first, second], tmp_path / "joined")
    assert json.loads((tmp_path / "joined" / "tuning.json").read_text())["trials"] == [trial]
    (second / "tuning.json").write_text(json.dumps({**tuning, "shared_rate": 0.2}))
    with pytest.raises(RunError, match=rf"{first} and {second} are different experiments: their tuning.json differs"):
        merge([first, second], tmp_path / "not joined")


def test_one_run_recorded_differently_is_an_error_that_names_both(experiment: Path, made: Path, tmp_path: Path) -> None:
    (run,) = experiment.glob("bn-*-s0-*")
    (run / "steps.csv").write_text((run / "steps.csv").read_text().replace("2.", "1."))
    with pytest.raises(
        RunError, match=rf"{run} and .*tiny\.nbz/tiny/{run.name} record the same run.*steps\.csv differs"
    ):
        merge([experiment, made], tmp_path / "whole")


def test_times_of_two_devices_stay_apart(experiment: Path, made: Path, tmp_path: Path) -> None:
    other = part(experiment, "other", "gn-*")
    for path in other.glob("*/environment.json"):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"device_name": "Another CPU"}))
    timing = json.loads((other / "timing.json").read_text())
    timing["sessions"][0]["environment"]["device_name"] = "Another CPU"
    timing["sessions"][0]["timed"][1]["seconds_per_step"] = [2.0, 2.0]
    (other / "timing.json").write_text(json.dumps(timing))
    merge([part(experiment, "first", "bn-*"), other], tmp_path / "whole")
    tables = load_tables([tmp_path / "whole"])
    assert {table.environment["device_name"] for table in tables} == {
        "Another CPU",
        tables[0].environment["device_name"],
    }
    times = {row.norm: row.epoch_seconds.median for table in tables for row in table.rows if row.epoch_seconds}
    assert times == {"bn": pytest.approx(1.5 * 0.255), "gn": pytest.approx(3.0)}
    assert all(len(table.rows) == 1 for table in tables)


def test_different_experiments_are_not_joined(experiment: Path, tmp_path: Path) -> None:
    other = part(experiment, "other", "gn-*")
    settings = yaml.safe_load((other / "experiment.yaml").read_text())
    settings["train"]["epochs"] = 30
    (other / "experiment.yaml").write_text(yaml.safe_dump(settings))
    with pytest.raises(RunError, match=r"different experiments: train\.epochs is 2 in the first and 30 in the second"):
        merge([experiment, other], tmp_path / "whole")
    (run,) = experiment.glob("bn-*-s0-*")
    with pytest.raises(RunError, match="this is one run"):
        merge([run], tmp_path / "whole")
    with pytest.raises(RunError, match="no runs there"):
        merge([tmp_path / "nothing"], tmp_path / "whole")
    with pytest.raises(FolderError, match="there is something already"):
        merge([experiment], experiment)


# --- another's baseline --------------------------------------------------------------------------------------------


def plan_like(experiment: Path, **changes: object) -> RunPlan:
    (run,) = experiment.glob("gn-*-s0-*")
    recorded = yaml.safe_load((run / "config.yaml").read_text())
    recorded["train"] |= changes
    config = RunConfig.model_validate(recorded)
    return RunPlan(config.run_id, config, 0)


def test_the_baselines_runs_are_copied_and_others_are_not(made: Path, experiment: Path, tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    adopted = adopt_baseline(made, folder, [plan_like(experiment)], None)
    assert len(adopted) == 3
    assert {row["run"] for row in load_runs(folder)} == set(adopted)
    assert {row["norm"] for row in load_runs(folder)} == {"bn"}
    assert [row["test_accuracy"] for row in load_runs(folder)] == [
        row["test_accuracy"] for row in load_runs(experiment) if row["norm"] == "bn"
    ]
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}
    adopt_baseline(made, folder, [plan_like(experiment)], None)
    assert before == {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def test_a_baseline_of_other_settings_is_refused_with_what_differs(
    made: Path, experiment: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=r"its runs of BN have other settings: train\.epochs is 2 there and 9 here"):
        adopt_baseline(made, tmp_path / "mine", [plan_like(experiment, epochs=9)], None)
    with pytest.raises(ConfigError, match="no completed run of ln there"):
        adopt_baseline(made, tmp_path / "mine", [plan_like(experiment)], "ln")
    assert not (tmp_path / "mine").exists()


@pytest.mark.usefixtures("training_here")
def test_a_norm_is_compared_with_the_baseline_of_a_bundle(
    made: Path, tmp_path: Path, config_of: Callable[..., dict[str, object]]
) -> None:
    config = config_of(norms=["in"], seeds=1, name="mine")
    result = normbench.compare(config, runs_dir=tmp_path, baseline_from=made, listener=lambda _: None)
    (table,) = result.report.tables
    assert table.baseline == "BN"
    by_norm = {row.norm: row for row in table.rows}
    assert by_norm.keys() == {"bn", "in"}
    differences = by_norm["in"].results["test_accuracy"].comparison.difference.estimate
    accuracy = {(row["norm"], row["seed"]): row["test_accuracy"] for row in result.rows()}
    assert len(accuracy) == 4
    assert differences.n == 1
    assert differences.mean == pytest.approx(accuracy["in", 0] - accuracy["bn", 0])
