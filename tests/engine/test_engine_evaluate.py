"""Loss and accuracy against sums by hand."""

import pytest
import torch
from tiny_net import TinyNet, draw_images
from torch.nn import functional

from normbench.engine.batches import DeviceImages
from normbench.engine.evaluate import evaluate


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
