"""``normbench evaluate`` and ``evaluate:``: runs are measured, said to be, kept as they are otherwise."""

import json
from pathlib import Path

import pytest
import torch

from normbench.config.schema import EvaluateConfig
from normbench.report import Report
from normbench.runs.evaluation_file import read_evaluation
from normbench.runs.record_files import run_records
from normbench.runs.records import read_experiment, read_run

TINY = (
    "--model", "norm_resnet_small", "--dataset", "synthetic", "--set", "dataset.options={num_train: 64, num_test: 40}",
    "--batch-size", "32", "--device", "cpu", "--precision", "fp32",
)  # fmt: skip


def runs_in(folder: Path) -> list[Path]:
    return sorted(path.parent for path in folder.glob("*/summary.json"))


@pytest.mark.slow
def test_a_config_measures_inside_the_run_and_the_command_the_same_from_its_weights(normbench, tmp_path) -> None:
    settings = ("--set", "evaluate.batch_sizes=[1,8]", "--set", "evaluate.average_share=1")
    train = ("compare", "bn", "gn", *TINY, "--epochs", "2", "--seeds", "1", "--name", "e", "--keep-checkpoint")
    plain = normbench(*train)
    assert plain.code == 0, plain.err
    before = {run.name: (run / "steps.csv").read_bytes() for run in runs_in(tmp_path / "runs/e")}
    assert normbench(*train, *settings, "--force").code == 0
    folders = runs_in(tmp_path / "runs/e")
    assert {run.name: (run / "steps.csv").read_bytes() for run in folders} == before  # ids and losses are the same
    inside = {run.name: read_evaluation(run) for run in folders}
    bn = next(found for name, found in inside.items() if name.startswith("bn"))
    assert bn is not None
    assert [(row.weights, row.statistics, row.batch_size) for row in bn.statistics] == [
        ("last", "running", None), ("last", "re-estimated", None), ("average", "running", None),
        ("average", "re-estimated", None), ("last", "batch", 1), ("last", "batch", 8),
    ]  # fmt: skip
    for run in folders:
        record = read_run(run)
        assert record.evaluation is not None
        assert record.evaluation.accuracy == record.summary.test_accuracy
        assert record.evaluation.loss == pytest.approx(record.summary.test_loss, rel=1e-5)
        assert "evaluation.json" in {file.name for file in run_records(run)}
    told = normbench("evaluate", "runs/e", "--set", "batch_sizes=[1,8]", "--force")
    assert told.code == 0, told.err
    assert told.err.count("evaluated in") == 2
    assert {run.name: read_evaluation(run) for run in folders} == inside
    for title in ("More than accuracy", "Where the statistics come from", "Accuracy by class", "Image by image"):
        assert title in told.out
    chapters = {chapter.anchor for chapter in Report(read_experiment(tmp_path / "runs/e")).chapters}
    assert chapters == {"evaluation"}
    again = normbench("evaluate", "runs/e", "--json")
    assert again.err.count("has an evaluation") == 2
    assert len(json.loads(again.out)["evaluations"]) == 2
    told = normbench("evaluate", str(folders[0]), "--corruptions", "official", "--force")
    assert (told.code, "no official corruptions of synthetic" in told.err) == (1, True)


def test_runs_without_weights_and_without_runs_are_told(quick) -> None:
    train = ("train", "--norm", "gn", *TINY, "--epochs", "1", "--name", "t")
    assert quick(*train).code == 0
    told = quick("evaluate", "runs/t")
    assert told.code == 1
    assert "kept no weights; train it again with --force --keep-checkpoint" in told.err
    told = quick(*train, "--set", "evaluate={}")
    assert told.code == 0
    assert "completed runs without an evaluation, because they kept no weights: 1" in told.err
    assert quick("evaluate", "runs/nowhere").code == 1
    told = quick("evaluate", "runs/t", "--set", "batch_size=8")
    assert (told.code, "did you mean 'batch_sizes'" in told.err) == (2, True)
    told = quick(*train, "--force", "--set", "evaluate.corruptions=official")
    assert (told.code, "no official corruptions of synthetic" in told.err, "Epoch" in told.err) == (3, True, False)
    told = quick("evaluate", "runs/t", "--corruptions", "some")
    assert (told.code, "Allowed: none, generated, official" in told.err) == (2, True)


def test_an_average_goes_on_where_a_run_goes_on(normbench, tmp_path) -> None:
    """A run that is stopped within its third epoch has the average of one that was not."""
    from normbench.config.load import load_config
    from normbench.experiment.plan import draft_runs, finish_plans
    from normbench.runs.events import EpochDone, TrainingDone
    from normbench.worker.targets import RunRequest, resolve_runs
    from normbench.worker.train_run import train_run

    config = {
        "norms": ["bn"], "model": "norm_resnet_small", "device": "cpu",
        "dataset": {"name": "synthetic", "options": {"num_train": 64, "num_test": 20}},
        "train": {"epochs": 4, "batch_size": 32, "precision": "fp32"},
    }  # fmt: skip
    (plan,) = finish_plans(drafts := draft_runs(load_config(config)), resolve_runs(drafts))
    evaluate = EvaluateConfig(batch_sizes=(), reestimate_batches=0, average_share=0.75)

    def run(folder: Path, *, stop_after: int | None = None, resume: bool = False):
        folder.mkdir(exist_ok=True)
        events = train_run(RunRequest(plan.config, folder, None, resume, False, None, evaluate))
        num_epochs = 0
        for event in events:
            num_epochs += isinstance(event, EpochDone)
            if stop_after is not None and num_epochs == stop_after:
                events.close()
                return None
            if isinstance(event, TrainingDone):
                done = event
        return done.evaluation

    whole = run(tmp_path / "whole")
    assert whole is not None
    assert whole.num_averaged == 3
    assert run(tmp_path / "stopped", stop_after=3) is None
    state = torch.load(tmp_path / "stopped/checkpoint.pt", weights_only=True)
    assert state["average"]["count"] in (1, 2)
    assert run(tmp_path / "stopped", resume=True) == whole
