"""``normbench advise`` on the command line."""

import json
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest
import typer
import yaml
from typer.testing import CliRunner

from normbench.advice.evidence import EVIDENCE
from normbench.advice.own_runs import own_results
from normbench.advice.walk import paths
from normbench.bench.folder import RESULTS_FILE
from normbench.bench.results import InferResults, InferRow
from normbench.cli.advise import advise
from normbench.errors import RunError, UnknownNameError

app = typer.Typer()
app.command()(advise)
SMALL = (
    "--task",
    "classification",
    "--data",
    "iid",
    "--architecture",
    "resnet",
    "--batch-size",
    "4",
    "--no-distributed",
)


def run(*arguments: str, columns: int = 80) -> str:
    result = CliRunner().invoke(app, arguments, env={"COLUMNS": str(columns)})
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.stdout


def write_run(folder: Path, norm: str, seed: int, accuracy: float, batch_size: int = 64) -> None:
    """Write a completed run as the program records it."""
    run_folder = folder / f"{norm}-{batch_size}-s{seed}"
    run_folder.mkdir(parents=True)
    config = {
        "norm": {"name": norm}, "model": {"name": "norm_resnet"}, "dataset": {"name": "synthetic"},
        "train": {"batch_size": batch_size}, "seed": seed, "device": "cpu",
    }  # fmt: skip
    (run_folder / "config.yaml").write_text(yaml.safe_dump(config))
    (run_folder / "status.json").write_text(json.dumps({"state": "completed", "started_at": "2026-01-01", "pid": 1}))
    summary = dict.fromkeys(
        ("test_loss", "train_accuracy", "train_loss", "train_seconds", "epoch_seconds", "startup_seconds",
         "peak_memory_mib", "images_per_second"), 1.0,
    )  # fmt: skip
    counts = {"num_epochs": 1, "num_steps": 1, "num_parameters": 1}
    (run_folder / "summary.json").write_text(json.dumps({"test_accuracy": accuracy, **summary, **counts}))


@pytest.mark.parametrize("columns", [80, 140])
def test_recommendation_path_evidence_and_config_are_printed(columns: int) -> None:
    text = run(*SMALL, columns=columns)
    assert text.startswith("gn+ws  Group Normalization with Weight Standardization")
    for part in ("Path", "--batch-size 4", "Evidence", "arXiv 1803.08494", "read off a plot", "Avoid", "brn"):
        assert part in text
    assert "normbench train --norm gn+ws --norm-option group_size=16 --model resnet9" in text
    assert "{name: gn+ws, options: {group_size: 16}}" in text


def test_bare_and_off_a_terminal_the_whole_tree_is_printed() -> None:
    assert run() == run("--tree")
    text = " ".join(re.sub("[│├└─]", " ", run()).split())
    for path in paths():
        assert path[-1].branch.then.norm in text  # type: ignore[union-attr]
    for number, found in enumerate(EVIDENCE.values(), 1):
        assert f"({number}) {found.text} ({found.source}" in text
    numbers = {key: number for number, key in enumerate(EVIDENCE, 1)}
    for path in paths():
        cited = ", ".join(str(numbers[key]) for key in path[-1].branch.then.evidence)  # type: ignore[union-attr]
        assert f"({cited})" in text
    told = json.loads(run("--tree", "--json"))
    nested = told["tree"]
    assert set(told["evidence"]) == set(EVIDENCE)
    assert [branch["answer"] for branch in nested["branches"]] == [
        "classification", "detection", "style", "sequence", "generation"
    ]  # fmt: skip


def test_off_a_terminal_what_is_decided_and_what_is_open_stand_in_the_last_line() -> None:
    last = run("--task", "detection", "--batch-size", "2").splitlines()[-1]
    assert last.startswith(
        "Decided: --task detection, --batch-size 2. Still open: --pretrained or --no-pretrained (Is "
    )
    last = run("--task", "classification", "--data", "iid", "--architecture", "resnet").splitlines()[-1]
    assert "Still open: --batch-size NUMBER (How many images" in last
    assert "Still open: --data iid|transfer|" in run("--task", "classification").splitlines()[-1]
    last = run("--task", "detection", "--source", "image").splitlines()[-1]
    assert last.startswith("Decided: --task detection. Still open: --pretrained")


