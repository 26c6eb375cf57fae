"""`compare` and `train` from config to report, with training in this process."""

import json
import re
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from command import TINY
from local_worker import LocalWorker

from normbench.experiment.api import compare
from normbench.runs.records import read_experiment


@pytest.fixture
def tiny(tmp_path: Path) -> str:
    (tmp_path / "tiny.yaml").write_text(TINY)
    return "tiny.yaml"


def folders(tmp_path: Path, experiment: str = "tiny") -> dict[str, Path]:
    return {
        path.parent.name.partition("-")[0]: path.parent for path in tmp_path.glob(f"runs/{experiment}/*/status.json")
    }


def test_a_comparison_leaves_runs_a_report_and_a_table(normbench, tiny, tmp_path) -> None:
    code, out, err = normbench("compare", tiny)
    assert code == 0

    # stderr: the progress, in the tutorial's words
    lines = err.splitlines()
    assert re.fullmatch(r"BN Epoch 1/2 \| Batch 0/2 \| Loss: \d\.\d{4}", lines[0])
    assert re.fullmatch(r"BN Epoch 1/2 \| Test accuracy: \d+\.\d\d % \| Test loss: .*", lines[1])
    assert any(re.fullmatch(r"GN seed 0: test accuracy \d+\.\d\d %, .* s training", line) for line in lines)
    # stdout: the result alone
    assert "Batch" not in out
    assert "synthetic images, not CIFAR-10" in out
    assert out.splitlines()[-1] == "The page: runs/tiny/report/report.html (figures and tables are beside it)"

    report = tmp_path / "runs" / "tiny" / "report"
    made = {path.name for path in report.iterdir()}
    assert {
        "table.md",
        "table.csv",
        "table.tex",
        "table.json",
        "loss_curves.png",
        "loss_curves.pdf",
        "accuracy.png",
    } <= made
    for name in ("bn", "gn"):
        files = {path.name for path in folders(tmp_path)[name].iterdir()}
        assert files == {
            ".lock", "config.yaml", "environment.json", "metrics.jsonl", "steps.csv", "status.json", "summary.json",
            "loss_curve.png", "table.md",
        }  # fmt: skip
    experiment = read_experiment(tmp_path / "runs" / "tiny")
    assert [run.config.label for run in experiment.runs] == ["BN", "GN"]
    summary = experiment.runs[0].summary
    assert f"{100 * summary.test_accuracy:.2f}" in (report / "table.md").read_text()
    assert json.loads((report / "table.json").read_text())
    assert summary.num_parameters == 98_970
    assert yaml.safe_load((tmp_path / "runs" / "tiny" / "experiment.yaml").read_text())["name"] == "tiny"


ONE_LINE = (
    "compare", "bn", "gn+ws", "--epochs", "1", "--seeds", "2", "--model", "resnet9", "--lr", "0.01",
    "--batch-size", "16", "--dataset", "synthetic", "--device", "cpu",
)  # fmt: skip


def plans(normbench: Any, *arguments: str) -> dict[str, Any]:
    return json.loads(normbench(*arguments, "--dry-run", "--json").out)


def test_a_question_in_one_line_is_the_comparison_of_the_python_api(normbench, monkeypatch) -> None:
    planned = plans(normbench, *ONE_LINE)
    assert planned["folder"] == "runs/bn_gn+ws-resnet9-synthetic-e1-bs16-lr0.01"
    assert plans(normbench, *ONE_LINE, "--seeds", "5")["folder"] == planned["folder"]  # the same question
    assert plans(normbench, *ONE_LINE, "--epochs", "2")["folder"] != planned["folder"]
    assert plans(normbench, *ONE_LINE, "--set", "train.schedule=cosine")["folder"].startswith(f"{planned['folder']}-")
    assert plans(normbench, *ONE_LINE, "--name", "mine")["folder"] == "runs/mine"
    asked: list[Any] = []

    def record(*arguments: Any, **_: Any) -> Any:
        asked.extend(arguments[:2])
        return SimpleNamespace(busy=())

    monkeypatch.setattr("normbench.experiment.api.run_experiment", record)
    train = {"epochs": 1, "lr": 0.01, "batch_size": 16}
    compare(norms=["bn", "gn+ws"], seeds=2, model="resnet9", dataset="synthetic", device="cpu", **train)
    loaded, planned_by_api = asked
    assert f"runs/{loaded.experiment.name}" == planned["folder"]
    assert [plan.run_id for plan in planned_by_api] == [plan["run"] for plan in planned["plans"]]


