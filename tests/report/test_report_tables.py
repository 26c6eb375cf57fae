from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml

from normbench.errors import UnknownNameError
from normbench.report.comparison_table import Row, Table
from normbench.report.grouping import sections
from normbench.report.page import Report
from normbench.report.stats import Estimate
from normbench.runs.records import read_experiment

NewRun = Callable[..., Path]


def tables_of(folder: Path) -> tuple[Table, ...]:
    return Report(read_experiment(folder)).tables


def accuracy_of(row: Row) -> Estimate | None:
    return row.results["test_accuracy"].estimate


def row_of(table: Table, label: str) -> Row:
    (found,) = (row for row in table.rows if row.label == label)
    return found


def test_rows_hold_means_over_seeds_and_medians_over_epochs(tmp_path: Path, new_run: NewRun) -> None:
    accuracies = [0.74, 0.75, 0.78]
    folders = [new_run(tmp_path, "bn", seed, accuracy=accuracy) for seed, accuracy in enumerate(accuracies)]
    new_run(tmp_path, "gn", 0, accuracy=0.70, epoch_seconds=1.0)
    (table,) = tables_of(tmp_path)
    row = row_of(table, "bn")
    assert accuracy_of(row) is not None
    assert (accuracy_of(row).mean, accuracy_of(row).n) == (pytest.approx(np.mean(accuracies)), 3)
    runs = {run.folder: run for run in read_experiment(tmp_path).runs}
    later_epochs = [epoch.train_seconds for folder in folders for epoch in runs[folder].epochs[1:]]
    assert row.epoch_seconds is not None
    assert row.epoch_seconds.median == np.median(later_epochs)
    assert row.relative_time == 1.0
    assert row_of(table, "gn").relative_time == pytest.approx(2.0, rel=0.03)
    assert accuracy_of(row_of(table, "gn")) is not None
    assert accuracy_of(row_of(table, "gn")).half_width is None  # type: ignore[union-attr]


def test_unfinished_runs_are_counted_and_never_averaged_in(
    tmp_path: Path, new_run: NewRun, new_settings: Callable[..., None]
) -> None:
    new_settings(tmp_path, ["bn", "gn"], [0, 1, 2, 3, 4])
    for seed in range(3):
        new_run(tmp_path, "bn", seed, accuracy=0.75)
    new_run(tmp_path, "bn", 3, state="diverged", reason="the loss became nan at step 7", diverge_at=7)
    new_run(tmp_path, "gn", 0, state="failed", reason="out of\nmemory")
    (table,) = tables_of(tmp_path)
    bn, gn = row_of(table, "bn"), row_of(table, "gn")
    assert bn.runs == "3/5, 1 diverged, 1 not started"
    assert accuracy_of(bn) is not None
    assert accuracy_of(bn).n == 3
    assert accuracy_of(bn).mean == pytest.approx(0.75)
    assert gn.runs == "0/5, 1 failed, 4 not started"
    assert (accuracy_of(gn), gn.results["test_accuracy"].comparison) == (None, None)
    assert (gn.epoch_seconds, gn.relative_time) == (None, None)
    assert any("bn, seed 3 diverged: the loss became nan at step 7" in line for line in table.failures)
    assert any("gn, seed 0 failed: out of memory" in line for line in table.failures)


def test_only_the_status_makes_a_result_count(tmp_path: Path, new_run: NewRun) -> None:
    new_run(tmp_path, "bn", 0, accuracy=0.75)
    again = new_run(tmp_path, "bn", 1, accuracy=0.10)
    status = (again / "status.json").read_text().replace("completed", "running")
    (again / "status.json").write_text(status)
    (table,) = tables_of(tmp_path)
    assert table.rows[0].runs == "1/2, 1 running"
    assert accuracy_of(table.rows[0]) is not None
    assert accuracy_of(table.rows[0]).mean == 0.75


def test_seeds_are_grouped_and_everything_else_is_not(tmp_path: Path, new_run: NewRun) -> None:
    for batch_size in (128, 16):
        for seed in range(2):
            new_run(tmp_path, "bn", seed, train={"batch_size": batch_size})
    (table,) = tables_of(tmp_path)
    assert table.varied == ("train.batch_size",)
    assert [(row.fields["train.batch_size"], row.num_completed) for row in table.rows] == [(16, 2), (128, 2)]


