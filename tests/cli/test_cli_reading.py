"""Commands that read what is recorded: ls, show, table and report."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner, Result

from normbench.cli import app
from normbench.errors import FolderError, RunError, UnknownNameError

ENVIRONMENT = {"device_name": "a GPU", "torch": "2.11.0", "cuda": "13.0", "precision": "bf16"}


def new_run(experiment: Path, norm: str, seed: int, accuracy: float | None, *, state: str = "completed") -> Path:
    """Write the files of a run with two epochs; without an accuracy it has no summary."""
    folder = experiment / f"{norm}-norm_resnet-bs64-s{seed}-{seed:08x}"
    folder.mkdir(parents=True)
    config = {
        "norm": {"name": norm, "label": norm.upper()},
        "model": "norm_resnet",
        "dataset": "cifar10",
        "train": {"epochs": 2},
        "seed": seed,
        "device": "cuda",
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    (folder / "environment.json").write_text(json.dumps(ENVIRONMENT))
    (folder / "steps.csv").write_text("step,loss\n0,2.3\n1,1.9\n")
    status = {"state": state, "started_at": f"2026-01-0{seed + 1}T10:00:00+00:00", "pid": 1, "reason": "because"}
    (folder / "status.json").write_text(json.dumps(status))
    result: dict[str, Any] = {
        "test_accuracy": accuracy or 0.1,
        "test_loss": 1.0,
        "train_accuracy": 0.6,
        "train_loss": 1.1,
    }
    times = {"train_seconds": 2.0, "test_seconds": 0.1, "learning_rate": 1e-3}
    rows = [{"epoch": epoch, "num_steps": epoch, **result, **times} for epoch in (1, 2)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    if accuracy is not None:
        costs = {"num_epochs": 2, "num_steps": 2, "num_parameters": 1000, "train_seconds": 4.0, "epoch_seconds": 2.0}
        more = {"startup_seconds": 1.0, "peak_memory_mib": 10.0, "images_per_second": 25000.0}
        (folder / "summary.json").write_text(json.dumps({**result, **costs, **more}))
    return folder


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """Two experiments: bn and gn with three seeds, one of them diverged; in with one."""
    for seed, (bn, gn) in enumerate([(0.75, 0.72), (0.76, 0.725), (0.755, None)]):
        new_run(tmp_path / "first", "bn", seed, bn)
        new_run(tmp_path / "first", "gn", seed, gn, state="completed" if gn else "diverged")
    new_run(tmp_path / "second", "in", 0, 0.7)
    return tmp_path


def call(*arguments: str | Path, environment: dict[str, str] | None = None) -> str:
    result = run(*arguments, environment=environment)
    assert result.exit_code == 0, result.output
    return result.stdout


def run(*arguments: str | Path, environment: dict[str, str] | None = None) -> Result:
    variables = {"COLUMNS": None, "NORMBENCH_RUNS_DIR": None} | (environment or {})
    return CliRunner().invoke(app, [str(argument) for argument in arguments], env=variables)


def rows_of(text: str) -> list[list[str]]:
    """Split a table into cells; columns stand three spaces apart."""
    return [re.split(r" {2,}", line.strip()) for line in text.splitlines() if line.strip()]


def test_ls_counts_runs_by_state_and_sizes(runs: Path) -> None:
    (runs / "second" / "big.bin").write_bytes(b"0" * 3 * 2**20)
    header, _, first, second = rows_of(call("ls", runs))
    assert header == ["experiment", "runs", "completed", "diverged", "size", "last started (UTC)"]
    assert first[:4] == ["first", "6", "5", "1"]
    assert second[:5] == ["second", "1", "1", "-", "3.0 MiB"]
    assert first[-1] == "2026-01-03 10:00"
    listed = json.loads(call("ls", runs, "--json"))["experiments"]
    assert [(entry["experiment"], entry["states"]) for entry in listed] == [
        ("first", {"completed": 5, "diverged": 1}),
        ("second", {"completed": 1}),
    ]
    assert listed[1]["size_bytes"] == sum(
        path.stat().st_size for path in (runs / "second").rglob("*") if path.is_file()
    )


def test_ls_counts_a_run_it_cannot_read(runs: Path) -> None:
    next((runs / "second").glob("*/status.json")).write_text("{")
    assert json.loads(call("ls", runs, "--json"))["experiments"][1]["states"] == {"unreadable": 1}


def test_ls_of_nothing(tmp_path: Path) -> None:
    assert "no runs there" in str(run("ls", tmp_path).exception)
    assert "no such folder" in str(run("ls", tmp_path / "missing").exception)
    assert json.loads(call("ls", tmp_path, "--json"))["experiments"] == []


@pytest.mark.parametrize(
    "name",
    ["{runs}/first/gn-norm_resnet-bs64-s1-00000001", "gn-norm_resnet-bs64-s1-00000001", "gn-norm_resnet-bs64-s1"],
)
def test_show_finds_a_run_by_folder_name_or_beginning(runs: Path, name: str) -> None:
    shown = json.loads(call("show", name.format(runs=runs), "--runs-dir", runs, "--json"))
    assert shown["run"] == "gn-norm_resnet-bs64-s1-00000001"
    assert shown["summary"]["test_accuracy"] == 0.725
    assert shown["config"]["train"]["epochs"] == 2
    assert shown["environment"] == ENVIRONMENT
    assert [epoch["epoch"] for epoch in shown["epochs"]] == [1, 2]
    assert shown["files"]["steps.csv"] == len("step,loss\n0,2.3\n1,1.9\n")


def test_show_prints_state_results_config_environment_and_files(runs: Path) -> None:
    text = call("show", "gn-norm_resnet-bs64-s2", "--runs-dir", runs)
    facts = {row[0]: row[1] if len(row) > 1 else "" for row in rows_of(text)}
    assert facts["state"] == "diverged"
    assert facts["reason"] == "because"
    assert facts["results"] == "none yet"
    assert facts["train.learning_rate"] == "0.001"
    assert facts["device_name"] == "a GPU"
    assert facts["metrics.jsonl"].endswith(" B")
    assert facts["reproducible"] == "no: not recorded"


def test_show_says_on_what_a_run_is_bit_reproducible(runs: Path) -> None:
    file = next(runs.glob("*/gn-norm_resnet-bs64-s2*/environment.json"))
    versions = {"cudnn": 91900, "triton": "3.6.0", "source_sha256": "0123456789abcdef", "num_threads": 4}
    holds_for = "a GPU, torch 2.11.0, cuda 13.0, cudnn 91900, triton 3.6.0, source 0123456789ab"
    for said, expected in (("yes", f"bit-reproducible on {holds_for}"), ("no: it began on it", "no: it began on it")):
        file.write_text(json.dumps({**ENVIRONMENT, **versions, "device": "cuda"} | {"same_bits": said}))
        text = " ".join(call("show", "gn-norm_resnet-bs64-s2", "--runs-dir", runs).split())
        assert f" reproducible {expected} " in text


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("gn", "gn: 3 runs are called so; give the folder"),
        ("gn-norm_resnet-bs64-s1-0000001", "no such run under .*; did you mean 'gn-norm_resnet-bs64-s1-00000001'"),
        ("{runs}/first", "first: not a run; `normbench ls` and `normbench table` show experiments"),
    ],
)
def test_show_says_why_it_shows_nothing(runs: Path, name: str, message: str) -> None:
    result = run("show", name.format(runs=runs), "--runs-dir", runs)
    assert isinstance(result.exception, RunError)
    assert re.search(message, str(result.exception))


def test_table_in_every_format(runs: Path) -> None:
    folder = runs / "first"
    for name, delimiter in {"csv": ",", "tsv": "\t"}.items():
        records = list(csv.DictReader(io.StringIO(call("table", folder, "--format", name)), delimiter=delimiter))
        assert [(record["norm"], record["runs"]) for record in records] == [("bn", "3/3"), ("gn", "2/3, 1 diverged")]
        assert float(records[0]["test_accuracy"]) == pytest.approx(0.755)
    assert call("table", folder, "--json") == call("table", folder, "--format", "json")
    assert json.loads(call("table", folder, "--json"))["tables"][0]["rows"][1]["num_completed"] == 2
    assert r"\toprule" in call("table", folder, "--format", "latex")
    assert "| norm" in call("table", folder, "--format", "md")
    result = run("table", folder, "--format", "markdwn")
    assert isinstance(result.exception, UnknownNameError)
    assert "did you mean" in str(run("table", folder, "--format", "jsn").exception)


def test_table_over_several_experiments_with_another_baseline(runs: Path) -> None:
    tables = json.loads(call("table", runs, "--json"))
    assert [table["title"] for table in tables["tables"]] == ["first", "second"]
    (table,) = json.loads(call("table", runs / "first", "--json", "--baseline", "gn", "--margin", "2"))["tables"]
    assert (table["baseline"].lower(), table["margin"]) == ("gn", 0.02)


def test_in_a_pipe_nothing_is_wrapped_and_with_columns_nothing_is_cut(runs: Path) -> None:
    wide = call("table", runs / "first")
    assert re.search(r"BN +75\.50 ± 1\.24.* 3/3", wide), "one line a norm"
    for width in (100, 60, 40):
        narrow = call("table", runs / "first", environment={"COLUMNS": str(width)})
        assert max(map(len, narrow.splitlines())) <= width
        assert "…" not in narrow
        for cell in ("75.50 ± 1.24", "3/3", "1,000"):
            assert cell in narrow
    assert "…" not in call("show", "gn-norm_resnet-bs64-s2", "--runs-dir", runs, environment={"COLUMNS": "30"})
    listed = call("ls", runs, environment={"COLUMNS": "30"})
    assert "…" not in listed
    assert max(map(len, listed.splitlines())) <= 30


def test_no_color_means_no_color_also_on_a_terminal() -> None:
    answers = ["--task", "classification", "--data", "iid", "--architecture", "no-norm"]
    color = re.compile(r"\x1b\[[0-9;]*3[0-9]m")
    assert color.search(call("advise", *answers, environment={"FORCE_COLOR": "1"}))
    assert not color.search(call("advise", *answers, environment={"FORCE_COLOR": "1", "NO_COLOR": "1"}))


def test_report_writes_its_files_and_says_which(runs: Path) -> None:
    written = json.loads(call("report", runs / "first", "--json"))["written"]
    assert list(written) == [str(runs / "first")]
    paths = [Path(path) for path in written[str(runs / "first")]]
    assert {"report.html", "report.md", "table.tex", "loss_curves.png"} <= {path.name for path in paths}
    assert all(path.stat().st_size for path in paths)
    listed = call("report", runs / "second", "--tensorboard").splitlines()
    assert str(runs / "second" / "report" / "tensorboard") in listed
    one = run("report", next((runs / "first").glob("bn*")))
    assert "this is one run" in str(one.exception)


def test_no_torch_is_loaded(runs: Path) -> None:
    """Nor pyplot; and matplotlib and SciPy where something is drawn or computed."""
    second = str(runs / "second")
    commands = {"ls": str(runs), "show": str(next((runs / "second").glob("in*"))), "table": second, "report": second}
    code = f"""
