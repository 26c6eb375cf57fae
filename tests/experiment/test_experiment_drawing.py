"""Pictures of runs: one by one in this process, or by others where there are cores or runs end fast."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from normbench.experiment.drawing import Drawers


def draw(folder: Path) -> None:
    """Leave the number of the process that draws; one folder is not writable, so to say, and one ends its process."""
    if folder.name == "run3":
        raise OSError(28, "No space left on device")
    if folder.name == "run5" and not (folder / "tried").exists():
        (folder / "tried").touch()
        os._exit(9)
    (folder / "loss_curve").write_text(str(os.getpid()))


def folders(place: Path, count: int) -> list[Path]:
    found = [place / f"run{number}" for number in range(count)]
    for folder in found:
        folder.mkdir()
    return found


def drawn_by(runs: list[Path]) -> list[int | None]:
    paths = [folder / "loss_curve" for folder in runs]
    return [int(path.read_text()) if path.exists() else None for path in paths]


def test_a_few_runs_are_drawn_here_and_a_failure_is_a_line(tmp_path, capsys) -> None:
    runs = folders(tmp_path, 5)
    with Drawers(draw) as drawers:
        for folder in runs:
            drawers.draw_run(folder)
    assert drawn_by(runs) == [os.getpid()] * 3 + [None, os.getpid()]
    expected = f"normbench: {runs[3]}: the loss curve cannot be written: No space left on device\n"
    assert capsys.readouterr().err == expected


@pytest.mark.parametrize("count", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_other_processes_draw_all_where_runs_end_fast_or_there_are_cores(tmp_path, capsys, monkeypatch, count) -> None:
    monkeypatch.setattr("normbench.experiment.drawing._MAX_PROCESSES", 2)
    monkeypatch.setattr("normbench.experiment.drawing._MANY_RUNS", 3)
    monkeypatch.setattr("normbench.experiment.drawing.load_libraries", None)  # nothing is really drawn
    runs = folders(tmp_path, 12)
    with Drawers(draw, count) as drawers:
        for folder in runs:
            drawers.draw_run(folder)
    by = drawn_by(runs)
    first = 0 if count else 2
    assert by[:first] == [os.getpid()] * first
    assert [number for number, pid in enumerate(by) if pid is None] == [3, 5]
    others = {pid for pid in by[first:] if pid is not None}
    assert os.getpid() not in others
    assert 1 < len(others) <= 3, "two at a time, and one in place of that which ended"
    err = capsys.readouterr().err
    assert "run3: the loss curve cannot be written: OSError: [Errno 28] No space left on device" in err
    assert "run5: the loss curve cannot be written: the training process ended unexpectedly with exit code 9" in err
    assert not any(Path(f"/proc/{pid}").exists() for pid in others)


def test_what_is_no_function_of_a_module_draws_here(tmp_path) -> None:
    runs = folders(tmp_path, 2)
    with Drawers(lambda folder: draw(folder), 2) as drawers:
        for folder in runs:
            drawers.draw_run(folder)
    assert drawn_by(runs) == [os.getpid()] * 2


def test_an_interrupt_leaves_what_waits_to_the_next_call(tmp_path) -> None:
    runs = folders(tmp_path, 20)

    def end_early() -> None:
        with Drawers(draw, 1) as drawers:
            for folder in runs:
                drawers.draw_run(folder)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        end_early()
    assert None in drawn_by(runs)