def test_norms_are_compared_within_their_setting(tmp_path: Path, new_run: NewRun) -> None:
    for batch_size, time in ((16, 2.0), (128, 0.5)):
        for norm, factor in (("bn", 1.0), ("gn", 1.5)):
            for seed in range(3):
                new_run(tmp_path, norm, seed, train={"batch_size": batch_size}, epoch_seconds=time * factor)
    (table,) = tables_of(tmp_path)
    assert [row.relative_time for row in table.rows] == pytest.approx([1.0, 1.5, 1.0, 1.5], rel=0.03)
    assert [row.is_baseline for row in table.rows] == [True, False, True, False]


def test_a_norms_own_learning_rate_is_shown_and_does_not_part_it_from_the_others(
    tmp_path: Path, new_run: NewRun
) -> None:
    experiment = tmp_path / "tuned"
    for seed in range(3):
        new_run(experiment, "bn", seed)
        new_run(experiment, "gn", seed, train={"learning_rate": 0.003})
    norms = "norms:\n- {name: bn}\n- {name: gn, train: {lr: 0.003}}\n"
    (experiment / "experiment.yaml").write_text(norms + "seeds: [0, 1, 2]\n")
    (table,) = tables_of(experiment)
    assert table.varied == ("train.learning_rate",)
    assert row_of(table, "gn").results["test_accuracy"].comparison is not None
    assert len(sections(read_experiment(experiment))[0].by_setting) == 1


@pytest.mark.parametrize("changed", [{"device_name": "NVIDIA A100"}, {"torch": "2.12.0"}, {"precision": "fp32"}])
def test_what_was_measured_differently_is_not_mixed(tmp_path: Path, new_run: NewRun, changed: dict[str, str]) -> None:
    new_run(tmp_path, "bn", 0)
    new_run(tmp_path, "gn", 0)
    new_run(tmp_path, "gn", 1, environment=changed)
    first, second = tables_of(tmp_path)
    assert [row.label for row in first.rows] == ["bn", "gn"]
    assert [row.label for row in second.rows] == ["gn"]
    assert "are not mixed" in first.caption
    assert next(iter(changed.values())) in second.title


def test_norms_of_a_seed_on_devices_of_two_names_make_no_pair_and_are_named(tmp_path: Path, new_run: NewRun) -> None:
    other = {"device_name": "NVIDIA A100"}
    for seed in range(4):
        new_run(tmp_path, "bn", seed, environment=other if seed == 3 else None)
        new_run(tmp_path, "gn", seed, environment=other if seed in (1, 2) else None)
    new_run(tmp_path, "ln", 3, environment=other)  # beside its baseline
    new_run(tmp_path, "ln", 2, environment=other, state="diverged", diverge_at=9)
    new_run(tmp_path, "in", 9, environment=other)  # the baseline has no such seed
    first, second = tables_of(tmp_path)
    assert "NVIDIA H100" in first.title
    assert row_of(first, "gn").results["test_accuracy"].comparison.difference.estimate.n == 1
    said = "Train all norms of a seed under the same conditions."
    where = "on NVIDIA A100, and the baseline with these seeds on NVIDIA H100 80GB HBM3"
    assert first.notes == (f"No pairs: gn, seed 3 ran on NVIDIA H100 80GB HBM3, and the baseline with these seeds on "
                           f"NVIDIA A100. {said}",)  # fmt: skip
    assert second.notes == (f"No pairs: gn, seed 1, 2 ran {where}. {said}",)


def test_other_settings_and_rates_of_a_seed_are_no_lost_pairs(tmp_path: Path, new_run: NewRun) -> None:
    new_run(tmp_path, "bn", 0, train={"batch_size": 16})
    new_run(tmp_path, "gn", 0, train={"batch_size": 16})
    new_run(tmp_path, "gn", 0, train={"batch_size": 32}, environment={"device_name": "NVIDIA A100"}, folder_name="gn32")
    assert [table.notes for table in tables_of(tmp_path)] == [(), ()]


def test_a_run_that_died_before_recording_its_machine_stays_with_the_others(tmp_path: Path, new_run: NewRun) -> None:
    new_run(tmp_path, "bn", 0)
    new_run(tmp_path, "gn", 0, state="failed", reason="killed", environment={}, epochs_done=0)
    assert len(tables_of(tmp_path)) == 1