def test_off_a_terminal_each_open_answer_is_shown_with_its_norm() -> None:
    """Every norm below the open questions is what the command says once they are answered."""
    given = ("--task", "detection", "--batch-size", "2")
    text, told = run(*given), json.loads(run(*given, "--json"))
    assert "--batch-size" not in text.split("Evidence")[0]  # it is answered
    assert "1 to 15" not in text
    assert told["recommendation"] is None
    assert [step["question"] for step in told["path"]] == ["task"]
    pretrained, from_scratch = (branch["then"] for branch in told["tree"]["branches"])
    ends = {"--no-pretrained": from_scratch}
    ends |= {f"--pretrained {flag}": branch["then"] for flag, branch in zip(
        ("--distributed", "--no-distributed"), pretrained["branches"], strict=True
    )}  # fmt: skip
    for flags, end in ends.items():
        answered = json.loads(run(*given, *flags.split(), "--json"))
        assert answered["recommendation"]["norm"] == end["norm"]
        assert set(end["evidence"]) <= set(told["evidence"])
    assert len(told["evidence"]) < len(EVIDENCE)


def test_misspelt_answers_are_explained_even_off_the_path() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'resnet'"):
        run("--task", "style", "--architecture", "resnt")


def test_json_holds_the_same() -> None:
    advice = json.loads(run(*SMALL, "--json"))
    assert advice["recommendation"]["norm"] == "gn+ws"
    assert [step["question"] for step in advice["path"]] == [
        "task",
        "data",
        "architecture",
        "batch-size",
        "distributed",
    ]
    assert {"text", "source", "basis"} == set(advice["recommendation"]["evidence"][0])


def test_own_runs_are_added_by_setting_best_first(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    for seed, accuracy in enumerate((0.70, 0.72)):
        write_run(folder, "bn", seed, accuracy)
        write_run(folder, "gn", seed, accuracy + 0.1)
    write_run(folder, "bn", 0, 0.5, batch_size=8)
    results = own_results(folder)
    assert [(row.label, row.num_runs) for row in results if "64" in row.setting] == [("gn", 2), ("bn", 2)]
    assert results[1].mean_test_accuracy != results[0].mean_test_accuracy
    by_norm = {(row.norm, row.num_runs): row for row in results}
    assert by_norm["gn", 2].mean_test_accuracy == pytest.approx(0.81)
    assert by_norm["gn", 2].standard_deviation == pytest.approx(0.02 / 2**0.5)
    assert by_norm["bn", 1].standard_deviation is None
    text = run("--task", "classification", "--data", "private", "--runs", str(folder))
    assert "81.00 ± 1.41" in text
    assert "recommended above" in text
    assert "gn is not among these runs." in text  # of batch size 8
    assert len(json.loads(run("--task", "style", "--runs", str(folder), "--json"))["runs"]) == 3
    with pytest.raises(RunError, match="no runs"):
        run("--task", "style", "--runs", str(tmp_path / "nothing"))


def test_on_a_terminal_it_asks_until_the_answer_is_clear() -> None:
    """A wrong answer is asked again; an answer may be its number in the list."""
    ours, theirs = pty.openpty()
    code = "import typer; from normbench.cli.advise import advise; a = typer.Typer(); a.command()(advise); a()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=theirs, stdout=theirs, stderr=theirs) as process:
        os.close(theirs)
        os.write(ours, b"nonsense\n5\nnoise\n")
        output = b""
        while True:
            try:
                chunk = os.read(ours, 4096)
            except OSError:  # Linux reports the closed end so
                break
            if not chunk:
                break
            output += chunk
        os.close(ours)
    assert process.returncode == 0
    text = output.decode()
    assert "What is the network for?" in text
    assert "unknown --task 'nonsense'" in text
    assert "What does the generator start from?" in text
    assert "Group Normalization" in text


def test_what_networks_cost_on_this_machine_is_shown_also_while_questions_are_open(tmp_path: Path) -> None:
    folder = tmp_path / "bench-infer-20260101t000000z"
    folder.mkdir()
    rows = [
        InferRow(norm=norm, variant="eager", precision="fp32", batch_size=1, seconds_per_batch=(seconds,))
        for norm, seconds in (("gn", 0.00123), ("frn", 0.00456))
    ]
    environment = {"device_name": "my machine", "device": "cpu"}
    results = InferResults(started_at="", settings={"model": "m"}, environment=environment, rows=tuple(rows))
    (folder / RESULTS_FILE).write_text(results.model_dump_json(indent=2))
    arguments = ("--task", "detection", "--batch-size", "2", "--runs-dir", str(tmp_path))
    open_end = CliRunner().invoke(app, arguments, env={"COLUMNS": "200"})
    assert open_end.exit_code == 0
    assert open_end.stdout.splitlines()[-1].startswith("Decided: --task detection, --batch-size 2. Still open: ")
    assert "In use: m on my machine" in open_end.stdout
    assert re.search(r"gn +eager +1\.23", open_end.stdout)
    assert re.search(r"frn +eager +4\.56", open_end.stdout)
    answered = run(*arguments, "--no-pretrained", "--no-distributed", columns=200)
    assert re.search(r"gn +eager +1\.23", answered)
    assert "frn " not in answered.split("In use:")[1], "neither recommended nor to be compared with"
