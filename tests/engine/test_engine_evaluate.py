"""Loss and accuracy against sums by hand, replayed too, and the accuracy with the statistics of each image alone."""

import copy
from collections.abc import Callable
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from tiny_net import TinyNet, draw_images
from torch import nn
from torch.nn import functional

from normbench.engine.batches import DeviceImages, normalize
from normbench.engine.evaluate import RepeatedEvaluation, batch_statistics_accuracy, evaluate


def test_means_are_over_images_in_evaluation_mode_and_the_model_is_left_alone() -> None:
    images = DeviceImages(*draw_images(70, 5), "cpu", channels_last=True)
    net = TinyNet()
    net.train()
    net(torch.randn(32, 3, 32, 32))  # running statistics that differ from the initial ones
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}

    loss, accuracy = evaluate(net, images, "cpu", "fp32", batch_size=32)  # batches of 32, 32 and 6

    assert net.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())
    net.eval()
    with torch.no_grad():
        logits = net((images.images.float() / 255 - 0.5) / 0.5)
    assert loss == pytest.approx(functional.cross_entropy(logits, images.labels).item(), rel=1e-5)
    assert accuracy == pytest.approx((logits.argmax(1) == images.labels).float().mean().item())
    assert evaluate(net, images, "cpu", "fp32")[1] == accuracy
    assert not net.training


def test_bf16_evaluation_sums_losses_in_float32() -> None:
    images = DeviceImages(*draw_images(70, 5), "cpu", channels_last=True)
    net = TinyNet()
    exact = evaluate(net, images, "cpu", "fp32")[0]
    assert evaluate(net, images, "cpu", "bf16")[0] == pytest.approx(exact, rel=1e-2)


# --- replayed --------------------------------------------------------------------------------------------------------


class ReplayedOnACpu:
    """In place of a CUDA graph: does once more what was captured, on the tensors that it was captured with."""

    def __init__(self, step: Callable[[], None]) -> None:
        self.replay = Mock(side_effect=step)


