"""Norms are timed in turn after training: what is due, for how long, and what is written."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from local_worker import Killed, LocalWorker
from run_events import make_plan, whole_run

from normbench.config.style import StyleRunConfig
from normbench.engine.device import describe
from normbench.experiment.executor import LocalExecutor
from normbench.experiment.plan import RunPlan
from normbench.experiment.runner import ExperimentRunner
from normbench.experiment.timing_pass import (
    TimingEnded,
    TimingPass,
    TimingProgressed,
    TimingStarted,
    choose_schedule,
)
from normbench.runs.events import Started, TrainingDone
from normbench.runs.records import read_run
from normbench.runs.timing_file import SkippedNorm, TimedNorm, Timing, read_timing
from normbench.runs.writer import RunFolder
from normbench.tasks.style_transfer import StyleSummary
from normbench.worker.targets import TimingCandidate, TimingResult, TimingSchedule
from normbench.worker.time_norms import memory_parts, time_setting

BN, GN, IN = (make_plan(norm) for norm in ("bn", "gn", "in"))
HERE = describe("cpu")


def train(folder: Path, plans: list[RunPlan], facts: dict[str, Any] = HERE) -> None:
    """Leave completed runs that say they took place on the machine of `facts`."""

    def script(*arguments: Any) -> Iterator[Any]:
        for event in whole_run(*arguments):
            if isinstance(event, Started):
                event = Started((), (), facts)
            elif isinstance(event, TrainingDone):
                event = TrainingDone(event.summary.model_copy(update={"train_seconds": 0.06}))
            yield event

    ExperimentRunner(folder, LocalExecutor([LocalWorker(script=script)]), lambda _: None).run(plans)


def timed_part(wanted: list[TimingCandidate], schedule: TimingSchedule, data_dir: Path | None) -> Iterator[Any]:
    """What the worker sends, with a fixed time for each norm."""
    yield 0.5
    yield TimingResult(
        tuple(
            TimedNorm(
                label=entry.config.label, config=entry.config.timing_fields, seconds_per_step=(0.25, 0.5),
                steps_per_block=1, steps_per_epoch=2.5,
            )
            for entry in wanted
        ),
        (),
    )  # fmt: skip


def time_norms(folder: Path, plans: list[RunPlan], script: Any = timed_part, stop: Any = None, **options: Any):
    """Run the pass; return the labels that it timed, setting by setting, and the events it told."""
    worker: Any = LocalWorker(script=script)
    seen: list[Any] = []
    TimingPass(folder, plans, worker, seen.append, **options).run(stop or (lambda: False))
    return [[entry.config.label for entry in wanted] for wanted, *_ in worker.submitted], seen


def sessions(folder: Path) -> list[list[str]]:
    return [[norm.label for norm in session.timed] for session in read_timing(folder).sessions]


def test_a_single_norm_is_timed_only_where_its_runs_shared_the_device(tmp_path) -> None:
    train(tmp_path / "alone", [GN])
    assert time_norms(tmp_path / "alone", [GN])[0] == []
    train(tmp_path / "shared", [GN], HERE | {"concurrent_runs": 3})
    assert time_norms(tmp_path / "shared", [GN])[0] == [["GN"]]
    worker: Any = LocalWorker(script=timed_part)
    TimingPass(tmp_path / "shared", [GN], worker, lambda _: None, force=True).run()
    ((candidate,), *_) = worker.submitted[0]
    assert candidate.train_seconds == pytest.approx(0.06 / 3)  # its share of what the clock said


def test_norms_are_timed_once_and_again_only_with_a_new_one(tmp_path) -> None:
    train(tmp_path, [GN, BN, IN])
    timed, seen = time_norms(tmp_path, [GN, BN])
    assert timed == [["BN", "GN"]]  # the baseline first
    assert seen == [TimingStarted(2), TimingProgressed(0.5), TimingEnded(None)]
    (session,) = read_timing(tmp_path).sessions
    assert session.timed[0].epoch_seconds == (0.625, 1.25)
    assert session.environment["torch"] == HERE["torch"]
    assert session.environment["normbench"]

    assert time_norms(tmp_path, [GN, BN]) == ([], [])
    assert time_norms(tmp_path, [BN, GN, IN])[0] == [["BN", "GN", "IN"]]
    assert sessions(tmp_path) == [["BN", "GN", "IN"]]
    assert time_norms(tmp_path, [BN, GN]) == ([], [])
    assert time_norms(tmp_path, [BN, GN], force=True)[0] == [["BN", "GN"]]


def test_seeds_and_learning_rates_share_a_time_and_batch_sizes_do_not(tmp_path) -> None:
    small = [make_plan(norm, seed, lr=rate) for norm in ("bn", "gn") for seed in (0, 1) for rate in (0.001, 0.01)]
    large = [make_plan(norm, batch_size=20) for norm in ("bn", "gn")]
    single = [make_plan("gn", batch_size=10)]
    train(tmp_path, [*small, *large, *single])
    assert time_norms(tmp_path, [*small, *large, *single])[0] == [["BN", "GN"], ["BN", "GN"]]


def test_a_setting_that_a_norm_chose_for_itself_does_not_part_it_from_the_others(tmp_path) -> None:
    own = make_plan("gn", optimizer="sgd")
    norm = own.config.norm.model_copy(update={"train": {"optimizer": "sgd"}})
    own = RunPlan(own.run_id, own.config.model_copy(update={"norm": norm}), 1)
    train(tmp_path, [BN, own])
    assert time_norms(tmp_path, [BN, own])[0] == [["BN", "GN"]]


@pytest.mark.parametrize(
    "plans",
    [
        [BN],
        [make_plan("bn", engine="compile"), make_plan("gn", engine="compile")],
        [RunPlan(p.run_id, p.config.model_copy(update={"probe": "batch_one"}), 0) for p in (BN, GN)],
    ],
    ids=["one norm", "compiled", "probes"],
)
def test_what_has_no_timing_pass(tmp_path, plans: list[RunPlan]) -> None:
    train(tmp_path, plans)
    assert time_norms(tmp_path, plans) == ([], [])


def test_only_completed_runs_of_this_machine_are_timed(tmp_path) -> None:
    train(tmp_path, [GN], {**HERE, "device_name": "another processor"})
    train(tmp_path, [BN])
    assert time_norms(tmp_path, [BN, GN, IN]) == ([], [])


def test_a_norm_that_cannot_be_timed_is_not_tried_every_time(tmp_path) -> None:
    def script(wanted: list[TimingCandidate], *rest: Any) -> Iterator[Any]:
        *_, part = timed_part(wanted[:1], *rest)
        last = wanted[1].config
        yield TimingResult(part.timed, (SkippedNorm(label="GN", config=last.timing_fields, reason="out of memory"),))

    train(tmp_path, [BN, GN])
    time_norms(tmp_path, [BN, GN], script)
    assert read_timing(tmp_path).sessions[0].skipped[0].reason == "out of memory"
    assert time_norms(tmp_path, [BN, GN]) == ([], [])


def test_runs_whose_feature_network_was_removed_keep_their_own_times(tmp_path) -> None:
    plans = []
    for norm in ("in", "gn"):
        config = StyleRunConfig.model_validate({"norm": norm, "seed": 0, "device": "cpu"})
        plans.append(RunPlan(config.run_id, config, 0))
        folder = RunFolder(tmp_path / config.run_id).acquire()
        costs = {"num_steps": 2000, "train_seconds": 9.0, "startup_seconds": 1.0, "images_per_second": 1.0}
        losses = {"content_loss": 1.0, "style_loss": 1.0, "total_variation": 1.0, "total_loss": 2.3}
        more = {"num_parameters": 10, "peak_memory_mib": 1.0, "contrast_change": {}}
        folder.begin(config)
        folder.write_environment(HERE)
        folder.finish(StyleSummary(**costs, **losses, **more), keep_checkpoint=False)
        folder.release()
    assert time_norms(tmp_path, plans) == ([], [])
    assert time_norms(tmp_path, plans, prerequisite=tmp_path / "features")[0] == [["in", "gn"]]


def test_times_of_another_machine_stay(tmp_path) -> None:
    train(tmp_path, [BN, GN])
    time_norms(tmp_path, [BN, GN])
    (session,) = read_timing(tmp_path).sessions
    elsewhere = session.model_copy(update={"environment": {**session.environment, "device_name": "H100"}})
    (tmp_path / "timing.json").write_text(Timing(sessions=(elsewhere,)).model_dump_json())
    assert time_norms(tmp_path, [BN, GN])[0] == [["BN", "GN"]]
    assert len(read_timing(tmp_path).sessions) == 2


def test_a_stop_leaves_the_times_of_the_runs_and_says_so(tmp_path) -> None:
    train(tmp_path, [BN, GN])
    _, seen = time_norms(tmp_path, [BN, GN], stop=lambda: True)
    assert seen[-1] == TimingEnded("stopped")
    assert not (tmp_path / "timing.json").exists()


def test_old_times_do_not_stand_for_forced_runs(tmp_path) -> None:
    train(tmp_path, [BN, GN, IN])
    time_norms(tmp_path, [BN, GN])
    time_norms(tmp_path, [BN, GN], stop=lambda: True)  # nothing is due
    assert sessions(tmp_path) == [["BN", "GN"]]
    time_norms(tmp_path, [BN, GN, IN], force=True, stop=lambda: True)
    assert sessions(tmp_path) == []


def test_what_goes_wrong_is_told_and_no_more(tmp_path, monkeypatch) -> None:
    def dies(*_: Any) -> Iterator[Any]:
        yield 0.5
        raise Killed

    train(tmp_path, [BN, GN])
    _, seen = time_norms(tmp_path, [BN, GN], dies)
    assert seen[-1] == TimingEnded("the training process was killed by SIGKILL (out of memory?)")

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("normbench.experiment.timing_pass.write_text_atomically", full)
    _, seen = time_norms(tmp_path, [BN, GN])
    assert seen[-1].problem.endswith("timing.json: cannot be written: No space left on device")


def test_a_damaged_file_is_written_anew(tmp_path) -> None:
    train(tmp_path, [BN, GN])
    (tmp_path / "timing.json").write_text("{")
    time_norms(tmp_path, [BN, GN])
    assert sessions(tmp_path) == [["BN", "GN"]]


# --- for how long ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_norms", [2, 32])
@pytest.mark.parametrize("step_seconds", [0.0002, 0.02, 0.1, 0.2, 1.0, 10.0])
@pytest.mark.parametrize("num_steps", [10, 200, 4000])
def test_the_pass_takes_a_tenth_of_training_or_a_second_a_norm_but_not_half_of_training_or_seven_steps(
    num_norms, step_seconds, num_steps
) -> None:
    entry = TimingCandidate(BN.config, 0.0, step_seconds * num_steps, num_steps)
    schedule = choose_schedule([entry] * num_norms)
    if schedule is not None:
        seconds = num_norms * max(step_seconds, schedule.block_seconds) * (schedule.num_rounds + 3)
        least = min(1.0, 0.5 * entry.train_seconds)
        assert seconds <= max(0.1 * entry.train_seconds, least, 7 * step_seconds) * num_norms
        assert seconds <= 10.0 * num_norms
        assert schedule.num_rounds in (4, 6, 8, 10)
    else:
        assert step_seconds * 7 > 10.0


@pytest.mark.parametrize("num_norms", [1, 32])
def test_on_cuda_blocks_have_many_steps_however_little_was_trained(num_norms) -> None:
    config = BN.config.model_copy(update={"device": "cuda"})
    entry = TimingCandidate(config, 0.0, 0.004, 8)
    assert choose_schedule([entry] * num_norms) == TimingSchedule(6, 0.03)


def test_norms_that_do_not_fit_the_memory_together_are_timed_in_parts_with_the_first() -> None:
    assert memory_parts([10, 10, 10], None) == [[0, 1, 2]]
    assert memory_parts([100, 300, 300, 300, 100], 1000) == [[0, 1, 2], [0, 3, 4]]
    assert memory_parts([600, 600, 600], 1000) == [[0, 1], [0, 2]]  # each may fail by itself


# --- real steps --------------------------------------------------------------------------------------------------


def test_real_steps_are_timed_round_by_round_and_one_that_fails_is_left_out() -> None:
    broken = make_plan("gn")
    norm = broken.config.norm.model_copy(update={"options": {"groups": 5}, "label": "GN-5"})
    configs = [make_plan("bn", augment="crop_flip").config, broken.config.model_copy(update={"norm": norm}), IN.config]
    wanted = [TimingCandidate(config, 0.0, 1.0, 10) for config in configs]
    *shares, part = time_setting(wanted, TimingSchedule(4, 0.0), None)
    assert shares == pytest.approx([(step + 1) / 7 for step in range(7)])
    assert [norm.label for norm in part.timed] == ["BN", "IN"]
    assert all(len(norm.seconds_per_step) == 4 and min(norm.seconds_per_step) > 0 for norm in part.timed)
    assert {norm.steps_per_epoch for norm in part.timed} == {40 / 16}
    (skipped,) = part.skipped
    assert (skipped.label, json.loads(skipped.model_dump_json())["config"]["norm"]["name"]) == ("GN-5", "gn")
    assert "groups=5 does not divide" in skipped.reason


@pytest.mark.gpu
def test_on_a_gpu_captured_steps_are_timed_and_norms_run_fused(tmp_path) -> None:
    plans = []
    for norm in ("bn", "gn"):
        plan = make_plan(norm, precision="bf16", engine="graph")
        plans.append(RunPlan(plan.run_id, plan.config.model_copy(update={"device": "cuda"}), 0))
    worker: Any = LocalWorker()
    assert ExperimentRunner(tmp_path, LocalExecutor([worker]), lambda _: None).run(plans)
    environment = read_run(tmp_path / plans[0].run_id).environment
    assert (environment["norm_path"], environment["engine"]) == ("fused", "graph")
    seen: list[Any] = []
    TimingPass(tmp_path, plans, worker, seen.append).run()
    assert seen[-1] == TimingEnded(None)
    (session,) = read_timing(tmp_path).sessions
    assert [norm.label for norm in session.timed] == ["BN", "GN"]
    assert not session.skipped
    assert all(norm.steps_per_block > 1 and max(norm.seconds_per_step) < 0.1 for norm in session.timed)
