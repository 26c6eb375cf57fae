"""``normbench inspect`` on the command line."""

import json
import re
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from normbench.cli.inspect import inspect
from normbench.errors import ConfigError, UnknownNameError
from normbench.norms import NORMS

app = typer.Typer()
app.command()(inspect)


def run(*arguments: str, columns: int = 80) -> str:
    result = CliRunner().invoke(app, arguments, env={"COLUMNS": str(columns)})
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.stdout


def unwrapped(text: str) -> str:
    return " ".join(text.split())


@pytest.mark.parametrize("columns", [80, 140])
def test_tables_fit_the_terminal_and_lose_nothing(columns: int) -> None:
    text = run("bn", "in", "evonorm_b0", "rms2d", columns=columns)
    assert all(len(line) <= columns for line in text.splitlines())
    text = unwrapped(text)
    assert "1024/1023 = 1.00098 (in)" in text
    assert "4096/4095 = 1.00024 (bn)" in text
    assert "without subtracting the mean: rms2d" in text
    assert "With their own activation in this output: evonorm_b0" in text
    assert "Evaluation mode after one training batch" in text


def test_without_names_all_norms_are_shown() -> None:
    shown = json.loads(run("--json"))
    assert [row["norm"] for row in shown["norms"]] == list(NORMS)
    assert shown["refused"] == []


def test_norms_that_do_not_fit_are_left_out_with_the_reason_unless_named() -> None:
    shown = json.loads(run("--json", "--shape", "1,4,1,1"))
    assert "rms2d" in {row["norm"] for row in shown["norms"]}
    assert any(reason.startswith("bn on shape (1, 4, 1, 1)") for reason in shown["refused"])
    with pytest.raises(ConfigError, match="bn on shape"):
        run("bn", "--shape", "1,4,1,1")


def test_options_go_to_the_norms_that_have_them() -> None:
    rows = json.loads(run("bn", "gn", "--norm-option", "groups=2", "--json"))["norms"]
    assert [row["options"] for row in rows] == [{}, {"groups": 2}]
    with pytest.raises(UnknownNameError, match="did you mean 'groups'"):
        run("gn", "--norm-option", "group=2")


def test_side_by_side() -> None:
    text = unwrapped(run("custom_bn", "--against", "bn"))
    assert "equal up to float32 rounding" in text
    assert all(name in text for name in ("running_mean", "running_var", "output, training", "output, evaluation"))
    assert "not the same" in run("in", "--against", "bn")
    assert json.loads(run("custom_bn", "--against", "bn", "--json"))["agrees"] is True
    with pytest.raises(ConfigError, match="one norm with another"):
        run("--against", "bn")


def test_plot_writes_the_picture_and_says_where(tmp_path: Path) -> None:
    path = tmp_path / "axes.png"
    assert run("bn", "ln", "--plot", str(path)).strip() == str(path)
    assert path.stat().st_size > 5000


@pytest.mark.parametrize("shape", ["4,4,32", "a,b,c,d", "0,4,8,8", "99999,99999,99,99", "1,1,1," + "9" * 4400])
def test_bad_shapes_are_explained(shape: str) -> None:
    with pytest.raises(ConfigError, match="--shape"):
        run("bn", "--shape", shape)


def test_sequences_say_which_norms_depend_on_their_company() -> None:
    text = unwrapped(run("--sequence"))
    same, dependent = re.search(r"padded with: ([^.]+)\..* other sequences: ([^.]+)\.", text).groups()
    assert {"ln", "rms", "dyt", "derf", "none"} <= set(same.split(", "))
    assert "bn" in dependent.split(", ")
    rows = json.loads(run("--sequence", "ln", "bn", "--norm-option", "eps=1e-3", "--json"))["sequences"]
    assert [(row["norm"], row["where"], row["is_independent"]) for row in rows] == [
        ("ln", "layer", True),
        ("ln", "block", True),
        ("bn", "layer", False),
        ("bn", "block", False),
    ]
    with pytest.raises(UnknownNameError, match="unknown sequence norm 'gn'"):
        run("--sequence", "gn")
    with pytest.raises(ConfigError, match="neither --against nor --plot"):
        run("--sequence", "ln", "--against", "bn")