class FollowingMean(nn.Module):
    """Takes off a running mean, in training too, so that what it says of a batch depends on the batches before."""

    def __init__(self, num_channels: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(num_channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.training:
            self.mean.lerp_(x.mean((0, 2, 3)), 0.5)
        return x - self.mean[:, None, None]


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_replayed_batches_count_what_batches_one_by_one_do(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    graphs: list[ReplayedOnACpu] = []

    def capture(steps: list[Callable[[], None]], *, rewind: Callable[[], None]) -> tuple[list[ReplayedOnACpu], None]:
        steps[0]()  # a warm-up, which changes sums and buffers
        rewind()
        graphs.extend(map(ReplayedOnACpu, steps))
        return graphs, None

    monkeypatch.setattr("normbench.engine.evaluate.warm_up_and_capture", capture)
    model = TinyNet(FollowingMean(8)).train(mode == "train")
    before = copy.deepcopy(model.state_dict())
    evaluated = copy.deepcopy(model) if mode == "train" else model  # in training mode buffers change
    replayed = RepeatedEvaluation(
        evaluated, draw(203, 3), "cuda", "fp32", batch_size=50, in_training_mode=mode == "train"
    )
    replayed.warm_up_and_capture()
    for seed in (3, 4, 3):  # each split begins with the same running averages
        split = draw(203, seed)
        loss, accuracy = by_hand(copy.deepcopy(model), split)
        found = replayed.launch(split).result()
        assert found.accuracy == accuracy
        assert found.loss == pytest.approx(loss, rel=1e-6)
    assert graphs[0].replay.call_count == 3 * 4  # the last batch has 3 images
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert evaluated.training == (mode == "train")


def test_a_network_in_training_is_evaluated_as_it_is_at_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Captured once, before the first step, with the memory of the training's own graph."""
    graphs: list[ReplayedOnACpu] = []

    def capture(step: object, function: Callable[[], None]) -> ReplayedOnACpu:
        assert step == "the training's"
        graphs.append(ReplayedOnACpu(function))
        return graphs[0]

    monkeypatch.setattr("normbench.engine.evaluate.capture_into", capture)
    model, split = TinyNet(FollowingMean(8)).train(), draw(203, 3)
    replayed = RepeatedEvaluation(model, split, "cuda", "fp32", batch_size=50)
    replayed.warm_up()
    replayed.capture_in_memory_of("the training's")  # type: ignore[arg-type]
    losses = []
    for _ in range(3):
        with torch.no_grad():  # what a step changes: weights, and running averages, where they are
            model.head.weight += 0.1 * torch.randn_like(model.head.weight)
            model.norm.mean += 0.5
        loss, accuracy = by_hand(copy.deepcopy(model).eval(), split)
        found = replayed.launch(split).result()
        assert found.accuracy == accuracy
        assert found.loss == pytest.approx(loss, rel=1e-6)
        assert model.training
        losses.append(loss)
    assert len(set(losses)) == 3
    assert graphs[0].replay.call_count == 3 * 4


def test_fewer_images_than_a_batch_are_not_captured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("normbench.engine.evaluate.capture_into", pytest.fail)
    model, split = TinyNet().eval(), draw(20, 3)
    replayed = RepeatedEvaluation(model, split, "cuda", "fp32", batch_size=50)
    replayed.capture_in_memory_of("the training's")  # type: ignore[arg-type]
    assert not replayed.is_captured
    assert replayed.launch(split).result() == pytest.approx(by_hand(model, split), rel=1e-6)


def draw(count: int, seed: int) -> DeviceImages:
    return DeviceImages(*draw_images(count, seed), "cpu", channels_last=True)


def by_hand(model: nn.Module, split: DeviceImages) -> tuple[float, float]:
    """Loss and accuracy of batches of 50, one after the other."""
    with torch.no_grad():
        logits = torch.cat([model(normalize(part)) for part in split.images.split(50)])
    hits = int((logits.argmax(1) == split.labels).sum())
    return float(functional.cross_entropy(logits, split.labels)), hits / len(split)


# --- with the statistics of each image alone -------------------------------------------------------------------------


def images(num_images: int = 40) -> DeviceImages:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (num_images, 32, 32, 3), np.uint8)
    return DeviceImages(pixels, rng.integers(0, 10, num_images), "cpu")


def predictions(net: TinyNet, split: DeviceImages, *, own_statistics: bool) -> torch.Tensor:
    """Classify by formulas: each channel normalized by each image's own mean and variance, or by running ones."""
    with torch.no_grad():
        x = functional.conv2d(normalize(split.images), net.conv.weight, net.conv.bias, stride=4)
        mean, variance = (
            (x.mean((2, 3)), x.var((2, 3), unbiased=False))
            if own_statistics
            else (net.norm.running_mean, net.norm.running_var)
        )
        mean, variance = mean.view(-1, 8, 1, 1), variance.view(-1, 8, 1, 1)
        x = (x - mean) / (variance + net.norm.eps).sqrt()
        return net.head(x.relu().mean((2, 3))).argmax(1)


def test_statistics_are_those_of_each_image_and_nothing_is_left_behind() -> None:
    net, split = TinyNet().eval(), images()
    net.norm.running_mean += 3.0  # running statistics that mislead
    before = {name: value.clone() for name, value in net.state_dict().items()}
    own, running = (predictions(net, split, own_statistics=mode) for mode in (True, False))
    assert (own != running).any()
    split.labels = own.clone()
    split.labels[:10] = (own[:10] + 1) % 10  # ten wrong answers of forty
    assert batch_statistics_accuracy(net, split, "cpu", "fp32") == 0.75
    assert evaluate(net, split, "cpu", "fp32")[1] == (running == split.labels).float().mean().item()
    assert not net.training
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_only_the_first_images_are_counted(monkeypatch) -> None:
    monkeypatch.setattr("normbench.engine.evaluate.MAX_SINGLE_IMAGES", 8)
    net, split = TinyNet(), images()
    split.labels = predictions(net, split, own_statistics=True)
    split.labels[8:] = (split.labels[8:] + 1) % 10
    assert batch_statistics_accuracy(net, split, "cpu", "fp32") == 1.0
