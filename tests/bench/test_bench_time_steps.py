"""`TrainBench` on scripted cases, and once on real ones."""

from typing import Any

import pytest
import torch

from normbench.bench import cases, time_steps
from normbench.bench.cases import Images, TrainerCase, TutorialCase
from normbench.bench.flags import plan_runs
from normbench.bench.time_steps import TrainBench, TrainBenchSettings
from normbench.errors import ConfigError, DivergedError
from normbench.worker.classifiers import load_images

FLAGS = {
    "norms": ["bn", "gn", "none"],
    "model": "norm_resnet_small",
    "dataset": {"name": "synthetic", "options": {"num_train": 10, "num_test": 10}},
    "device": "cpu",
}
QUICK = TrainBenchSettings(rounds=2, block_seconds=0.01, num_epochs=0)
calls: list[tuple[str, int, str]] = []


class Scripted:
    """A case that notes what is asked of it, and fails where the test says so."""

    failing: dict[str, Any] = {}  # noqa: RUF012
    startup_seconds, peak_memory_mib, note, model = 1.5, None, None, torch.nn.Identity()

    def __init__(self, config: Any, *_: Any) -> None:
        self.norm, self.batch_size = config.norm.name, config.train.batch_size

    def start(self) -> None:
        self._do("start")

    def run(self, steps: int) -> None:
        self._do("run")

    def epoch(self) -> float:
        self._do("epoch")
        return 2.0

    def _do(self, what: str) -> None:
        calls.append((self.norm, self.batch_size, what))
        error = self.failing.get((self.norm, what))
        if error is not None:
            raise error


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> type[Scripted]:
    monkeypatch.setattr(time_steps, "TrainerCase", Scripted)
    monkeypatch.setattr(time_steps, "TutorialCase", Scripted)
    monkeypatch.setattr(time_steps, "profile_steps", lambda *_: None)
    monkeypatch.setattr(Scripted, "failing", {})
    calls.clear()
    return Scripted


def run(variants: list[str], sizes: list[int], settings: TrainBenchSettings = QUICK) -> TrainBench:
    bench = TrainBench(plan_runs(variants, sizes, FLAGS, []), None, settings, lambda _: None)
    bench.load_images()
    bench.run()
    return bench


def test_every_case_of_a_batch_size_is_started_before_any_is_timed(scripted) -> None:
    bench = run(["tutorial", "auto"], [2, 4])
    assert [(row.batch_size, row.norm, row.variant) for row in bench.rows] == [
        (size, norm, variant) for size in (2, 4) for norm in ("bn", "gn", "none") for variant in ("tutorial", "auto")
    ]
    assert [what for _, size, what in calls if size == 2][:6] == ["start"] * 6
    assert [size for _, size, _ in calls] == sorted(size for _, size, _ in calls)
    assert all(len(row.seconds_per_step) == 2 and row.failure is None for row in bench.rows)
    assert {row.engine for row in bench.rows} == {"loop", "eager"}


