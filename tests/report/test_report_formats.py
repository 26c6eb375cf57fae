from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from normbench.report.columns import columns
from normbench.report.comparison_table import Table
from normbench.report.formats import (
    FORMATS,
    SCHEMA_VERSION,
    render_terminal,
    terminal_width,
    to_csv,
    to_json,
    to_latex,
    to_markdown,
    to_narrow_latex,
    to_text,
    to_tsv,
)
from normbench.report.page import Report
from normbench.runs.records import read_experiment

NASTY = "gn_50% |*x*| \\ & <b> $#{~^"


@pytest.fixture
def tables(tutorial: Path, new_run: Callable[..., Path]) -> tuple[Table, ...]:
    new_run(tutorial, "gn", 0, label=NASTY[:40], state="failed", reason="disk | full_100%", folder_name="nasty")
    return Report(read_experiment(tutorial)).tables


def test_markdown_lines_up_and_keeps_its_columns(tables: tuple[Table, ...]) -> None:
    lines = [line for line in to_markdown(tables).splitlines() if line.startswith("|")]
    assert len(lines) == 2 + 5
    assert len({len(line) for line in lines}) == 1
    assert {line.replace("\\|", "").count("|") for line in lines} == {lines[0].count("|")}
    assert "0/3, 1 failed, 2 not started" in lines[-1]


def test_what_no_row_has_takes_no_column(tables: tuple[Table, ...]) -> None:
    (table,) = tables
    assert {"time per epoch (s)", "peak memory (MiB)"} <= {column.header for column in columns(table)}
    rows = tuple(replace(row, epoch_seconds=None, peak_memory_mib=None) for row in table.rows)
    shown = [column.header for column in columns(replace(table, rows=rows))]
    assert not [header for header in shown if header.startswith(("time per", "peak"))]
    assert shown[-2:] == ["parameters", "runs"]


def test_plain_text_lines_up_and_cuts_nothing(tables: tuple[Table, ...]) -> None:
    text = to_text(tables)
    rows = [line for line in text.splitlines() if line.lstrip().startswith(("bn ", "ln ", "in ", "gn "))]
    assert len(rows) == 4
    starts = {line.index("1,55") for line in rows}
    assert len(starts) == 1
    assert "…" not in text
    for table in tables:
        for row in table.rows:
            assert row.label in text
            assert row.runs in text


def test_a_narrow_terminal_wraps_and_cuts_nothing(tables: tuple[Table, ...]) -> None:
    console = Console(file=io.StringIO(), width=60, color_system=None)
    console.print(*render_terminal(tables[0]))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert terminal_width(tables[0]) > 60
    assert max(map(len, text.splitlines())) <= 60
    assert "…" not in text


def test_csv_holds_raw_numbers(tables: tuple[Table, ...]) -> None:
    rows = list(csv.DictReader(io.StringIO(to_csv(tables))))
    bn = rows[0]
    estimate = tables[0].rows[0].results["test_accuracy"].estimate
    assert estimate is not None
    assert float(bn["test_accuracy"]) == estimate.mean
    assert float(bn["test_accuracy_low"]) == estimate.low
    assert (bn["verdict"], bn["difference"]) == ("", "")
    assert rows[1]["verdict"] == "worse"
    assert rows[-1]["label"] == NASTY[:40]
    assert rows[-1]["test_accuracy"] == ""
    assert list(csv.DictReader(io.StringIO(to_tsv(tables)), delimiter="\t")) == rows


def test_json_holds_everything_under_a_schema_version(tables: tuple[Table, ...]) -> None:
    content = json.loads(to_json(tables))
    assert content["schema_version"] == SCHEMA_VERSION
    (table,) = content["tables"]
    assert table["rows"][0]["accuracy"]["n"] == 3
    assert table["rows"][1]["comparison"]["difference"]["estimate"]["mean"] < 0
    assert [row["is_resolved_best"] for row in table["rows"]] == [True, False, False, False, False]


def test_latex_is_booktabs_escaped_and_bold_only_where_resolved(tables: tuple[Table, ...]) -> None:
    latex = to_latex(tables)
    body = latex.split(r"\midrule")[1].split(r"\bottomrule")[0].strip().splitlines()
    assert [line for line in body if r"\textbf" in line] == [body[0]]
    assert body[0].startswith(r"\textbf{bn} & \textbf{7")
    assert body[0].count(r"\textbf") == 2, "its name and accuracy, not its cost"
    assert r"gn\_50\% |*x*| \textbackslash{} \& <b> \$\#\{\textasciitilde{}\textasciicircum{}" in body[-1]
    assert r"disk | full\_100\%" in latex
    num_columns = latex.split(r"\begin{tabular}{")[1].split("}")[0]
    assert {line.replace(r"\&", "").count("&") + 1 for line in body} == {len(num_columns)}
    assert latex.isascii()
    caption = re.search(r"\\caption\{(.*)\}\n", latex)[1]
    assert len(caption) < 160, "two lines"
    assert r"\label{tab:normbench}" in latex


def test_the_narrow_latex_table_has_the_result_its_difference_and_the_time(tables: tuple[Table, ...]) -> None:
    latex = to_narrow_latex(tables)
    assert r"\begin{table}" in latex
    assert r"\begin{tabular}{lrrr}" in latex
    wide, narrow = (text.split(r"\midrule")[1].splitlines()[1].split(" & ") for text in (to_latex(tables), latex))
    assert narrow[:3] == wide[:3]


def test_every_format_takes_an_experiment_in_which_nothing_completed(
    tmp_path: Path, new_run: Callable[..., Path]
) -> None:
    new_run(tmp_path, "bn", 0, state="running", epochs_done=0)
    tables = Report(read_experiment(tmp_path)).tables
    for write in FORMATS.values():
        assert "bn" in write(tables)