import sys
from normbench.cli import app
from normbench.report import write_report
assert not {{"matplotlib", "scipy", "torch"}} & sys.modules.keys()
for arguments in {list(commands.items())}:
    app(arguments, standalone_mode=False)
    assert not {{"torch", "matplotlib.pyplot"}} & sys.modules.keys(), arguments
"""
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert (runs / "second" / "report" / "report.html").exists()


# --- bad records ---------------------------------------------------------------------------------------------------


def test_plots_goes_on_past_a_run_that_cannot_be_read(runs: Path) -> None:
    broken, *others = sorted((runs / "first").iterdir())
    (broken / "steps.csv").write_text("step,loss\n0,abc\n")
    shutil.rmtree(runs / "second")
    result = run("plots", runs)
    assert result.exit_code == 1
    assert f"{broken.name}: not a readable run folder" in result.stderr
    assert result.stderr.count("\n") == 1
    assert all((folder / "loss_curve.png").exists() for folder in others)
    assert (runs / "first" / "report" / "report.html").exists()
    assert f"{broken.name}: not a readable run folder" in (runs / "first" / "report" / "report.md").read_text().replace(
        "\\", ""
    )


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize("command", ["table", "report"])
def test_an_experiment_that_cannot_be_read_is_named_and_the_others_are_shown(runs: Path, command: str) -> None:
    (broken,) = (runs / "second").iterdir()
    (broken / "config.yaml").write_text("{")
    shutil.rmtree(next((runs / "first").glob("gn*")))
    result = run(command, runs)
    assert result.exit_code == 1
    assert f"{broken.name}: not a readable run folder" in result.stderr
    assert "first" in result.stdout


def test_a_table_without_notes_names_what_it_leaves_out_beside_it(runs: Path) -> None:
    broken = next((runs / "first").glob("gn*"))
    (broken / "config.yaml").write_text("{")
    result = run("table", runs / "first", "--format", "csv")
    assert result.exit_code == 0
    assert f"{broken.name}: not a readable run folder" in result.stderr
    assert "not a readable" not in result.stdout


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize("make", [Path.touch, lambda path: path.symlink_to("/proc")], ids=["file", "unwritable"])
@pytest.mark.parametrize("command", ["report", "plots"])
def test_a_report_that_cannot_be_written_is_told(runs: Path, command: str, make: Callable[[Path], Any]) -> None:
    make(runs / "second" / "report")
    result = run(command, runs / "second")
    assert isinstance(result.exception, FolderError)
    assert "report: cannot be written" in str(result.exception)


def test_a_run_whose_process_is_gone_is_listed_and_shown_as_interrupted(runs: Path) -> None:
    status = next((runs / "second").glob("*/status.json"))
    status.write_text(json.dumps({**json.loads(status.read_text()), "state": "running", "pid": 2**22 + 1}))
    assert json.loads(call("ls", runs, "--json"))["experiments"][1]["states"] == {"interrupted": 1}
    assert json.loads(call("show", status.parent, "--json"))["status"]["state"] == "interrupted"


def test_cells_that_a_spreadsheet_would_execute_are_text(runs: Path) -> None:
    for label in ("=cmd|'/c calc'!A1", "+1", "-1", "@SUM(A1)", "harmless"):
        path = next((runs / "second").glob("in*")) / "config.yaml"
        path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), "norm": {"name": "in", "label": label}}))
        for name, delimiter in {"csv": ",", "tsv": "\t"}.items():
            text = call("table", runs / "second", "--format", name)
            (record,) = csv.DictReader(io.StringIO(text), delimiter=delimiter)
            assert record["label"] == (label if label == "harmless" else f"'{label}")
            assert float(record["test_accuracy"]) == 0.7
        assert json.loads(call("table", runs / "second", "--json"))["tables"][0]["rows"][0]["label"] == label


def test_control_characters_in_records_are_shown_as_escapes(runs: Path) -> None:
    (folder,) = (runs / "second").iterdir()
    path = folder / "config.yaml"
    label = "a\x1b]0;b\x07\u202e"
    path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), "norm": {"name": "in", "label": label}}))
    for arguments in (("show", folder), *(("table", runs / "second", "--format", name) for name in ("text", "csv"))):
        assert r"a\x1b]0;b\x07\u202e" in call(*arguments)
    call("report", runs / "second")
    for report in (runs / "second" / "report").glob("[rt]*.*"):
        assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f\u202e]", report.read_text()), report.name


@pytest.mark.parametrize("command", ["ls", "show", "table", "report", "plots"])
def test_a_path_that_no_system_takes_is_no_bug(command: str) -> None:
    assert isinstance(run(command, "x" * 5000).exception, RunError)
