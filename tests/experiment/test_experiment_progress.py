"""What progress looks like, on a terminal and off it."""

import io
from dataclasses import replace

import pytest
from rich.console import Console

from normbench.config.schema import RunConfig
from normbench.experiment.plan import RunPlan
from normbench.experiment.progress import LineProgress, LiveProgress, make_progress
from normbench.experiment.runner import RunBusy, RunEnded, RunPostponed, RunProgressed, RunStarted, Stopping
from normbench.experiment.timing_pass import TimingEnded, TimingProgressed, TimingStarted
from normbench.runs.events import CheckpointFailed, EpochDone, FactsLearned, StepsDone
from normbench.runs.records import Status
from normbench.tasks.classification import Summary
from normbench.tasks.task import EpochRow


def plan(norm: str = "gn", seed: int = 0, label: str | None = None) -> RunPlan:
    config = RunConfig.model_validate(
        {"norm": {"name": norm, "label": label or norm.upper()}, "model": "norm_resnet", "dataset": "cifar10",
         "train": {}, "seed": seed, "device": "cpu"}
    )  # fmt: skip
    return RunPlan(f"{norm}-{seed}", config, 0)


def status(state: str, reason: str | None = None) -> Status:
    return Status(state=state, reason=reason, started_at="2026-01-01", pid=1)


ROW = EpochRow(
    epoch=1, num_steps=782, train_loss=1.5, train_accuracy=0.5, test_loss=1.25, test_accuracy=0.5678,
    train_seconds=12.345, test_seconds=1.0, learning_rate=1e-3,
)  # fmt: skip
SUMMARY = Summary(
    test_accuracy=0.7123, test_loss=1.0, train_accuracy=0.5, train_loss=1.0, num_epochs=5, num_steps=3910,
    num_parameters=10, train_seconds=61.7, epoch_seconds=12.3, startup_seconds=0.1, peak_memory_mib=None,
    images_per_second=4000.0,
)  # fmt: skip


def steps(first: int, count: int, epoch: int = 1) -> StepsDone:
    losses = tuple((2.3121 - 0.001 * step,) for step in range(first, first + count))
    return StepsDone(epoch, first, losses, 782, 0.25, 4567.8)


def lines_of(events: list, capsys: pytest.CaptureFixture[str], plans: list[RunPlan]) -> list[str]:
    display = LineProgress(plans)
    with display:
        for event in events:
            display(event)
    captured = capsys.readouterr()
    assert captured.out == ""
    return captured.err.splitlines()


def test_off_a_terminal_every_hundredth_batch_is_a_line(capsys) -> None:
    gn = plan()
    events = [RunProgressed(gn, steps(first, count)) for first, count in ((0, 1), (1, 250), (251, 531))]
    lines = lines_of(events, capsys, [gn])
    assert lines[0] == "GN Epoch 1/5 | Batch 0/782 | Loss: 2.3121"
    assert [line.split()[5] for line in lines] == [f"{batch}/782" for batch in range(0, 782, 100)]
    assert lines[2].endswith("Loss: 2.1121")


def test_several_seeds_are_told_apart(capsys) -> None:
    plans = [plan(seed=0), plan(seed=1)]
    assert lines_of([RunProgressed(plans[1], steps(0, 1))], capsys, plans) == [
        "GN seed 1 Epoch 1/5 | Batch 0/782 | Loss: 2.3121"
    ]


def test_epochs_ends_and_hitches_are_lines(capsys) -> None:
    gn = plan()
    events = [
        RunStarted(gn, 0),
        RunStarted(gn, 2),
        RunProgressed(gn, FactsLearned({"norm_path": "fused"})),
        RunProgressed(gn, FactsLearned({"engine": "eager", "engine_fallback": "not capturable: x"})),
        RunProgressed(gn, CheckpointFailed("disk full")),
        RunProgressed(gn, EpochDone(ROW)),
        RunEnded(gn, status("completed"), SUMMARY),
        RunEnded(gn, status("completed"), SUMMARY, skipped=True),
        RunEnded(gn, status("diverged", "loss is nan"), None),
        RunEnded(gn, status("failed", "killed"), None, skipped=True),
        RunBusy(gn),
        Stopping(),
        TimingStarted(4),
        TimingProgressed(0.5),
        TimingEnded(None),
        TimingEnded("out of memory"),
    ]
    assert lines_of(events, capsys, [gn]) == [
        "GN seed 0: goes on after epoch 2",
        "GN: steps run eagerly: not capturable: x",
        "GN: training goes on without a checkpoint: disk full",
        "GN Epoch 1/5 | Test accuracy: 56.78 % | Test loss: 1.2500 | 12.35 s",
        "GN seed 0: test accuracy 71.23 %, 61.7 s training",
        "GN seed 0: completed before, kept (test accuracy 71.23 %)",
        "GN seed 0: diverged: loss is nan",
        "GN seed 0: failed: killed; --retry runs it again",
        "GN seed 0: another process is training it; left to that",
        "stopping: running runs end their step and save a checkpoint; again to stop at once",
        "timing the steps of 4 norms against each other",
        "not all norms were timed against each other, tables take times from runs that trained alone: out of memory",
    ]


