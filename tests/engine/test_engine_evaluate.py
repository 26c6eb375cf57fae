"""Loss and accuracy against sums by hand, and the accuracy with the statistics of each image alone."""

import numpy as np
import pytest
import torch
from tiny_net import TinyNet, draw_images
from torch.nn import functional

from normbench.engine.batches import DeviceImages, normalize
from normbench.engine.evaluate import batch_statistics_accuracy, evaluate


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