def test_a_question_in_one_line_is_recorded_as_a_config_that_repeats_it(quick, tmp_path) -> None:
    images = "dataset={name: synthetic, options: {num_train: 32, num_test: 20}}"
    settings = ("--model", "norm_resnet_small", "--epochs", "1", "--batch-size", "16", "--device", "cpu")
    question = ("compare", "bn", "gn", *settings, "--set", images)
    assert quick(*question).code == 0
    (recorded,) = tmp_path.glob("runs/bn_gn-norm_resnet_small-e1-bs16-*/experiment.yaml")
    experiment = yaml.safe_load(recorded.read_text())
    assert (experiment["name"], experiment["train"]["epochs"]) == (recorded.parent.name, 1)
    assert plans(quick, "compare", str(recorded))["states"] == {"completed": 2}


def test_norms_of_the_command_line_replace_those_of_a_config(normbench, tiny) -> None:
    planned = plans(normbench, "compare", tiny, "--norms", "in, gn+ws")
    assert [plan["norm"] for plan in planned["plans"]] == ["IN", "GN+WS"]


def test_norms_of_sequences_are_named_like_norms_of_images(normbench) -> None:
    planned = plans(normbench, "compare", "ln", "rms", "--model", "vit")
    assert [plan["norm"] for plan in planned["plans"]] == ["LN", "RMSNorm"]


def test_a_file_that_is_called_like_a_norm_is_ambiguous(normbench, tmp_path) -> None:
    (tmp_path / "bn").write_text(TINY)
    code, _, err = normbench("compare", "bn", "--dry-run")
    assert (code, "write --norms bn for the norm, ./bn for the file" in err) == (2, True)
    assert plans(normbench, "compare", "./bn")["runs"] == 2
    assert plans(normbench, "compare", "bn", "gn")["folder"] == "runs/bn_gn"


def test_one_norm_is_trained_with_several_seeds(normbench) -> None:
    planned = plans(normbench, "train", "--norm", "gn", "--seeds", "3", "--device", "cpu")
    assert [plan["seed"] for plan in planned["plans"]] == [0, 1, 2]


def test_again_keeps_what_is_completed_and_says_so(quick, tiny, tmp_path) -> None:
    quick("compare", tiny, "--set", "norms=[bn]")
    before = {path: path.stat().st_mtime_ns for path in folders(tmp_path)["bn"].glob("*.json*")}
    code, out, err = quick("compare", tiny)
    assert code == 0
    assert re.search(r"^BN seed 0: completed before, kept \(test accuracy \d+\.\d\d %\)$", err, re.M)
    assert "GN Epoch 1/2" in err
    assert "BN Epoch" not in err
    assert {path: path.stat().st_mtime_ns for path in folders(tmp_path)["bn"].glob("*.json*")} == before
    assert "GN" in out

    code, _, err = quick("compare", tiny, "--set", "norms=[bn]", "--force")
    assert code == 0
    assert "BN Epoch 1/2" in err


def test_on_several_gpus_runs_train_side_by_side(quick, tiny, tmp_path, monkeypatch) -> None:
    """Three GPUs and two runs: two workers, of which the second sees the second GPU alone."""
    made = []

    class Recorded(LocalWorker):
        def __init__(self, environment: dict[str, str] | None = None, preload: Any = None) -> None:
            super().__init__(environment=environment)
            made.append(self)

    def environments(devices: frozenset[str]) -> list[dict[str, str]]:
        assert devices == {"cpu"}
        return [{}, {"CUDA_VISIBLE_DEVICES": "1"}, {"CUDA_VISIBLE_DEVICES": "2"}]

    monkeypatch.setattr("normbench.experiment.worker_process.Worker", Recorded)
    monkeypatch.setattr("normbench.worker.targets.worker_environments", environments)
    code, _, err = quick("compare", tiny)
    assert code == 0
    assert [worker.environment for worker in made] == [{}, {"CUDA_VISIBLE_DEVICES": "1"}]
    assert err.index("GN Epoch 1/2") < err.index("BN Epoch 2/2")

    code, _, err = quick("compare", tiny)  # nothing is due
    assert code == 0
    assert len(made) == 3


def test_norms_are_timed_against_each_other_once(quick, tiny, tmp_path) -> None:
    timing = tmp_path / "runs" / "tiny" / "timing.json"
    code, _, err = quick("compare", tiny, "--set", "norms=[bn]")
    assert code == 0
    assert not timing.exists()  # nothing to compare with

    code, out, err = quick("compare", tiny)
    assert "timing the steps of 2 norms against each other" in err
    (session,) = read_experiment(timing.parent).timing.sessions
    assert [norm.label for norm in session.timed] == ["BN", "GN"]
    assert "norms timed in turn" in out
    before = timing.stat().st_mtime_ns

    code, out, err = quick("compare", tiny)
    assert "timing" not in err
    assert timing.stat().st_mtime_ns == before
    assert "norms timed in turn" in out

    quick("compare", tiny, "--set", "norms=[bn, gn, none]")
    (session,) = read_experiment(timing.parent).timing.sessions
    assert [norm.label for norm in session.timed] == ["BN", "GN", "none"]