def screen(width: int, *events: object, plans: list[RunPlan]) -> list[str]:
    """The last frame of a live display, as lines without control codes."""
    console = Console(file=io.StringIO(), force_terminal=True, width=width, height=30, color_system=None)
    display = LiveProgress(plans, console)
    with display:
        for event in events:
            display(event)
        frame = Console(file=io.StringIO(), width=width, color_system=None)
        frame.print(display._progress.get_renderable())
    assert isinstance(frame.file, io.StringIO)
    assert isinstance(console.file, io.StringIO)
    return [*frame.file.getvalue().splitlines(), console.file.getvalue()]


def test_a_terminal_shows_loss_accuracy_speed_and_the_share_that_is_done() -> None:
    bn, gn = plan("bn"), plan("gn", label="GN (groups=8)")
    events = [
        RunEnded(bn, status("completed"), SUMMARY), RunStarted(gn, 0), RunProgressed(gn, EpochDone(ROW)),
        RunProgressed(gn, steps(0, 391, epoch=2)),
    ]  # fmt: skip
    everything, run, printed = screen(140, *events, plans=[bn, gn])
    assert everything.startswith("all runs")
    assert "1/2 runs" in everything
    for part in ("GN (groups=8) seed 0", "epoch 2/5", "loss 1.9221", "train 25.0 %", "test 56.8 %", "4,568 img/s"):
        assert part in run
    assert "BN seed 0: test accuracy 71.23 %, 61.7 s training" in printed


@pytest.mark.parametrize("label", ["GN", "LN (GroupNorm(1, C))", "a label of the forty letters allowed [x]"])
def test_80_columns_suffice(label: str) -> None:
    gn = plan(label=label)
    everything, run, _ = screen(80, RunStarted(gn, 0), RunProgressed(gn, steps(0, 100)), plans=[gn])
    assert max(len(everything), len(run)) <= 80
    for part in ("seed 0", "epoch 1/5", "loss 2.2131", "train 25.0 %", "4,568 img/s"):
        assert part in run


def test_runs_that_train_at_once_have_a_bar_each() -> None:
    plans = [plan("bn"), plan("gn"), replace(plan("gn"), run_id="other", point="batch size 8")]
    events = [RunStarted(found, 0) for found in plans]
    progress = [RunProgressed(plans[0], steps(0, 391)), RunProgressed(plans[2], steps(0, 100, epoch=3))]
    everything, *bars, _ = screen(140, *events, *progress, plans=plans)
    assert "0/3 runs" in everything
    assert [bar.split("  ")[0].split(" ━")[0].strip() for bar in bars] == [
        "BN seed 0", "GN seed 0", "GN (batch size 8) seed 0",
    ]  # fmt: skip
    assert "epoch 1/5" in bars[0]
    assert "preparing" in bars[1]
    assert "epoch 3/5" in bars[2]


def test_a_run_that_is_put_back_loses_its_bar_and_is_told_with_the_reason(capsys) -> None:
    bn, gn = plan("bn"), plan("gn")
    full = RunPostponed(gn, "out of memory on cuda", 2)
    alone = RunPostponed(gn, "the training process was killed", 1)
    events = [RunStarted(bn, 0), RunStarted(gn, 0), RunProgressed(gn, steps(0, 100)), full]
    everything, *bars, printed = screen(140, *events, plans=[bn, gn])
    assert "0/2 runs" in everything  # it is not over
    assert [bar.split("  ")[0].split(" ━")[0].strip() for bar in bars] == ["BN seed 0"]
    told = "GN seed 0: goes on with 2 runs at once: out of memory on cuda"
    assert told in printed
    ended = RunEnded(gn, status("completed"), SUMMARY, runs_at_once=8)
    assert lines_of([full, alone, ended], capsys, [gn]) == [
        told,
        "GN seed 0: goes on alone: the training process was killed",
        "GN seed 0: test accuracy 71.23 %, 61.7 s training beside up to 7 others",
    ]


def test_the_timing_pass_has_a_bar() -> None:
    _, bar, _ = screen(80, TimingStarted(4), TimingProgressed(0.5), plans=[plan()])
    assert bar.startswith("timing 4 norms")
    assert "in turn" in bar
    *bars, printed = screen(80, TimingStarted(4), TimingEnded("out of memory"), plans=[plan()])
    assert len(bars) == 1
    assert "from runs that trained alone: out of memory" in " ".join(printed.split())


def test_runs_leave_the_screen_as_lines() -> None:
    bn, gn, ln = plan("bn"), plan("gn"), plan("in")
    events = [
        RunEnded(bn, status("completed"), SUMMARY, skipped=True), RunStarted(gn, 0), Stopping(),
        RunEnded(gn, status("interrupted", "stopped"), None), RunBusy(ln),
    ]  # fmt: skip
    everything, printed = screen(100, *events, plans=[bn, gn, ln])
    assert "2/3 runs" in everything  # the busy one is waited for
    for part in ("BN seed 0: completed before", "stopping:", "GN seed 0: interrupted: stopped", "IN seed 0: another"):
        assert part in printed


def test_a_file_or_pipe_gets_lines(capsys) -> None:
    assert isinstance(make_progress([plan()]), LineProgress)
