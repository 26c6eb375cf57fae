"""The training loop against one written by hand, and against itself interrupted."""

import io
import math
from collections.abc import Callable
from fractions import Fraction

import pytest
import torch
from tiny_net import TinyNet
from torch import nn
from torch.nn import functional

from normbench.engine.batches import DeviceImages, epoch_order
from normbench.engine.classifier import ClassifierTraining
from normbench.engine.evaluate import PendingEvaluation
from normbench.engine.step.base import TrainStep
from normbench.engine.trainer import Trainer
from normbench.errors import DivergedError
from normbench.models.normresnet import NormResNet
from normbench.norms import make_norm
from normbench.runs.events import EpochDone, Pause, StepsDone, TrainingDone

SEED = 3


def losses_of(events: list) -> list[float]:
    return [loss for event in events if isinstance(event, StepsDone) for (loss,) in event.losses]


def rows_of(events: list) -> list[dict]:
    """The epochs' rows without the times, which no two trainings share."""
    rows = [event.row.model_dump() for event in events if isinstance(event, EpochDone)]
    return [{key: value for key, value in row.items() if not key.endswith("seconds")} for row in rows]


def tutorial_loop(net: nn.Module, train: DeviceImages, test: DeviceImages, epochs: int, batch_size: int):
    """Train as the tutorial does, in plain PyTorch; return step losses and (train, test) accuracy by epoch."""
    x, y = (train.images.float() / 255 - 0.5) / 0.5, train.labels
    x_test = (test.images.float() / 255 - 0.5) / 0.5
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
    losses, accuracies = [], []
    for epoch in range(epochs):
        correct = 0
        for batch in epoch_order(len(x), SEED, epoch).split(batch_size):
            optimizer.zero_grad()
            logits = net(x[batch])
            loss = nn.CrossEntropyLoss()(logits, y[batch])
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
            correct += (logits.argmax(1) == y[batch]).sum().item()
        net.eval()
        with torch.no_grad():
            accuracies.append((correct / len(x), (net(x_test).argmax(1) == test.labels).float().mean().item()))
        net.train()
    return losses, accuracies


@pytest.mark.parametrize("norm", ["bn", "gn"])
def test_trains_like_the_tutorials_loop(make_trainer, train_images, eval_images, norm: str) -> None:
    torch.manual_seed(0)
    net = NormResNet(norm=make_norm(norm))
    by_hand = NormResNet(norm=make_norm(norm))
    by_hand.load_state_dict(net.state_dict())
    expected, accuracies = tutorial_loop(by_hand, train_images, eval_images, epochs=2, batch_size=16)

    events = list(make_trainer(net, seed=SEED, epochs=2, batch_size=16).run())

    assert losses_of(events) == pytest.approx(expected, rel=2e-3)
    assert losses_of(events)[:3] == pytest.approx(expected[:3], rel=1e-5)  # before rounding differences grow
    for row, expected_accuracies in zip(rows_of(events), accuracies, strict=True):
        assert (row["train_accuracy"], row["test_accuracy"]) == pytest.approx(expected_accuracies)


def test_an_epochs_loss_is_the_mean_over_images_though_the_last_batch_is_smaller(make_trainer) -> None:
    events = list(make_trainer(epochs=1).run())  # 40 images in batches of 16, 16 and 8
    losses = losses_of(events)
    assert len(losses) == 3
    assert rows_of(events)[0]["train_loss"] == pytest.approx((16 * losses[0] + 16 * losses[1] + 8 * losses[2]) / 40)


def test_a_batch_larger_than_the_data_set_is_the_data_set(make_trainer) -> None:
    events = list(make_trainer(epochs=2, batch_size=64).run())
    assert len(losses_of(events)) == 2


SETTINGS = [
    {"optimizer": "adam"},
    {"optimizer": "sgd", "lr": 0.05, "weight_decay": 0.01, "schedule": "one_cycle", "augment": "crop_flip"},
    {"optimizer": "adamw", "weight_decay": 0.1, "schedule": "cosine", "label_smoothing": 0.1},
]


@pytest.mark.parametrize("settings", SETTINGS, ids=lambda settings: settings["optimizer"])
@pytest.mark.parametrize("num_events", [1, 2, 3, 4, 5, 6])
def test_interrupted_and_resumed_equals_uninterrupted_bitwise(
    make_trainer: Callable[..., Trainer], settings: dict, num_events: int
) -> None:
    def net(seed: int) -> nn.Module:
        return TinyNet(make_norm("brn")(8), seed)  # has running statistics and a schedule of its own

    straight = make_trainer(net(0), **settings)
    expected = list(straight.run())

    first = make_trainer(net(0), **settings)
    events = first.run()
    for _ in range(num_events):
        next(events)
    events.close()
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    second = make_trainer(net(1), **settings)  # other weights, which the checkpoint must replace
    second.load_state_dict(torch.load(file, weights_only=True))
    done = [loss for (loss,) in second.losses]
    rest = list(second.run())

    assert done == losses_of(expected)[: len(done)]
    assert done + losses_of(rest) == losses_of(expected)
    assert rows_of(expected)[len(first.rows) :] == rows_of(rest)
    for name, tensor in straight.model.state_dict().items():
        assert torch.equal(tensor, second.model.state_dict()[name]), name


