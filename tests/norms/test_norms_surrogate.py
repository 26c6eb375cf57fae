"""Norms whose backward pass is not the derivative of their forward pass: both, step by step, against their papers."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from norm_cases import images
from norm_reference import Array
from torch import nn

from normbench.norms import NORMS, SEQUENCE_NORMS, make_norm, make_sequence_norm

CHANNELS, STEPS = 4, 12
Step = tuple[Array, Array]
"""A batch ``(N, C, H, W)``, and the gradient of a layer's output."""


def steps() -> list[Step]:
    return [
        (images(3, CHANNELS, 2, 3, seed=i).numpy(), images(3, CHANNELS, 2, 3, seed=99 + i).numpy())
        for i in range(STEPS)
    ]


def moving_average(given: list[Step], *, num_batches: int, warmup: int, momentum: float, eps: float) -> Iterator[Step]:
    """MABN (arXiv 2001.06838): outputs and gradients of the inputs."""
    squares: list[Array] = []
    products: list[Array] = []
    running = np.ones((1, CHANNELS, 1, 1))
    for step, (x, gradient) in enumerate(given, start=1):
        is_warm = step > num_batches and step >= warmup
        squares.append((x**2).mean((0, 2, 3), keepdims=True))
        average = np.mean(squares[-num_batches:], axis=0) if is_warm else squares[-1]
        root = np.sqrt(average + eps)
        r = np.clip(root / np.sqrt(running + eps), 0.2, 5) if step > 10 * warmup else 1.0
        running = (1 - momentum) * running + momentum * average
        y = x / root
        g = gradient * r
        products.append((g * y).mean((0, 2, 3), keepdims=True))
        product = np.mean(products[-num_batches:], axis=0) if is_warm else products[-1]
        yield y * r, (g - y * product) / root


def online(given: list[Step], *, decay: float, backward_decay: float, eps: float) -> Iterator[Step]:
    """Online Normalization (arXiv 1905.05894), without layer scaling, one sample at a time."""
    mu, var, u, v = np.zeros(CHANNELS), np.ones(CHANNELS), np.zeros(CHANNELS), np.zeros(CHANNELS)
    for x, gradient in given:
        outputs, inputs = [], []
        for sample, g in zip(x, gradient, strict=True):
            deviation = np.sqrt(var + eps)
            y = (sample - mu[:, None, None]) / deviation[:, None, None]
            own_mean, own_variance = sample.mean((1, 2)), sample.var((1, 2))
            var = decay * var + (1 - decay) * own_variance + decay * (1 - decay) * (own_mean - mu) ** 2
            mu = decay * mu + (1 - decay) * own_mean
            projected = g - (1 - backward_decay) * u[:, None, None] * y
            u = u + (projected * y).mean((1, 2))
            dx = projected / deviation[:, None, None] - (1 - backward_decay) * v[:, None, None]
            v = v + dx.mean((1, 2))
            outputs.append(y)
            inputs.append(dx)
        yield np.stack(outputs), np.stack(inputs)


def power(given: list[Step], *, warm_from: int, momentum: float, eps: float) -> Iterator[Step]:
    """PowerNorm (arXiv 2003.07845), without its first scaling; channels stand for features, positions for tokens."""
    running, u = np.ones((1, CHANNELS, 1, 1)), np.zeros((1, CHANNELS, 1, 1))
    for step, (x, gradient) in enumerate(given, start=1):
        own = (x**2).mean((0, 2, 3), keepdims=True)
        root = np.sqrt((running if step >= warm_from else own) + eps)
        running = (1 - momentum) * running + momentum * own if step >= warm_from else running + (own - running) / step
        y = x / root
        projected = gradient - momentum * u * y
        u = u + (projected * y).mean((0, 2, 3), keepdims=True)
        yield y, projected / root


def run(layer: nn.Module, given: list[Step], before: Callable[[int], None] = lambda step: None) -> Iterator[Step]:
    layer.double().train()
    for step, (x, gradient) in enumerate(given, start=1):
        before(step)
        inputs = torch.from_numpy(x).requires_grad_()
        output = layer(inputs)
        output.backward(torch.from_numpy(gradient))
        yield output.detach().numpy(), inputs.grad.numpy()