def test_a_breakdown_that_fails_leaves_the_times(scripted, monkeypatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("no profiler")

    monkeypatch.setattr(time_steps, "profile_steps", fail)
    row = run(["auto"], [2]).rows[0]
    assert (row.note, row.failure, len(row.seconds_per_step)) == ("no breakdown: RuntimeError: no profiler", None, 2)


@pytest.mark.parametrize("what", ["start", "run"])
def test_a_case_that_fails_is_a_row_with_its_reason(scripted, what: str) -> None:
    scripted.failing[("gn", what)] = torch.OutOfMemoryError("no memory left\nand more")
    rows = {row.norm: row for row in run(["auto"], [2]).rows}
    assert rows["gn"].failure == "out of memory beside the other cases: no memory left"
    assert rows["gn"].seconds_per_step == ()
    assert rows["gn"].ratio_to_bn is None
    assert all(len(rows[norm].seconds_per_step) == 2 and rows[norm].failure is None for norm in ("bn", "none"))


def test_a_loss_that_diverges_in_an_epoch_leaves_the_steps_to_be_timed(scripted) -> None:
    scripted.failing[("none", "epoch")] = DivergedError("loss is nan at epoch 1, step 3 of 9")
    settings = TrainBenchSettings(rounds=1, block_seconds=0.01, num_epochs=2)
    rows = {row.norm: row for row in run(["auto"], [2], settings).rows}
    assert rows["bn"].epoch_seconds == (2.0, 2.0)
    assert rows["none"].epoch_seconds == ()
    assert rows["none"].note == "no epoch time: loss is nan at epoch 1, step 3 of 9"
    assert rows["none"].failure is None
    assert [what for norm, _, what in calls if norm == "none"].count("epoch") == 1  # it would go on with nothing
    assert len(rows["none"].seconds_per_step) == 1


def test_an_interruption_keeps_what_was_measured(scripted) -> None:
    bench = TrainBench(plan_runs(["auto"], [2, 4], FLAGS, []), None, QUICK, lambda _: None)
    bench.load_images()

    def interrupt(self: Any, steps: int) -> None:
        if self.batch_size == 4:
            raise KeyboardInterrupt

    scripted.run, original = interrupt, scripted.run
    try:
        with pytest.raises(KeyboardInterrupt):
            bench.run()
    finally:
        scripted.run = original
    assert [(row.batch_size, len(row.seconds_per_step)) for row in bench.rows] == [(2, 2)] * 3 + [(4, 0)] * 3


def test_a_batch_larger_than_the_data_is_refused() -> None:
    bench = TrainBench(plan_runs(["auto"], [11], FLAGS, []), None, QUICK, lambda _: None)
    with pytest.raises(ConfigError, match="11 is more than the 10 training images"):
        bench.load_images()


def test_real_cases_run_steps_and_epochs() -> None:
    flags = {**FLAGS, "norms": ["in"]}
    settings = TrainBenchSettings(rounds=2, block_seconds=0.02, num_epochs=2)
    bench = TrainBench(plan_runs(["tutorial", "auto"], [4], flags, []), None, settings, lambda _: None)
    facts = bench.load_images()
    assert (facts["dataset"], facts["num_train"], facts["rounds"]) == ("synthetic", 10, 2)
    bench.run()
    for row in bench.rows:
        assert row.failure is None
        assert row.steps_per_epoch == 3
        assert len(row.seconds_per_step) == len(row.epoch_seconds) == 2
        assert all(seconds > 0 for seconds in (*row.seconds_per_step, *row.epoch_seconds, row.startup_seconds))
    tutorial, auto = bench.rows
    assert tutorial.breakdown is None
    assert auto.breakdown is not None
    assert tutorial.speedup_over_tutorial == 1


def test_our_steps_keep_their_memory_and_the_tutorials_loop_does_as_the_c_library_does(monkeypatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(cases, "keep_freed_memory", lambda _: asked.append("keep"))
    monkeypatch.setattr(cases, "return_freed_memory", lambda _: asked.append("return"))
    (_, config), *_ = plan_runs(["auto"], [4], FLAGS, [])
    images = Images(*load_images("synthetic", {"num_train": 10, "num_test": 10}, None, "cpu"))
    ours, tutorial = TrainerCase(config, images, 1), TutorialCase(config, images)
    ours.start()
    tutorial.start()
    for case, expected in ((tutorial, "return"), (ours, "keep")):
        for block in (lambda case: case.run(1), lambda case: case.epoch()):
            asked.clear()
            block(case)
            assert asked == [expected]


def test_single_steps_go_on_training_epoch_after_epoch() -> None:
    (_, config), *_ = plan_runs(["auto"], [4], FLAGS, [])
    case = TrainerCase(config, Images(*load_images("synthetic", {"num_train": 10, "num_test": 10}, None, "cpu")), 1)
    case.start()
    case.epoch()  # three steps, the last one short
    begun: list[int] = []
    step = case._trainer.step
    start_epoch = step.state.start_epoch
    step.state.start_epoch = lambda *given, **named: (begun.append(named["global_step"]), start_epoch(*given, **named))
    before = [parameter.clone() for parameter in case.model.parameters()]
    case.run(70)
    assert begun[:3] == [3, 5, 7]  # two whole batches each
    assert all(first < 21 * 3 - 1 for first in begun)  # each step has a learning rate
    assert any(not torch.equal(a, b) for a, b in zip(before, case.model.parameters(), strict=True))


@pytest.mark.gpu
def test_real_cases_on_cuda() -> None:
    flags = {**FLAGS, "norms": ["bn", "frn"], "device": "cuda"}
    settings = TrainBenchSettings(rounds=2, block_seconds=0.02, num_epochs=2)
    bench = TrainBench(plan_runs(["tutorial", "eager", "auto"], [4], flags, []), None, settings, lambda _: None)
    bench.load_images()
    bench.run()
    assert [row.failure for row in bench.rows] == [None] * 6
    assert all(row.peak_memory_mib > 1 and len(row.epoch_seconds) == 2 for row in bench.rows)
    assert [row.engine for row in bench.rows[:3]] == ["loop", "eager", "graph"]