@pytest.fixture
def short_turns(monkeypatch) -> None:
    monkeypatch.setattr("normbench.engine.trainer.STEPS_PER_TURN", 1)


def test_trainings_in_turns_give_what_each_gives_alone(make_trainer, short_turns) -> None:
    def trainers() -> list[Trainer]:
        return [make_trainer(TinyNet(make_norm("brn")(8), seed), seed=seed, epochs=2) for seed in (0, 1)]

    expected = [list(trainer.run()) for trainer in trainers()]
    found: list[list] = [[], []]
    running = [trainer.run_in_turns() for trainer in trainers()]
    for events in zip(*running, strict=True):
        for kept, event in zip(found, events, strict=True):
            kept.append(event)
    assert [losses_of(events) for events in found] == [losses_of(events) for events in expected]
    assert [rows_of(events) for events in found] == [rows_of(events) for events in expected]
    kinds = [type(event) for event in found[0]]
    # Before the first step; after each that does not end a report, before reports, and while an evaluation is computed.
    epoch = [Pause, StepsDone, Pause, Pause, Pause, StepsDone, Pause, EpochDone]
    assert kinds == [Pause, *epoch, *epoch, TrainingDone]


@pytest.mark.parametrize("num_turns", range(1, 17))
def test_stopped_in_any_turn_and_resumed_equals_uninterrupted(make_trainer, short_turns, num_turns: int) -> None:
    expected = list(make_trainer(epochs=2).run())
    first = make_trainer(epochs=2)
    events = first.run_in_turns()
    for _ in range(num_turns):
        next(events)
    events.close()
    second = make_trainer(TinyNet(seed=1), epochs=2)
    second.load_state_dict(first.state_dict())
    done = [loss for (loss,) in second.losses]
    rest = list(second.run())
    assert done + losses_of(rest) == losses_of(expected)
    assert rows_of(expected)[len(first.rows) :] == rows_of(rest)


def test_a_training_that_is_stopped_in_a_turn_in_which_it_diverges_has_diverged(make_trainer, short_turns) -> None:
    events = make_trainer(TinyNet(NanAfter(1))).run_in_turns()
    while not isinstance(next(events), StepsDone):
        pass
    assert isinstance(next(events), Pause)
    with pytest.raises(DivergedError, match="loss is nan at epoch 1, step 1 of 3"):
        events.close()


def test_the_interrupts_above_cut_epochs_in_two(make_trainer) -> None:
    kinds = [type(event) for event in make_trainer().run()]
    assert kinds == [StepsDone, StepsDone, EpochDone] * 2 + [TrainingDone]


class Clock:
    """Each look takes some time."""

    def __init__(self, seconds_per_look: float = 0.001) -> None:
        self.now = 0.0
        self.seconds_per_look = seconds_per_look

    def __call__(self) -> float:
        self.now += self.seconds_per_look
        return self.now


def test_training_time_leaves_out_evaluation_and_whoever_handles_the_events(make_trainer, monkeypatch) -> None:
    clock = Clock()
    evaluate = ClassifierTraining.launch_evaluation

    def slow_evaluate(self: ClassifierTraining) -> PendingEvaluation:
        clock.now += 100
        return evaluate(self)

    step = TrainStep.__call__

    def slow_step(self: object, position: int) -> None:
        clock.now += 1
        step(self, position)

    monkeypatch.setattr(ClassifierTraining, "launch_evaluation", slow_evaluate)
    monkeypatch.setattr(TrainStep, "__call__", slow_step)
    rows, summary = [], None
    for event in make_trainer(clock=clock, epochs=2).run():
        clock.now += 10_000
        if isinstance(event, EpochDone):
            rows.append(event.row)
        elif isinstance(event, TrainingDone):
            summary = event.summary
    assert [row.train_seconds for row in rows] == pytest.approx([3, 3], abs=0.1)
    assert [row.test_seconds for row in rows] == pytest.approx([100, 100], abs=0.1)
    assert summary is not None
    assert summary.train_seconds == pytest.approx(6, abs=0.1)
    assert summary.epoch_seconds == pytest.approx(3, abs=0.1)
    assert summary.images_per_second == pytest.approx(80 / 6, rel=0.05)
    assert summary.startup_seconds < 1


