"""The shares of a step are those of the time that was spent where they say."""

import time

import pytest
import torch
from torch import nn
from torch.nn import functional

from normbench import NormResNet, make_norm
from normbench.bench.breakdown import profile_steps

PARTS = ("convolution", "norm_and_activation", "optimizer", "other")


class SlowFunction(torch.autograd.Function):
    """Sleeps as long as it is told, in the forward and the backward pass."""

    @staticmethod
    def forward(ctx, x, forward_seconds, backward_seconds):
        ctx.seconds = backward_seconds
        time.sleep(forward_seconds)
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        time.sleep(ctx.seconds)
        return grad, None, None


class SlowConv(nn.Conv2d):
    def forward(self, x):
        return SlowFunction.apply(super().forward(x), 0.06, 0.18)


class SlowReLU(nn.ReLU):
    def forward(self, x):
        return SlowFunction.apply(super().forward(x), 0.12, 0.06)


class SlowSGD(torch.optim.SGD):
    def step(self, closure=None):
        time.sleep(0.12)
        return super().step(closure)


def test_known_times_are_found_where_they_were_spent() -> None:
    model = nn.Sequential(SlowConv(3, 4, 3), SlowReLU(), nn.Flatten(), nn.Linear(144, 2))
    optimizer = SlowSGD(model.parameters(), lr=0.1)

    def step() -> None:
        optimizer.zero_grad()
        SlowFunction.apply(model(torch.rand(2, 3, 8, 8)), 0.03, 0.03).sum().backward()
        optimizer.step()

    shares = profile_steps(model, step, num_steps=1)
    # Of 0.60 seconds: 0.24, 0.18, 0.12 and 0.06.
    assert [getattr(shares, part) for part in PARTS] == pytest.approx([0.4, 0.3, 0.2, 0.1], abs=0.06)
    assert sum(getattr(shares, part) for part in PARTS) == pytest.approx(1)


@pytest.mark.parametrize("norm", ["bn", "frn", "none", "gn+ws"])
def test_every_norm_has_its_share_and_all_sum_to_one(norm: str) -> None:
    model = NormResNet(norm=make_norm(norm)).train()
    optimizer = torch.optim.Adam(model.parameters(), fused=True)
    images, labels = torch.rand(4, 3, 32, 32), torch.arange(4)

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = functional.cross_entropy(model(images), labels)
        loss.backward()
        optimizer.step()

    shares = profile_steps(model, step, num_steps=1)
    assert all(0 < getattr(shares, part) < 1 for part in PARTS)
    assert sum(getattr(shares, part) for part in PARTS) == pytest.approx(1)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
