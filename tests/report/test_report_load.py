from __future__ import annotations

import csv
import io
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from normbench.errors import RunError, UnknownNameError
from normbench.report.recorded_runs import format_tables, load_curves, load_experiments, load_runs, load_tables

NewRun = Callable[..., Path]


def test_rows_have_the_same_plain_columns(tmp_path: Path, new_run: NewRun) -> None:
    new_run(tmp_path / "a", "bn", 0, accuracy=0.75, steps_per_epoch=4)
    new_run(tmp_path / "a", "gn", 1, options={"groups": 8}, state="diverged", reason="nan", diverge_at=3)
    new_run(tmp_path / "b", "in", 2, environment={}, steps_per_epoch=4)
    rows = load_runs(tmp_path)
    assert len({tuple(row) for row in rows}) == 1
    assert [(row["experiment"], row["norm"], row["seed"], row["state"]) for row in rows] == [
        ("a", "bn", 0, "completed"),
        ("a", "gn", 1, "diverged"),
        ("b", "in", 2, "completed"),
    ]
    assert [row["test_accuracy"] for row in rows[:2]] == [0.75, None]
    assert [row["norm.options.groups"] for row in rows] == [None, 8, None]
    assert rows[0]["train.batch_size"] == 64
    assert [row["environment.torch"] for row in rows] == ["2.11.0", "2.11.0", None]
    assert all(isinstance(value, str | int | float | bool | None) for row in rows for value in row.values())


def test_a_run_that_cannot_be_read_is_left_out_with_a_warning(tmp_path: Path, new_run: NewRun) -> None:
    new_run(tmp_path / "a", "bn", 0, steps_per_epoch=4)
    broken = new_run(tmp_path / "a", "gn", 0, steps_per_epoch=4)
    (broken / "config.yaml").write_text("{")
    with pytest.warns(UserWarning, match=f"{broken.name}: not a readable run folder"):
        rows = load_runs(tmp_path)
    assert [row["norm"] for row in rows] == ["bn"]


def test_one_run_one_experiment_or_many(tmp_path: Path, new_run: NewRun) -> None:
    run = new_run(tmp_path / "a", "bn", 0, steps_per_epoch=4)
    new_run(tmp_path / "b", "gn", 0, steps_per_epoch=4)
    assert [len(load_runs(path)) for path in (run, tmp_path / "a", tmp_path)] == [1, 1, 2]
    assert [experiment.name for experiment in load_experiments(str(tmp_path))] == ["a", "b"]
    with pytest.raises(RunError, match="no such folder"):
        load_runs(tmp_path / "missing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(RunError, match="no runs there"):
        load_runs(tmp_path / "empty")


def test_tables_in_a_named_format(tmp_path: Path, new_run: NewRun) -> None:
    new_run(tmp_path / "a", "bn", 0, steps_per_epoch=4)
    new_run(tmp_path / "b", "gn", 0, steps_per_epoch=4)
    tables = load_tables([tmp_path / "b", tmp_path / "a"])
    assert [table.title for table in tables] == ["b", "a"]
    rows = list(csv.DictReader(io.StringIO(format_tables(tables, "csv"))))
    assert [row["norm"] for row in rows] == ["gn", "bn"]
    with pytest.raises(UnknownNameError, match="unknown format 'markdwn'"):
        format_tables(tables, "markdwn")


REPORT = """
import re, resource, runpy, sys
sys.argv = ["normbench", "report", sys.argv[1]]
try:
    runpy.run_module("normbench", run_name="__main__")
finally:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    # ru_maxrss is also what this process was before it became Python: a fork of all that the tests have in memory.
    peak = re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]
    print(usage.ru_utime + usage.ru_stime, int(peak) / 2**10, file=sys.stderr)
"""


def report_cost(folder: Path) -> tuple[float, float]:
    """Make a report, and return its processor time in seconds and its peak of memory in MiB."""
    done = subprocess.run([sys.executable, "-c", REPORT, str(folder)], capture_output=True, text=True, check=True)
    cpu, peak = map(float, done.stderr.split()[-2:])
    print(f"report on {folder.name} runs: {cpu:.1f} s of processor time, {peak:.0f} MiB")
    return cpu, peak


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="a process's peak is read from Linux's /proc")
def test_a_thousand_runs_make_a_report_in_little_more_time_than_a_hundred_and_1_gb(
    tmp_path: Path, new_run: NewRun
) -> None:
    """Both have the same figures, so that the rest, 1.5 to 1.7 times in all, is what the runs take."""
    for norm in ("bn", "ln", "in", "gn", "frn", "brn", "dyt", "sn", "bin", "none"):
        for batch_size in (4, 16, 64, 256, 1024):
            for seed in range(20):
                new_run(tmp_path / "1000", norm, seed, train={"batch_size": batch_size})
                if seed < 2:
                    new_run(tmp_path / "100", norm, seed, train={"batch_size": batch_size})
    of_a_hundred, _ = report_cost(tmp_path / "100")
    cpu, peak = report_cost(tmp_path / "1000")
    assert cpu < 2.5 * of_a_hundred, "of one core; the wall clock depends on what else the machine does"
    assert peak < 1024


