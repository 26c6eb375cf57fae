"""Figures drawn by other processes: the same files, whatever becomes of the processes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from normbench.experiment.drawing import Drawers
from normbench.report import Report, write_report_of, write_run_report
from normbench.report.drawing import draw_figures
from normbench.runs.records import read_experiment


@pytest.mark.slow
def test_processes_draw_the_same_files_also_after_one_was_lost(
    tutorial: Path, new_run: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = sorted(path.parent for path in tutorial.glob("*/summary.json"))[:2]
    report = Report(read_experiment(tutorial))
    figures = report.figures
    here = draw_figures(figures)
    with Drawers(write_run_report) as alone:
        for run in runs:
            alone.draw_run(run)
    expected = [(run / "loss_curve.png").read_bytes() for run in runs]
    for run in runs:
        (run / "loss_curve.png").unlink()
    with Drawers(write_run_report, 2) as drawers:
        drawers.draw_run(tmp_path / "no_such_run")
        for run in runs:
            drawers.draw_run(run)
        assert drawers.draw_figures(figures) == here
        assert [(run / "loss_curve.png").read_bytes() for run in runs] == expected
        lost = drawers._places[0].worker._process
        lost.kill()
        lost.join()
        (runs[0] / "loss_curve.png").unlink()
        for _ in range(2):
            drawers.draw_run(runs[0])
        paths = write_report_of(report, tmp_path / "report", drawers.draw_figures)
    assert (runs[0] / "loss_curve.png").read_bytes() == expected[0]
    assert all(path.is_file() for path in paths)
    assert len(paths) == 7 + 2 * len(figures)
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 1
    assert "no_such_run: the loss curve cannot be written: " in errors[0]


def test_what_cannot_be_sent_is_drawn_here(tutorial: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("normbench.experiment.drawing.load_libraries", None)  # the other process draws nothing
    (first, *_) = Report(read_experiment(tutorial)).figures
    local = type(first)(first.name, first.title, first.caption, lambda: first.draw())
    with Drawers(write_run_report, 1) as drawers:
        assert drawers.draw_figures([local]) == draw_figures([first])