def assert_same(actual: Iterator[Step], expected: Iterator[Step]) -> None:
    for (y, dx), (expected_y, expected_dx) in zip(actual, expected, strict=True):
        np.testing.assert_allclose(y, expected_y, rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(dx, expected_dx, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("warmup", [0, 1, 6])
def test_mabn_averages_over_the_last_batches_once_it_is_warm(warmup: int) -> None:
    layer = make_norm("mabn", num_batches=3, warmup_steps=warmup, momentum=0.3)(CHANNELS)
    expected = moving_average(steps(), num_batches=3, warmup=warmup, momentum=0.3, eps=1e-5)
    assert_same(run(layer, steps()), expected)


def test_online_norm_takes_one_sample_after_the_other() -> None:
    layer = make_norm("online", decay=0.9, backward_decay=0.8, layer_scaling=False)(CHANNELS)
    assert_same(run(layer, steps()), online(steps(), decay=0.9, backward_decay=0.8, eps=1e-5))


def test_online_norm_does_not_depend_on_how_its_samples_are_batched() -> None:
    """Three batches of 4 samples or twelve of 1: the same outputs up to rounding."""
    x = images(12, CHANNELS, 2, 3)
    together, alone = (make_norm("online", decay=0.9)(CHANNELS).double() for _ in range(2))
    batches = torch.cat([together(part) for part in x.split(4)])
    torch.testing.assert_close(batches, torch.cat([alone(part) for part in x.split(1)]), rtol=1e-12, atol=1e-12)


def test_power_norm_divides_by_the_batches_before_once_it_is_warm() -> None:
    layer = make_sequence_norm("power", warmup=0.5, momentum=0.3)(CHANNELS).double()

    class AsImage(nn.Module):
        """The layer on images: a channel is a feature, a position a token."""

        def __init__(self) -> None:
            super().__init__()
            self.layer = layer

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y: torch.Tensor = self.layer(x.flatten(2).transpose(1, 2))
            return y.transpose(1, 2).view_as(x)

    def note(step: int) -> None:
        layer.before_step(torch.tensor((step - 1) / STEPS))

    given = steps()
    for x, _ in given:
        x /= np.sqrt((x**2).mean(1, keepdims=True))
    actual = list(run(AsImage(), given, note))
    expected = list(power(given, warm_from=STEPS // 2 + 1, momentum=0.3, eps=1e-5))
    for ((y, dx), (expected_y, expected_dx)), (x, _) in zip(zip(actual, expected, strict=True), given, strict=True):
        np.testing.assert_allclose(y, expected_y, rtol=2e-5)  # the eps of the first scaling
        along = (expected_dx * x).mean(1, keepdims=True) * x  # which the first scaling's gradient takes away
        np.testing.assert_allclose(dx, expected_dx - along, rtol=2e-4, atol=1e-4)


def test_every_norm_with_a_surrogate_gradient_is_here() -> None:
    entries = {**NORMS, **{f"sequence {name}": norm for name, norm in SEQUENCE_NORMS.items()}}
    assert {name for name, norm in entries.items() if norm.has_surrogate_gradient} == {
        "mabn",
        "online",
        "sequence power",
    }


def test_an_activation_in_place_leaves_the_backward_pass_alone() -> None:
    """Without a scale and layer scaling the result itself goes into the ReLU."""
    layer = make_norm("online", affine=False, layer_scaling=False, decay=0.9).norm_act(CHANNELS).double()
    x = images(3, CHANNELS, 2, 3).requires_grad_()
    y = layer(x)
    y.sum().backward()
    alone = make_norm("online", affine=False, layer_scaling=False, decay=0.9)(CHANNELS).double()
    expected = images(3, CHANNELS, 2, 3).requires_grad_()
    alone(expected).backward((y > 0).double())
    assert torch.equal(x.grad, expected.grad)