def test_a_stop_while_norms_are_timed_keeps_the_runs(quick, tiny, tmp_path, monkeypatch) -> None:
    def interrupted(wanted, schedule, data_dir):
        signal.raise_signal(signal.SIGTERM)  # a background job ignores Ctrl-C
        yield 0.5
        pytest.fail("it goes on")

    monkeypatch.setattr("normbench.worker.time_norms.time_setting", interrupted)
    code, out, err = quick("compare", tiny)
    assert code == 143
    assert "tables take times from runs that trained alone: stopped" in err
    assert "from the runs themselves" in out
    assert [run.status.state for run in read_experiment(tmp_path / "runs" / "tiny").runs] == ["completed"] * 2


def test_a_dry_run_shows_the_runs_and_trains_nothing(quick, tiny, tmp_path) -> None:
    quick("compare", tiny, "--set", "norms=[bn]")
    before = sorted(tmp_path.rglob("*"))
    code, out, err = quick("compare", tiny, "--dry-run", "--seeds", "2")
    assert code == 0
    assert out.startswith("runs/tiny\n")
    assert "4 runs (1 completed, 3 new); 3 to run" in out
    assert re.search(r"bn-norm_resnet_small-bs16-s0-[0-9a-f]{8} .* BN .* 0 .* completed", out)
    assert re.search(r"gn-norm_resnet_small-bs16-s1-[0-9a-f]{8} .* GN .* 1 .* new", out)
    assert err == ""
    assert sorted(tmp_path.rglob("*")) == before


def test_a_runs_config_reruns_it_and_finds_it_completed(quick, tmp_path) -> None:
    flags = ("--dataset", "synthetic", "--set", "dataset.options={num_train: 32, num_test: 20}", "--name", "mine")
    code, _, _ = quick("train", "--norm", "gn", "--norm-option", "groups=8", "--epochs", "1", "--batch-size", "16",
                           "--device", "cpu", *flags)  # fmt: skip
    assert code == 0
    (folder,) = folders(tmp_path, "mine").values()
    code, _, err = quick("train", "--config", str(folder / "config.yaml"), "--name", "mine")
    assert code == 0
    assert err.startswith("GN (groups=8) seed 0: completed before, kept")

    code, _, _ = quick("train", "--config", str(folder / "config.yaml"), "--name", "again")
    assert code == 0
    (again,) = folders(tmp_path, "again").values()
    assert again.name == folder.name
    assert (again / "config.yaml").read_text() == (folder / "config.yaml").read_text()
    assert (again / "steps.csv").read_text() == (folder / "steps.csv").read_text()  # and does the same


def test_a_diverged_run_is_a_row_and_the_exit_code_one(quick, tiny, tmp_path) -> None:
    settings = ("--set", "norms=[{name: bn, train: {optimizer: sgd, lr: 1e25}}, gn]")
    code, out, err = quick("compare", tiny, *settings)
    assert code == 1
    assert re.search(r"^BN seed 0: diverged: loss is (nan|inf) at epoch 1, step 1 of 2, learning rate .*25$", err, re.M)
    assert "GN seed 0: test accuracy" in err
    assert "diverged" in out
    assert folders(tmp_path).keys() == {"bn", "gn"}

    code, _, err = quick("compare", tiny, *settings)
    assert code == 1
    assert "BN seed 0: diverged: loss is" in err
    assert "; --retry runs it again" in err
    code, _, err = quick("compare", tiny, *settings, "--retry")
    assert code == 1
    assert "BN Epoch 1/2" in err
    assert "GN Epoch" not in err


def test_an_unexpected_error_is_a_row_with_a_traceback_on_disk(quick, tiny, tmp_path, monkeypatch) -> None:
    from normbench.engine.trainer import Trainer

    def broken(self: Trainer) -> None:
        raise RuntimeError("cuDNN error: CUDNN_STATUS_NOT_INITIALIZED")

    monkeypatch.setattr(Trainer, "_evaluate_epoch", broken)
    code, _, err = quick("compare", tiny)
    assert code == 1
    assert "BN seed 0: failed: RuntimeError: cuDNN error" in err
    assert "GN seed 0: failed" in err
    assert "Traceback" not in err
    assert "in broken" in (folders(tmp_path)["bn"] / "error.txt").read_text()