def test_the_documented_example_runs(
    tutorial: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (Path(__file__).parents[2] / "docs" / "sweeps.md").read_text()
    (example,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    runs = tutorial.parent / "runs"
    runs.mkdir()
    tutorial.rename(runs / "tutorial")
    monkeypatch.chdir(runs.parent)
    exec(compile(example, "docs/sweeps.md", "exec"), {})
    label, _, accuracy, learning_rate = capsys.readouterr().out.split()
    assert label == "bn"
    assert float(accuracy) == max(row["test_accuracy"] for row in load_runs(runs))
    assert float(learning_rate) == 1e-3


def test_curves_hold_steps_and_epochs_in_columns_of_equal_length(tmp_path: Path, new_run: NewRun) -> None:
    folder = new_run(tmp_path, "bn", 0, epochs=3, steps_per_epoch=4)
    (row,) = load_runs(tmp_path)
    for run in (folder, str(folder), row):
        curves = load_curves(run)
        assert {name: len(column) for name, column in curves["steps"].items()} == {"step": 12, "loss": 12}
        assert curves["epochs"]["epoch"].tolist() == [1, 2, 3]
    assert curves["epochs"]["test_accuracy"][-1] == pytest.approx(row["test_accuracy"])
    with pytest.raises(RunError, match="not a readable run folder"):
        load_curves(tmp_path)


def test_a_table_of_one_seed_imports_no_scipy(tmp_path: Path, new_run: NewRun) -> None:
    """It has no interval to compute, and a quarter of the time of `normbench table` would be that import."""
    for norm in ("bn", "gn"):
        new_run(tmp_path, norm, 0)
    code = (
        "import sys; from normbench.report.recorded_runs import format_tables, load_tables; "
        f"print(format_tables(load_tables([{str(tmp_path)!r}]), 'text')); print('scipy' in sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.rstrip().endswith("False")
    assert " gn " in result.stdout


def test_only_what_writes_the_results_id_reads_all_records_for_it(
    tmp_path: Path, new_run: NewRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    new_run(tmp_path, "bn", 0)
    asked: list[Path] = []

    def identify(folder: Path) -> str:
        asked.append(folder)
        return "0123456789" * 6

    monkeypatch.setattr("normbench.runs.record_files.result_id", identify)
    for format_ in ("text", "md", "csv", "tsv"):
        assert "0123456789" not in format_tables(load_tables([tmp_path]), format_)
    assert asked == []
    tables = load_tables([tmp_path])
    for format_ in ("latex", "json"):
        assert "0123456789" in format_tables(tables, format_)
    assert asked == [tmp_path]