def test_steps_are_reported_at_least_every_hundred(make_trainer) -> None:
    events = [event for event in make_trainer(epochs=1, batch_size=1).run() if isinstance(event, StepsDone)]
    assert events[0].first_step == 0
    assert len(events[0].losses) == 1
    assert [event.first_step for event in events[1:]] == [event.first_step + len(event.losses) for event in events[:-1]]


def test_a_diverging_loss_ends_training_after_the_steps_that_led_there(make_trainer) -> None:
    events: list = []
    with pytest.raises(DivergedError, match=r"^loss is (nan|inf) at epoch \d+, step \d of 3, learning rate 1e\+25$"):
        events.extend(make_trainer(optimizer="sgd", lr=1e25, epochs=50).run())  # keeps what came before the error
    losses = torch.tensor(losses_of(events))
    assert losses[:-1].isfinite().all()
    assert not losses[-1].isfinite()


class NanAfter(nn.Module):
    def __init__(self, num_calls: int) -> None:
        super().__init__()
        self.left = num_calls

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.left -= 1
        return x if self.left >= 0 else x * torch.nan


def test_a_norm_that_yields_nan_is_told_with_epoch_and_step(make_trainer) -> None:
    with pytest.raises(DivergedError, match="loss is nan at epoch 1, step 2 of 3"):
        list(make_trainer(TinyNet(NanAfter(2))).run())


@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_a_test_loss_that_is_not_finite_ends_training_as_diverged(make_trainer, monkeypatch, loss: float) -> None:
    pending = PendingEvaluation(torch.tensor(20 * loss), torch.tensor(2), 20)
    monkeypatch.setattr(ClassifierTraining, "launch_evaluation", lambda self: pending)
    events: list = []
    with pytest.raises(DivergedError, match=f"^test loss is {loss} at epoch 1, step 2 of 3, learning rate 0.001$"):
        events.extend(make_trainer().run())
    assert not rows_of(events)
    assert len(losses_of(events)) == 3


def test_a_training_that_is_stopped_where_it_diverges_has_diverged(make_trainer) -> None:
    events = make_trainer(TinyNet(NanAfter(0))).run()
    next(events)
    with pytest.raises(DivergedError, match="loss is nan at epoch 1, step 0 of 3"):
        events.close()  # type: ignore[attr-defined]


def test_an_epochs_mean_loss_does_not_depend_on_how_the_clock_cut_its_steps(make_trainer) -> None:
    """Sums of sums differ in the last digit; the mean is that of exact arithmetic, rounded once."""
    found = set()
    for seconds_per_look in (0.001, 0.1, 0.3, 0.4, 10.0):
        clock = Clock(seconds_per_look)
        events = list(make_trainer(batch_size=1, epochs=1, clock=clock).run())
        found.add((sum(isinstance(event, StepsDone) for event in events), rows_of(events)[0]["train_loss"]))
    exact = sum(map(Fraction, losses_of(events))) / 40
    assert len({count for count, _ in found}) >= 4
    assert {loss for _, loss in found} == {float(exact)}


def test_the_step_does_to_the_images_what_the_settings_say(make_trainer) -> None:
    """Label smoothing against PyTorch's own, on the loss of the first step."""
    plain, smoothed = (next(iter(make_trainer(label_smoothing=s).run())).losses[0][0] for s in (0.0, 0.2))
    trainer = make_trainer()
    batch = epoch_order(40, SEED, 0)[:16]
    x = (trainer.step.images.images[batch].float() / 255 - 0.5) / 0.5
    logits = TinyNet()(x)
    labels = trainer.step.images.labels[batch]
    assert plain == pytest.approx(functional.cross_entropy(logits, labels).item(), rel=1e-5)
    assert smoothed == pytest.approx(functional.cross_entropy(logits, labels, label_smoothing=0.2).item(), rel=1e-5)


def test_augmentation_changes_the_images_and_not_their_order(make_trainer) -> None:
    plain, augmented = make_trainer(), make_trainer(augment="crop_flip")
    first = [next(iter(trainer.run())).losses for trainer in (plain, augmented)]
    assert first[0] != first[1]
    assert torch.equal(plain.step.state.order, augmented.step.state.order)


def test_a_checkpoint_from_before_losses_had_columns_still_loads(make_trainer) -> None:
    first = make_trainer()
    events = first.run()
    next(events)
    events.close()
    old = first.state_dict()
    old["losses"] = old["losses"].flatten()
    second = make_trainer()
    second.load_state_dict(old)
    assert second.losses == first.losses
    assert losses_of(list(second.run())) == losses_of(list(make_trainer().run()))[1:]