@pytest.mark.parametrize("data_dir", ["missing", "empty", "truncated"])
def test_no_data_is_exit_3_before_any_folder_is_written(quick, tmp_path, data_dir: str) -> None:
    if data_dir != "missing":
        (tmp_path / data_dir).mkdir()
    if data_dir == "truncated":
        (tmp_path / data_dir / "cifar10.npz").write_bytes(b"PK\x03\x04 and no more")
    code, out, err = quick("train", "--norm", "gn", "--device", "cpu", "--data-dir", data_dir)
    assert code == 3
    assert err.startswith("normbench: ")
    assert data_dir in err
    assert "Traceback" not in err
    assert out == ""
    assert not (tmp_path / "runs").exists()


def test_completed_runs_are_shown_without_the_data(quick, tiny, tmp_path, monkeypatch) -> None:
    quick("compare", tiny)
    monkeypatch.setattr("normbench.worker.targets.check_data", lambda *_: pytest.fail("not needed"))
    code, out, _ = quick("compare", tiny)
    assert code == 0
    assert "BN" in out


def test_a_runs_folder_that_cannot_be_written_is_exit_3(quick, tiny, tmp_path) -> None:
    (tmp_path / "file").touch()
    code, out, err = quick("compare", tiny, "--runs-dir", "file")
    assert (code, out) == (3, "")
    assert err == "normbench: file/tiny: cannot be written: Not a directory\n"