def test_other_commits_and_drifting_times_are_pointed_out(tmp_path: Path, new_run: NewRun) -> None:
    new_run(tmp_path, "bn", 0)
    slow = new_run(tmp_path, "bn", 1, environment={"commit": "fedcba9"})
    lines = (slow / "metrics.jsonl").read_text().splitlines()
    lines[3] = lines[3].replace('"train_seconds": 0.', '"train_seconds": 9.')
    (slow / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    (table,) = tables_of(tmp_path)
    assert any("2 different commits" in note for note in table.notes)
    assert any(note.endswith("differ by more than 10%. bn, seed 1.") for note in table.notes)


def test_synthetic_images_never_pass_for_cifar10(tmp_path: Path, new_run: NewRun) -> None:
    new_run(tmp_path, "bn", 0, dataset="synthetic")
    assert "synthetic images, not CIFAR-10" in tables_of(tmp_path)[0].caption


def test_baseline_can_be_chosen(tutorial: Path) -> None:
    experiment = read_experiment(tutorial)
    (table,) = Report(experiment, "gn").tables
    assert [row.label for row in table.rows if row.is_baseline] == ["gn"]
    difference = row_of(table, "bn").results["test_accuracy"].comparison
    assert difference is not None
    assert difference.difference.estimate.mean > 0
    with pytest.raises(UnknownNameError, match="did you mean"):
        _ = Report(experiment, "gnn").tables


def test_variants_of_one_norm_are_told_apart(tmp_path: Path, new_run: NewRun) -> None:
    new_run(tmp_path, "gn", 0, options={"groups": 4})
    new_run(tmp_path, "gn", 0, options={"groups": 8}, folder_name="gn8")
    new_run(tmp_path, "gn", 0, options={"groups": 2}, label="GN two", folder_name="gn2")
    labels = {row.label for row in tables_of(tmp_path)[0].rows}
    assert labels == {"gn (groups=4)", "gn (groups=8)", "GN two"}


def test_only_a_resolved_best_is_marked(tmp_path: Path, new_run: NewRun) -> None:
    for seed, noise in enumerate((0.0, 0.001, -0.001)):
        new_run(tmp_path / "clear", "bn", seed, accuracy=0.80 + noise)
        new_run(tmp_path / "clear", "gn", seed, accuracy=0.70 - noise)
        new_run(tmp_path / "close", "bn", seed, accuracy=0.70 + 20 * noise)
        new_run(tmp_path / "close", "gn", seed, accuracy=0.701 - 10 * noise)
    assert [row.is_resolved_best for row in tables_of(tmp_path / "clear")[0].rows] == [True, False]
    assert [row.is_resolved_best for row in tables_of(tmp_path / "close")[0].rows] == [False, False]


def test_accuracy_on_held_out_training_images_does_not_pass_for_test_accuracy(
    tmp_path: Path, new_run: Callable[..., Path]
) -> None:
    run = new_run(tmp_path, "bn", 0, steps_per_epoch=4)
    config = yaml.safe_load((run / "config.yaml").read_text())
    config["dataset"]["options"] = {"eval_split": "val"}
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    (table,) = Report(read_experiment(tmp_path)).tables
    assert "on CIFAR-10 (validation: training images held out) after" in table.caption


def test_norms_that_ran_by_other_kernels_share_the_table_and_are_named(tmp_path: Path, new_run: NewRun) -> None:
    new_run(tmp_path, "bn", 0, environment={"norm_path": "fused"})
    new_run(tmp_path, "gn", 0, environment={"norm_path": "native: no fused kernel for this norm"})
    new_run(tmp_path, "ln", 0)  # of an earlier version
    (table,) = tables_of(tmp_path)
    assert len(table.rows) == 3
    (note,) = (note for note in table.notes if "fused" in note)
    assert note.startswith("Not all norms ran fused; gn: native: no fused kernel")


def test_on_a_device_without_fused_kernels_no_norm_is_pointed_out(tmp_path: Path, new_run: NewRun) -> None:
    new_run(tmp_path, "bn", 0, environment={"norm_path": "native: no fused kernels on cpu"})
    new_run(tmp_path, "gn", 0, environment={"norm_path": "native: no fused kernel for this norm"})
    (table,) = tables_of(tmp_path)
    assert not table.notes