def test_a_device_that_is_not_here_is_exit_3(quick, tiny, monkeypatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    code, out, err = quick("compare", tiny, "--device", "cuda")
    assert (code, out) == (3, "")
    assert err.startswith("normbench: device 'cuda' is not available here")


def test_groups_that_do_not_divide_are_told_at_their_line(quick, tmp_path) -> None:
    (tmp_path / "bad.yaml").write_text(TINY.replace("[bn, gn]", "\n- bn\n- {name: gn, options: {groups: 5}}"))
    code, out, err = quick("compare", "bad.yaml")
    assert (code, out) == (2, "")
    assert err.startswith("normbench: bad.yaml:4: norms.1: gn: groups=5 does not divide 16 channels.")
    assert not (tmp_path / "runs").exists()


def test_a_report_that_cannot_be_written_loses_no_run(quick, tiny, tmp_path, monkeypatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("normbench.experiment.execute.write_report_of", full)
    monkeypatch.setattr("normbench.experiment.execute.write_run_report", full)
    code, out, err = quick("compare", tiny)
    assert code == 3
    assert "BN" in out
    assert "the loss curve cannot be written: No space left on device" in err
    assert "runs/tiny/report: the report cannot be written: No space left on device" in err
    assert len(read_experiment(tmp_path / "runs" / "tiny").runs) == 2


def test_whatever_fails_while_a_run_is_drawn_is_a_note_and_the_others_are_trained(
    quick, tiny, tmp_path, monkeypatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("a bug in a figure\nwith lines")

    monkeypatch.setattr("normbench.experiment.execute.write_run_report", broken)
    code, _, err = quick("compare", tiny)
    assert code == 0
    assert err.count("the loss curve cannot be written: RuntimeError: a bug in a figure\n") == 2
    monkeypatch.setattr("normbench.experiment.execute.write_report_of", broken)
    code, _, err = quick("compare", tiny)
    assert code == 1
    assert "report: the report cannot be written: RuntimeError: a bug in a figure\n" in err


def test_dollars_in_a_label_are_text(normbench, tmp_path) -> None:
    flags = ("--norm", "bn", "--dataset", "synthetic", "--epochs", "1", "--batch-size", "8", "--device", "cpu")
    options = ("--set", "dataset.options={num_train: 16, num_test: 10}", "--set", "norm.label=$x_{$")
    code, _, err = normbench("train", *flags, *options)
    assert (code, "cannot be written" in err) == (0, False)
    assert (tmp_path / "runs" / "train" / "report" / "report.html").exists()


def test_a_test_loss_that_is_not_finite_is_a_run_that_diverged_and_ends_nothing(quick, tmp_path) -> None:
    (tmp_path / "nan.yaml").write_text(
        "norms: [none, bn, gn]\ndataset: {name: synthetic, options: {num_train: 16, num_test: 10}}\ndevice: cpu\n"
        "model: norm_resnet_small\n"
        "train: {epochs: 1, batch_size: 16}\ngrid: {train.lr: [1.0e+30, 0.001]}\n"
    )
    for _ in range(2):
        code, _, err = quick("compare", "nan.yaml")
        assert code == 1
        assert "diverged: test loss is nan at epoch 1, step 0 of 1, learning rate 1e+30" in err
        states = [run.status.state for run in read_experiment(tmp_path / "runs" / "nan").runs]
        assert len(states) == 6
        assert set(states) == {"completed", "diverged"}


def test_retry_runs_what_failed_once_more(quick, tiny, tmp_path, monkeypatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("normbench.engine.trainer.Trainer._evaluate_epoch", lambda self: 1 / 0)
        assert quick("compare", tiny, "--set", "norms=[bn]", "--seeds", "2").code == 1
    code, _, err = quick("retry", "runs/tiny")
    assert code == 0
    assert err.count("Epoch 2/2 | Batch 0") == 2
    assert [run.status.state for run in read_experiment(tmp_path / "runs" / "tiny").runs] == ["completed"] * 2
    code, _, err = quick("retry", "runs")
    assert (code, err) == (1, "normbench: runs: no experiment there (its folder holds experiment.yaml)\n")


def test_repeated_runs_are_left_out_and_said_to_be(quick, tiny) -> None:
    code, _, err = quick("compare", tiny, "--set", "seeds=[0, 0]", "--set", "norms=[bn]")
    assert code == 0
    assert err.startswith("normbench: runs left out because they repeat another: 1\n")
    assert err.count("Epoch 1/2 | Batch 0") == 1


def test_plots_are_drawn_from_what_is_recorded(normbench, tiny, tmp_path, monkeypatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("normbench.experiment.execute.write_report_of", lambda _, **__: [])
        patch.setattr("normbench.experiment.execute.write_run_report", lambda _: [])
        normbench("compare", tiny, "--keep-checkpoint", "--set", "train.epochs=1")
    recorded = {path: path.read_bytes() for path in tmp_path.glob("runs/tiny/[bg]n-*/*.json*")}
    bn = folders(tmp_path)["bn"].relative_to(tmp_path)

    code, out, _ = normbench("plots", str(bn))
    assert code == 0
    assert out.split() == [f"{bn}/loss_curve.png", f"{bn}/table.md"]

    code, out, _ = normbench("plots")
    assert code == 0
    assert {"runs/tiny/report/loss_curves.png", "runs/tiny/report/report.html", f"{bn}/table.md"} <= set(out.split())
    assert all((tmp_path / path).stat().st_size > 0 for path in out.split())
    assert {path: path.read_bytes() for path in tmp_path.glob("runs/tiny/[bg]n-*/*.json*")} == recorded
    assert (tmp_path / bn / "checkpoint.pt").exists()


@pytest.mark.parametrize("folder", ["nothing", "empty"])
def test_plots_of_nothing_are_told(normbench, tmp_path, folder: str) -> None:
    (tmp_path / "empty").mkdir()
    code, out, err = normbench("plots", folder)
    assert (code, out) == (1, "")
    assert err in ("normbench: nothing: no such folder\n", "normbench: empty: no runs there\n")


def test_shards_of_a_comparison_merge_into_the_whole(quick, tiny, tmp_path) -> None:
    """Two shards, each in a folder of its own as on two machines, record what one call for all does."""
    given = ("compare", tiny, "--seeds", "2", "--norms", "gn")  # one norm, so that none is timed
    assert quick(*given)[0] == 0
    for number in (1, 2):
        code, _, err = quick(*given, "--shard", f"{number}/2", "--runs-dir", f"part{number}")
        assert code == 0
        assert re.findall(r"^GN seed (\d): test accuracy", err, re.M) == [str(number - 1)]
    code, out, _ = quick("merge", "part1/tiny", "part2/tiny", "-o", "merged/tiny")
    assert (code, out) == (0, "merged/tiny: 2 runs\n")
    whole, merged = (read_experiment(tmp_path / name / "tiny") for name in ("runs", "merged"))
    assert {run.run_id: run.step_losses.tolist() for run in merged.runs} == {
        run.run_id: run.step_losses.tolist() for run in whole.runs
    }
    assert merged.settings == whole.settings

    code, _, err = quick("compare", tiny, "--shard", "3/2")
    assert (code, err) == (2, "normbench: --shard 3/2: write it as K/N, part K of N: --shard 1/4 to --shard 4/4\n")
    code, out, _ = quick("compare", tiny, "--seeds", "2", "--shard", "2/4", "--dry-run", "--json")
    assert [plan["norm"] for plan in json.loads(out)["plans"]] == ["GN"]
